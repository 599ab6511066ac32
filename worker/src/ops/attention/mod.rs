//! Causal attention within each document, with rotary embedding and grouped-query heads (Ainslie et al. 2023).
//!
//! ```text
//! rows [T, H E] --split, rotate--> heads [H, T, E] --attend--> [H, T, E] --merge--> rows [T, H E]
//! ```
//!
//! Only the rows and the log-sum-exps are saved; the backward splits and rotates again.

mod cache;

use super::array::Array;
use super::error::{Result, expect_shape};
use super::placement::{Placement, Rotary};
use super::tape::{Backward, Op, Tape, Value};
use crate::device::{Buffer, Dtype, Window};
use crate::kernels::{Attended, Attention, Heads, Kernels, Onto, Spans, Turn};
use std::sync::Arc;

pub use cache::KvCache;

/// Checks that queries, keys and values have the shapes that `a` requires.
fn check(a: &Attention, [q, k, v]: [&Value; 3]) -> Result<()> {
    let kv_width = a.kv_heads * a.head_dim;
    let expected = [a.heads * a.head_dim, kv_width, kv_width];
    let got = [q.cols(), k.cols(), v.cols()];
    let grouped = a.kv_heads > 0 && a.heads.is_multiple_of(a.kv_heads);
    let fits = grouped && got == expected && q.rows() == k.rows() && q.rows() == v.rows();
    expect_shape(
        "attention",
        fits,
        || {
            format!(
                "queries, keys and values of {expected:?} features, heads divisible into groups"
            )
        },
        || format!("{got:?} features, {} and {} heads", a.heads, a.kv_heads),
    )
}

/// Splits rows into heads `[H, T, E]`, rotated and scaled by `turn`.
fn split(kernels: &dyn Kernels, x: &Array, head_dim: usize, turn: Turn<'_>) -> Buffer {
    let heads = Heads { heads: x.cols() / head_dim, head_dim };
    let mut y = kernels.device().take(x.dtype(), x.rows() * x.cols());
    kernels.split_heads(y.all_mut(), x.all(), heads, turn);
    y
}

/// Rotated and scaled queries, rotated keys, and values, by head.
fn split_all(
    kernels: &dyn Kernels,
    [q, k, v]: [&Value; 3],
    a: &Attention,
    (rotary, positions): (&Rotary, &Buffer),
) -> [Buffer; 3] {
    let turn = |scale| rotary.turn(positions, scale);
    [(q, turn(a.scale)), (k, turn(1.)), (v, Turn::NONE)]
        .map(|(x, turn)| split(kernels, &x.array, a.head_dim, turn))
}

/// Computes the attention of queries that are split by head; the result is rows `[T, H E]`.
fn attend(
    kernels: &dyn Kernels,
    qkv: [Window<'_>; 3],
    log_sums: &mut Buffer,
    shape: (&Attention, &Spans),
) -> Array {
    let Attention { heads, head_dim, .. } = *shape.0;
    let device = kernels.device();
    let dtype = qkv[0].dtype();
    let mut o = device.take(dtype, qkv[0].len());
    kernels.attend(o.all_mut(), log_sums.all_mut(), qkv, shape);
    let width = heads * head_dim;
    let mut y = Array::take(device, dtype, qkv[0].len() / width, width);
    kernels.merge_heads(y.out(Onto::Fresh), o.all(), Heads { heads, head_dim }, Turn::NONE);
    y
}

impl Tape<'_> {
    /// Attention of every row to the earlier rows of its document and to itself: `[T, H E]`.
    ///
    /// Queries are `[T, H E]`, keys and values `[T, K E]`, all before rotation.
    ///
    /// # Errors
    /// [`super::Error::Shape`] if the shapes do not match; [`super::Error::Position`] if a document is longer than
    /// the rotary tables.
    pub fn attention(
        &self,
        qkv: [&Value; 3],
        place: &Arc<Placement>,
        a: &Attention,
    ) -> Result<Value> {
        check(a, qkv)?;
        let rows = place.documents.rows();
        let expected = || format!("{rows} rows, the total of the documents");
        expect_shape("attention", qkv[0].rows() == rows, expected, || qkv[0].rows().to_string())?;
        place.rotary.check(a.head_dim, place.documents.longest())?;

        let heads = split_all(self.kernels(), qkv, a, (&place.rotary, &place.positions));
        let mut log_sums = self.device().take(Dtype::F32, rows * a.heads);
        let windows = heads.each_ref().map(Buffer::all);
        let y = attend(self.kernels(), windows, &mut log_sums, (a, &place.spans));
        let inputs = qkv.map(Value::clone);
        Ok(self.push(y, &qkv, &[], |y| Attend {
            inputs,
            y: y.clone(),
            log_sums,
            place: place.clone(),
            a: *a,
        }))
    }
}

struct Attend {
    inputs: [Value; 3],
    y: Arc<Array>,
    /// Log-sum-exps `[H, T]`.
    log_sums: Buffer,
    place: Arc<Placement>,
    a: Attention,
}

impl Op for Attend {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn saved_bytes(&self) -> usize {
        let arrays = self.inputs.iter().map(|x| x.array.bytes()).sum::<usize>();
        arrays + self.y.bytes() + self.log_sums.bytes()
    }

    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        let Self { inputs, y, log_sums, place, a } = *self;
        let kernels = flow.kernels();
        let positions = (&*place.rotary, &place.positions);
        let heads = split_all(kernels, inputs.each_ref(), &a, positions);
        let dy_heads = split(kernels, &dy, a.head_dim, Turn::NONE);
        drop(dy);

        let take = || kernels.device().take(dy_heads.dtype(), dy_heads.len());
        let mut gradients = [take(), take(), take()];
        let of = Attended {
            qkv: heads.each_ref().map(Buffer::all),
            y: y.all(),
            log_sums: log_sums.all(),
        };
        let windows = gradients.each_mut().map(Buffer::all_mut);
        kernels.attend_back(windows, dy_heads.all(), of, (&a, &place.spans));
        drop((heads, dy_heads));

        let turns = [place.turn(a.scale), place.turn(1.), Turn::NONE];
        for ((input, gradient), turn) in inputs.iter().zip(gradients).zip(turns) {
            let mut dx = flow.open(input.grad);
            if let Some(dx) = &mut dx {
                let heads = Heads { heads: a.heads, head_dim: a.head_dim };
                kernels.merge_heads(dx.out(), gradient.all(), heads, turn);
            }
            flow.close(input.grad, dx);
        }
        Ok(())
    }
}
