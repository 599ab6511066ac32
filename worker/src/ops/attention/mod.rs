//! Causal attention per document, rotary embedding included, with grouped heads (Ainslie et al.
//! 2023).
//!
//! ```text
//! rows [T, H E] --split, rotate--> heads [H, T, E] --tasks--> [H, T, E] --merge--> rows [T, H E]
//! ```
//!
//! A task ([`head`]) takes its queries block by block, each against all the keys that it sees. Only
//! the logarithms of the sums of exponentials are kept; the backward computes the probabilities
//! again (Dao et al. 2022). A query head's part of its key head's gradient is computed on its own,
//! then the parts are summed in order.

mod cache;
mod head;
mod heads;

use std::{ops::Range, sync::Arc};

use rayon::prelude::*;

use super::{
    array::Array,
    error::{Result, expect_shape},
    kernel::{dot, vectorized},
    pool,
    rotary::{Documents, Rotary, Turn, merge_heads, split_heads},
    tape::{Backward, Onto, Op, Partial, Tape, Value},
};
use head::{Rows, attend, attend_backward};
use heads::Heads;

pub use cache::KvCache;

/// The shape of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Features per head.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How many keys a query sees at most, itself included; `None` for all before it.
    pub window: Option<usize>,
}

impl Attention {
    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn check(&self, q: &Value, k: &Value, v: &Value) -> Result<()> {
        let kv_width = self.kv_heads * self.head_dim;
        let expected = [self.heads * self.head_dim, kv_width, kv_width];
        let got = [q.cols(), k.cols(), v.cols()];
        let grouped = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        let fits = grouped && got == expected && q.rows() == k.rows() && q.rows() == v.rows();
        expect_shape(
            "attention",
            fits,
            || format!("queries, keys and values of {expected:?} features, heads in whole groups"),
            || format!("{got:?} features, {} and {} heads", self.heads, self.kv_heads),
        )
    }

    /// The first of the keys that the query at `position` sees.
    fn first_key(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The queries at these positions, in blocks, each with the keys that some of its queries see.
    fn blocks(
        &self,
        positions: Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let starts = positions.clone().step_by(head::BLOCK_ROWS);
        starts.map(move |start| {
            let end = positions.end.min(start + head::BLOCK_ROWS);
            (start..end, self.first_key(start)..end)
        })
    }
}

impl Tape<'_> {
    /// Attention of every row to the rows before it in its document, and to itself: `[T, H E]`.
    ///
    /// `q` is `[T, H E]`, `k` and `v` are `[T, K E]`, before rotation.
    ///
    /// # Errors
    /// [`super::Error::Shape`] if they do not fit; [`super::Error::Position`] if a document is
    /// longer than the tables.
    pub fn attention(
        &self,
        q: &Value,
        k: &Value,
        v: &Value,
        (rotary, docs): (&Arc<Rotary>, &Arc<Documents>),
        a: &Attention,
    ) -> Result<Value> {
        a.check(q, k, v)?;
        let rows = docs.rows();
        let expected = || format!("{rows} rows, as the documents have");
        expect_shape("attention", q.rows() == rows, expected, || q.rows().to_string())?;
        rotary.check(a.head_dim, docs.iter().map(|doc| doc.len()).max().unwrap_or(0))?;

        let heads = Heads::split(a, rotary, docs, [q, k, v]);
        let mut o = pool::take(rows * a.heads * a.head_dim);
        let mut log_sums = vec![0f32; rows * a.heads];
        let mut tasks = Vec::new();
        let (mut o_rest, mut sums_rest) = (&mut o[..], &mut log_sums[..]);
        for head in 0..a.heads {
            for doc in docs.iter() {
                let o = cut(&mut o_rest, doc.len() * a.head_dim);
                let sums = cut(&mut sums_rest, doc.len());
                tasks.push((head, doc, o, sums));
            }
        }
        tasks.into_par_iter().with_max_len(1).for_each(|(head, doc, o, sums)| {
            attend(a, (heads.queries(head, &doc), doc.len()), heads.keys(head, &doc), o, sums);
        });
        heads.give();

        let mut y = pool::take(o.len());
        merge_heads(&mut y, Onto::Fresh, &o, (a.head_dim, 1), rows, Turn::NONE);
        pool::give(o);
        let y = Array::new(y, rows, a.heads * a.head_dim)?;
        Ok(self.push(y, &[q, k, v], &[], |y| Attend {
            inputs: [q.clone(), k.clone(), v.clone()],
            y: y.clone(),
            log_sums,
            rotary: rotary.clone(),
            docs: docs.clone(),
            a: *a,
        }))
    }
}

/// Cuts the first `len` elements off.
fn cut<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

struct Attend {
    inputs: [Value; 3],
    y: Arc<Array>,
    /// `[H, T]`.
    log_sums: Vec<f32>,
    rotary: Arc<Rotary>,
    docs: Arc<Documents>,
    a: Attention,
}

impl Op for Attend {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn saved_bytes(&self) -> usize {
        let arrays = self.inputs.iter().map(|x| x.array.bytes()).sum::<usize>();
        arrays + self.y.bytes() + size_of_val(&self.log_sums[..])
    }

    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        let Self { inputs, y, log_sums, rotary, docs, a } = *self;
        let (rows, width) = (docs.rows(), a.head_dim);
        let heads = Heads::split(&a, &rotary, &docs, inputs.each_ref());
        let dy_heads = split_heads(&dy.read(), a.heads, width, Turn::NONE);
        drop(dy);
        let v_t = heads.transposed_values();
        let y = y.read();
        let y: &[f32] = &y;

        let size = rows * a.heads * width;
        let mut grads = [pool::take(size), pool::take(size), pool::take(size)];
        let mut rest = grads.each_mut().map(|grad| &mut grad[..]);
        let mut tasks = Vec::new();
        for head in 0..a.heads {
            for doc in docs.iter() {
                let parts = rest.each_mut().map(|rest| cut(rest, doc.len() * width));
                tasks.push((head, doc, parts));
            }
        }
        tasks.into_par_iter().with_max_len(1).for_each(|(head, doc, parts)| {
            let dy = &dy_heads[heads.part(head, &doc)];
            let stride = a.heads * width;
            let ys = y[doc.start * stride..doc.end * stride].chunks_exact(stride);
            let means: Vec<_> = ys
                .zip(dy.chunks_exact(width))
                .map(|(y, dy)| vectorized(|| dot(&y[head * width..][..width], dy)))
                .collect();
            let queries = Rows {
                q: heads.queries(head, &doc),
                dy,
                log_sums: &log_sums[head * rows + doc.start..],
                means: &means,
            };
            attend_backward(&a, queries, heads.all_keys(head, &doc, &v_t), parts);
        });
        heads.give();
        [dy_heads, v_t].into_iter().for_each(pool::give);

        let positions = docs.positions();
        let turn = |scale| Turn { rotary: Some((&rotary, &positions)), scale };
        let turns = [(1, turn(a.scale)), (a.group(), turn(1.)), (a.group(), Turn::NONE)];
        for ((input, grad), (group, turn)) in inputs.iter().zip(grads).zip(turns) {
            let mut dx = flow.open(input);
            if let Some(Partial { data, onto }) = &mut dx {
                merge_heads(data, *onto, &grad, (width, group), rows, turn);
            }
            flow.close(input, dx)?;
            pool::give(grad);
        }
        Ok(())
    }
}
