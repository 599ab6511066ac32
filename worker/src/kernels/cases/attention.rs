//! Cases of attention: documents, windows and cached keys.

use super::case::{Case, Expected, Output, input};
use super::near::Near;
use super::numbers::{Numbers, rounded};
use super::reference::attention::{Computed, attend, attend_back};
use super::reference::{self, Turned};
use crate::device::Dtype;
use crate::kernels::{Attended, Attention, Heads, Span, Spans};
use std::ops::Range;

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let mut numbers = Numbers::new(6);
    let mut cases = Vec::new();
    for (shape, lens) in documents() {
        let setting = Setting::of_documents(shape, &lens);
        cases.push(attended(&mut numbers, dtype, &setting, 2.));
        cases.push(differentiated(&mut numbers, dtype, &setting, 2.));
    }
    for setting in partial() {
        cases.push(attended(&mut numbers, dtype, &setting, 2.));
    }
    // Scores in the thousands, whose exponentials are not finite.
    let setting = Setting::of_documents(shape([4, 2, 8], None), &[60, 1, 7]);
    cases.push(attended(&mut numbers, dtype, &setting, 100.));
    cases.push(differentiated(&mut numbers, dtype, &setting, 30.));
    cases
}

/// Queries are scaled already. If the kernel scaled the scores again, this factor would change the result.
const SCALE: f32 = 3.;

fn shape([heads, kv_heads, head_dim]: [usize; 3], window: Option<usize>) -> Attention {
    Attention { heads, kv_heads, head_dim, scale: SCALE, window }
}

/// Shapes and lengths of documents: no document, empty ones, of one row, of several blocks of queries.
fn documents() -> Vec<(Attention, Vec<usize>)> {
    vec![
        (shape([2, 1, 8], None), vec![]),
        (shape([1, 1, 1], None), vec![1]),
        (shape([1, 1, 8], None), vec![0, 1, 5, 0, 50]),
        (shape([4, 2, 16], None), vec![100, 3]),
        (shape([4, 1, 20], None), vec![97, 0, 49]),
        (shape([3, 3, 7], None), vec![48, 96, 1]),
        (shape([2, 2, 64], None), vec![130]),
        (shape([2, 1, 6], Some(1)), vec![70]),
        (shape([4, 2, 8], Some(7)), vec![120, 1, 3]),
        (shape([1, 1, 16], Some(64)), vec![150, 64]),
        (shape([2, 1, 8], Some(500)), vec![60, 2]),
        // More groups than heads in each, and more keys than a GPU's block has threads.
        (shape([6, 3, 8], None), vec![40, 9]),
        (shape([1, 1, 4], None), vec![300]),
        (shape([1, 1, 4], Some(280)), vec![300]),
    ]
}

/// Spans that do not cover all rows, and spans with fewer queries than keys.
fn partial() -> Vec<Setting> {
    let span = |queries, keys| Span { queries, keys };
    let same = |rows: Range<usize>| span(rows.clone(), rows);
    let of = |shape, rows, spans| Setting { shape, rows, spans };
    vec![
        of(shape([4, 2, 8], None), [30, 30], vec![same(3..10), same(15..28)]),
        of(shape([2, 1, 8], None), [4, 4], vec![]),
        of(shape([4, 1, 16], None), [1, 90], vec![span(0..1, 0..70)]),
        of(shape([2, 1, 8], None), [3, 40], vec![span(0..3, 0..40)]),
        of(shape([4, 2, 12], None), [2, 64], vec![span(0..1, 0..33), span(1..2, 33..60)]),
        of(shape([2, 2, 8], None), [60, 130], vec![span(0..60, 20..125)]),
        of(shape([2, 1, 8], Some(9)), [60, 130], vec![span(0..55, 0..110), span(55..60, 110..121)]),
        of(shape([2, 1, 8], Some(9)), [1, 50], vec![span(0..1, 0..50)]),
        // Keys in another order than the queries and in other rows; keys without queries.
        of(shape([4, 2, 8], None), [5, 60], vec![span(0..2, 30..47), span(2..5, 11..20)]),
        of(shape([2, 1, 8], None), [50, 90], vec![span(0..50, 30..80), span(50..50, 0..7)]),
    ]
}

/// An attention, and the rows that attend to each other.
struct Setting {
    shape: Attention,
    /// Numbers of rows of queries and of keys.
    rows: [usize; 2],
    spans: Vec<Span>,
}

impl Setting {
    fn of_documents(shape: Attention, lens: &[usize]) -> Self {
        let mut spans = Vec::new();
        let mut end = 0;
        for len in lens {
            let rows = end..end + len;
            end = rows.end;
            spans.push(Span { queries: rows.clone(), keys: rows });
        }
        Self { shape, rows: [end; 2], spans }
    }

    fn about(&self) -> String {
        let Attention { heads, kv_heads, head_dim, window, .. } = self.shape;
        let spans: Vec<_> = self.spans.iter().map(|s| (&s.queries, &s.keys)).collect();
        format!("{heads} heads on {kv_heads} of {head_dim}, window {window:?}, {spans:?}")
    }

    /// Queries and keys up to `size`, and values up to 2; NaN in rows outside all spans.
    fn qkv(&self, numbers: &mut Numbers, dtype: Dtype, size: f64) -> [Vec<f64>; 3] {
        let Attention { heads, kv_heads, head_dim, .. } = self.shape;
        let [queries, keys] = self.rows;
        let mut within = |size, heads, rows, used: &dyn Fn(usize) -> bool| {
            let mut x = numbers.within(size, dtype, heads * rows * head_dim);
            for (i, row) in x.chunks_mut(head_dim).enumerate() {
                if !used(i % rows) {
                    row.fill(f64::NAN);
                }
            }
            x
        };
        let query = |row: usize| self.spans.iter().any(|span| span.queries.contains(&row));
        let key = |row: usize| self.spans.iter().any(|span| span.keys.contains(&row));
        [
            within(size, heads, queries, &query),
            within(size, kv_heads, keys, &key),
            within(2., kv_heads, keys, &key),
        ]
    }
}

fn attended(numbers: &mut Numbers, dtype: Dtype, setting: &Setting, size: f64) -> Case {
    let qkv = setting.qkv(numbers, dtype, size);
    let of = qkv.each_ref().map(|x| &x[..]);
    let result = attend(of, dtype, (&setting.shape, &setting.spans));
    let mut output = |dtype, result: Vec<Option<Near>>| {
        // Elements that must stay unchanged start as numbers; the others start as NaN, which must not matter.
        let kept = numbers.within(1., dtype, result.len());
        let pairs = result.into_iter().zip(kept);
        let pairs = pairs.map(|(result, kept)| match result {
            Some(near) => (f64::NAN, Expected::Near(near)),
            None => (kept, Expected::Same(kept)),
        });
        let (start, expected): (Vec<f64>, Vec<Expected>) = pairs.unzip();
        Output::of(dtype, start, expected)
    };
    let outs = [output(dtype, result.o), output(Dtype::F32, result.log_sums)];
    let ins = qkv.each_ref().map(|x| input(dtype, x));
    let about = format!("{}, up to {size}", setting.about());
    let (shape, spans, rows) = (setting.shape, setting.spans.clone(), setting.rows[0]);
    Case::new("attend", about, ins, outs, move |k, qkv, [o, log_sums]| {
        let spans = Spans::new(k.device(), rows, spans.clone());
        k.attend(o, log_sums, qkv, (&shape, &spans));
    })
}

/// The case of the backward, whose inputs are the rounded output and log-sum-exps of the reference.
fn differentiated(numbers: &mut Numbers, dtype: Dtype, setting: &Setting, size: f64) -> Case {
    let qkv = setting.qkv(numbers, dtype, size);
    let of = qkv.each_ref().map(|x| &x[..]);
    let dy = numbers.within(1., dtype, qkv[0].len());
    let (shape, spans, rows) = (setting.shape, setting.spans.clone(), setting.rows[0]);
    let result = attend(of, dtype, (&shape, &spans));
    let values = |x: Vec<Option<Near>>, dtype| -> Vec<f64> {
        x.iter().map(|x| rounded(x.map_or(f64::NAN, |x| x.value), dtype)).collect()
    };
    let log_sums = values(result.log_sums, Dtype::F32);
    let heads = Heads { heads: shape.heads, head_dim: shape.head_dim };
    let y = reference::merge_heads(&values(result.o, dtype), heads, 1, &Turned::NONE);
    let y: Vec<f64> = y.iter().map(|y| y.value).collect();

    let computed = Computed { qkv: of, y: &y, log_sums: &log_sums };
    let gradients = attend_back(&dy, computed, dtype, (&shape, &spans));
    let outs = gradients.map(|gradient| Output::fresh(dtype, gradient));
    let [q, k, v] = qkv.each_ref().map(|x| input(dtype, x));
    let ins = [q, k, v, input(dtype, &dy), input(dtype, &y), input(Dtype::F32, &log_sums)];
    let about = format!("{}, up to {size}", setting.about());
    Case::new("attend_back", about, ins, outs, move |kernels, ins, gradients| {
        let [q, k, v, dy, y, log_sums] = ins;
        let of = Attended { qkv: [q, k, v], y, log_sums };
        let spans = Spans::new(kernels.device(), rows, spans.clone());
        kernels.attend_back(gradients, dy, of, (&shape, &spans));
    })
}
