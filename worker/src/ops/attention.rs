//! Causal attention per document, rotary embedding included, with grouped heads (Ainslie et al.
//! 2023).
//!
//! ```text
//! q, k, v rows [T, H E]  --split, rotate-->  heads [H, T, E]  --(head, document) tasks-->  [H, T, E]  --merge-->  [T, H E]
//! ```
//!
//! A task takes its queries block by block, each against all the keys that it sees. Only the
//! logarithms of the sums of exponentials are kept; the backward computes the probabilities again
//! (Dao et al. 2022). A query head's part of its key head's gradient is computed on its own, then
//! the parts are summed in order.

use std::{ops::Range, sync::Arc};

use rayon::prelude::*;

use super::{
    array::Array,
    error::{Result, expect_shape},
    kernel::{self, Matrix, MatrixMut, dot, gemm, vectorized},
    pool,
    rotary::{Documents, Rotary, Turn, merge_heads, split_heads},
    tape::{Backward, Onto, Op, Partial, Tape, Value},
};

/// Queries that are taken at once.
const BLOCK_ROWS: usize = 64;

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
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    pub(super) fn check(&self, q: &Value, k: &Value, v: &Value) -> Result<()> {
        let kv_width = self.kv_heads * self.head_dim;
        let expected = [self.heads * self.head_dim, kv_width, kv_width];
        let got = [q.cols(), k.cols(), v.cols()];
        let grouped = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        let fits = grouped && got == expected && q.rows() == k.rows() && q.rows() == v.rows();
        expect_shape(
            "attention",
            fits,
            || format!("queries, keys and values of {expected:?} features, heads in whole groups"),
            || {
                format!(
                    "{got:?} features, {} and {} heads",
                    self.heads, self.kv_heads
                )
            },
        )
    }

    /// The first of the keys that the query at `position` sees.
    fn first_key(&self, position: usize) -> usize {
        self.window
            .map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The queries at these positions, in blocks, each with the keys that some of its queries see.
    fn blocks(
        &self,
        positions: Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let starts = positions.clone().step_by(BLOCK_ROWS);
        starts.map(move |start| {
            let end = positions.end.min(start + BLOCK_ROWS);
            (start..end, self.first_key(start)..end)
        })
    }
}

/// One head's keys and values `[rows, E]`, from position 0 on.
#[derive(Clone, Copy)]
pub(super) struct HeadKeys<'a> {
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
}

/// Attention of one head's queries `q` `[n, E]`, rotated and scaled, the last n positions of
/// `keys`: writes `o` `[n, E]` and each query's log of the sum of exponentials.
pub(super) fn attend(
    a: &Attention,
    q: &[f32],
    keys: HeadKeys<'_>,
    o: &mut [f32],
    log_sums: &mut [f32],
) {
    let width = a.head_dim;
    let (rows, end) = (q.len() / width, keys.k.len() / width);
    let first = end - rows;
    for (queries, seen) in a.blocks(first..end) {
        let (n, m) = (queries.len(), seen.len());
        let own = queries.start - first..queries.end - first;
        let features = |rows: &Range<usize>| rows.start * width..rows.end * width;
        let k = Matrix::new(&keys.k[features(&seen)], m, width);
        let v = Matrix::new(&keys.v[features(&seen)], m, width);

        let mut p = pool::take(n * m);
        let q = Matrix::new(&q[features(&own)], n, width);
        gemm(MatrixMut::new(&mut p, n, m), Onto::Fresh, q, k.t());
        let mut sums = [0f32; BLOCK_ROWS];
        vectorized(|| {
            for (i, (p, sum)) in p.chunks_exact_mut(m).zip(&mut sums).enumerate() {
                let position = queries.start + i;
                let visible = a.first_key(position) - seen.start..position + 1 - seen.start;
                let largest;
                (largest, *sum) = kernel::exponentials(p, visible);
                log_sums[own.start + i] = largest + sum.ln();
            }
        });
        let o = &mut o[features(&own)];
        gemm(
            MatrixMut::new(o, n, width),
            Onto::Fresh,
            Matrix::new(&p, n, m),
            v,
        );
        vectorized(|| {
            for (o, sum) in o.chunks_exact_mut(width).zip(sums) {
                let r = 1. / sum;
                o.iter_mut().for_each(|o| *o *= r);
            }
        });
        pool::give(p);
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
        expect_shape("attention", q.rows() == rows, expected, || {
            q.rows().to_string()
        })?;
        rotary.check(
            a.head_dim,
            docs.iter().map(|doc| doc.len()).max().unwrap_or(0),
        )?;

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
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|(head, doc, o, sums)| {
                attend(
                    a,
                    heads.queries(head, &doc),
                    heads.keys(head, &doc),
                    o,
                    sums,
                );
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

/// Queries, keys and values by head, `[H, T, E]` and twice `[K, T, E]`; queries rotated and scaled,
/// keys rotated.
struct Heads<'a> {
    a: &'a Attention,
    rows: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl<'a> Heads<'a> {
    fn split(a: &'a Attention, rotary: &Rotary, docs: &Documents, [q, k, v]: [&Value; 3]) -> Self {
        let positions = docs.positions();
        let turned = |scale| Turn {
            rotary: Some((rotary, &positions)),
            scale,
        };
        Self {
            a,
            rows: docs.rows(),
            q: split_heads(&q.array.read(), a.heads, a.head_dim, turned(a.scale)),
            k: split_heads(&k.array.read(), a.kv_heads, a.head_dim, turned(1.)),
            v: split_heads(&v.array.read(), a.kv_heads, a.head_dim, Turn::NONE),
        }
    }

    fn queries(&self, head: usize, doc: &Range<usize>) -> &[f32] {
        self.part(&self.q, head, doc)
    }

    /// The keys and values that serve query head `head`.
    fn keys(&self, head: usize, doc: &Range<usize>) -> HeadKeys<'_> {
        let head = head / self.a.group();
        HeadKeys {
            k: self.part(&self.k, head, doc),
            v: self.part(&self.v, head, doc),
        }
    }

    fn part<'x>(&self, x: &'x [f32], head: usize, doc: &Range<usize>) -> &'x [f32] {
        &x[(head * self.rows + doc.start) * self.a.head_dim..][..doc.len() * self.a.head_dim]
    }

    fn give(self) {
        [self.q, self.k, self.v].into_iter().for_each(pool::give);
    }
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
        let Self {
            inputs,
            y,
            log_sums,
            rotary,
            docs,
            a,
        } = *self;
        let (rows, width) = (docs.rows(), a.head_dim);
        let heads = Heads::split(&a, &rotary, &docs, inputs.each_ref());
        let dy_heads = split_heads(&dy.read(), a.heads, width, Turn::NONE);
        drop(dy);
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
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|(head, doc, [dq, dk, dv])| {
                let (q, keys) = (heads.queries(head, &doc), heads.keys(head, &doc));
                let dy = heads.part(&dy_heads, head, &doc);
                let stride = a.heads * width;
                let parts = y[doc.start * stride..doc.end * stride].chunks_exact(stride);
                let means: Vec<_> = parts
                    .zip(dy.chunks_exact(width))
                    .map(|(y, dy)| vectorized(|| dot(&y[head * width..][..width], dy)))
                    .collect();
                let rows = Rows {
                    dy,
                    log_sums: &log_sums[head * rows + doc.start..],
                    means: &means,
                };
                attend_backward(&a, q, keys, rows, [dq, dk, dv]);
            });
        heads.give();
        pool::give(dy_heads);

        let positions = docs.positions();
        let turn = |scale| Turn {
            rotary: Some((&rotary, &positions)),
            scale,
        };
        let turns = [
            (1, turn(a.scale)),
            (a.group(), turn(1.)),
            (a.group(), Turn::NONE),
        ];
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

/// What the backward knows of each query of one head.
struct Rows<'a> {
    /// Gradients of the outputs `[n, E]`.
    dy: &'a [f32],
    log_sums: &'a [f32],
    /// Scalar products of output and its gradient.
    means: &'a [f32],
}

/// Gradients of one head's rotated queries, keys and values. With P the probabilities and D the
/// means: `dV = P^T dO`, `dS = P (dO V^T - D)`, `dQ = dS K`, `dK = dS^T Q`.
fn attend_backward(
    a: &Attention,
    q: &[f32],
    keys: HeadKeys<'_>,
    rows: Rows<'_>,
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    let width = a.head_dim;
    let features = |rows: &Range<usize>| rows.start * width..rows.end * width;
    dk.fill(0.);
    dv.fill(0.);
    for (queries, seen) in a.blocks(0..q.len() / width) {
        let (n, m) = (queries.len(), seen.len());
        let q = Matrix::new(&q[features(&queries)], n, width);
        let k = Matrix::new(&keys.k[features(&seen)], m, width);
        let v = Matrix::new(&keys.v[features(&seen)], m, width);
        let dy = Matrix::new(&rows.dy[features(&queries)], n, width);

        let (mut p, mut ds) = (pool::take(n * m), pool::take(n * m));
        gemm(MatrixMut::new(&mut p, n, m), Onto::Fresh, q, k.t());
        gemm(MatrixMut::new(&mut ds, n, m), Onto::Fresh, dy, v.t());
        vectorized(|| {
            for (i, (p, ds)) in p
                .chunks_exact_mut(m)
                .zip(ds.chunks_exact_mut(m))
                .enumerate()
            {
                let position = queries.start + i;
                let visible = a.first_key(position) - seen.start..position + 1 - seen.start;
                let (log_sum, mean) = (rows.log_sums[position], rows.means[position]);
                for x in [&mut *p, &mut *ds] {
                    x[..visible.start].fill(0.);
                    x[visible.end..].fill(0.);
                }
                for (p, ds) in p[visible.clone()].iter_mut().zip(&mut ds[visible]) {
                    *p = kernel::exp(*p - log_sum);
                    *ds = *p * (*ds - mean);
                }
            }
        });
        let (p_matrix, ds_matrix) = (Matrix::new(&p, n, m), Matrix::new(&ds, n, m));
        let part = |x| MatrixMut::new(x, m, width);
        gemm(part(&mut dv[features(&seen)]), Onto::Sum, p_matrix.t(), dy);
        gemm(part(&mut dk[features(&seen)]), Onto::Sum, ds_matrix.t(), q);
        let dq = MatrixMut::new(&mut dq[features(&queries)], n, width);
        gemm(dq, Onto::Fresh, ds_matrix, k);
        pool::give(p);
        pool::give(ds);
    }
}
