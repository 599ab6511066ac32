//! Reference implementation of attention: one query at a time, over the keys that it attends to.

use crate::device::Dtype;
use crate::kernels::cases::near::{Near, Sum};
use crate::kernels::{Attention, Span};

/// Heads `[heads, rows, E]`.
#[derive(Clone, Copy)]
struct Heads<'a> {
    data: &'a [f64],
    rows: usize,
    head_dim: usize,
}

impl<'a> Heads<'a> {
    fn new(data: &'a [f64], heads: usize, head_dim: usize) -> Self {
        Self { data, rows: data.len() / (heads * head_dim), head_dim }
    }

    fn start(self, head: usize, row: usize) -> usize {
        (head * self.rows + row) * self.head_dim
    }

    fn row(self, head: usize, row: usize) -> &'a [f64] {
        &self.data[self.start(head, row)..][..self.head_dim]
    }
}

fn dot(a: &[f64], b: &[f64]) -> Near {
    Near::sum(a.iter().zip(b).map(|(a, b)| Near::exact(*a) * *b))
}

/// Calls `each(head, row of the query, rows of its keys)` for every query of every head.
fn for_each_query(
    (shape, spans): (&Attention, &[Span]),
    mut each: impl FnMut(usize, usize, std::ops::Range<usize>),
) {
    for head in 0..shape.heads {
        for Span { queries, keys } in spans {
            for query in queries.clone() {
                let position = keys.len() - (queries.end - query);
                let first = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
                each(head, query, keys.start + first..keys.start + position + 1);
            }
        }
    }
}

/// The results of attention; elements of rows outside all spans are `None`.
pub(in crate::kernels::cases) struct Attended {
    /// The output `[H, T, E]`.
    pub(in crate::kernels::cases) o: Vec<Option<Near>>,
    /// Log-sum-exps `[H, T]`.
    pub(in crate::kernels::cases) log_sums: Vec<Option<Near>>,
}

/// Attention of already scaled queries. A probability may be rounded to `dtype` before it is multiplied by values,
/// since matrix units accept no other type.
pub(in crate::kernels::cases) fn attend(
    [q, k, v]: [&[f64]; 3],
    dtype: Dtype,
    shape: (&Attention, &[Span]),
) -> Attended {
    let Attention { heads, kv_heads, head_dim, .. } = *shape.0;
    let group = heads / kv_heads;
    let q = Heads::new(q, heads, head_dim);
    let [k, v] = [k, v].map(|x| Heads::new(x, kv_heads, head_dim));
    let mut o = vec![None; q.data.len()];
    let mut log_sums = vec![None; heads * q.rows];
    for_each_query(shape, |head, query, keys| {
        let scores: Vec<Near> =
            keys.clone().map(|key| dot(q.row(head, query), k.row(head / group, key))).collect();
        let largest = scores.iter().copied().max_by(|a, b| a.value.total_cmp(&b.value));
        let largest = largest.expect("a query attends to itself");
        let exps: Vec<Near> = scores.iter().map(|score| (*score - largest).exp()).collect();
        let sum = Near::sum(exps.iter().copied());
        log_sums[head * q.rows + query] = Some(sum.ln() + largest);
        for e in 0..head_dim {
            let pairs = exps.iter().zip(keys.clone());
            let terms = pairs.map(|(exp, key)| exp.rounded(dtype) * v.row(head / group, key)[e]);
            o[q.start(head, query) + e] = Some(Near::sum(terms) / sum);
        }
    });
    Attended { o, log_sums }
}

/// The inputs of [`attend_back`]: queries, keys and values, the output as rows `[T, H E]`, and the log-sum-exps.
#[derive(Clone, Copy)]
pub(in crate::kernels::cases) struct Computed<'a> {
    pub(in crate::kernels::cases) qkv: [&'a [f64]; 3],
    pub(in crate::kernels::cases) y: &'a [f64],
    pub(in crate::kernels::cases) log_sums: &'a [f64],
}

/// The gradients of queries, and of each query head's keys and values; rows outside all spans get 0. Probabilities
/// and gradients of scores may be rounded to `dtype` before they enter matrix products.
pub(in crate::kernels::cases) fn attend_back(
    dy: &[f64],
    of: Computed<'_>,
    dtype: Dtype,
    shape: (&Attention, &[Span]),
) -> [Vec<Near>; 3] {
    let Attention { heads, kv_heads, head_dim, .. } = *shape.0;
    let group = heads / kv_heads;
    let [q, dy] = [of.qkv[0], dy].map(|x| Heads::new(x, heads, head_dim));
    let [k, v] = [of.qkv[1], of.qkv[2]].map(|x| Heads::new(x, kv_heads, head_dim));
    let mut sums = [(); 3].map(|()| vec![Sum::default(); q.data.len()]);
    let [dq, dk, dv] = &mut sums;
    for_each_query(shape, |head, query, keys| {
        let (own_q, own_dy) = (q.row(head, query), dy.row(head, query));
        let own_y = &of.y[(query * heads + head) * head_dim..][..head_dim];
        let product = dot(own_y, own_dy);
        for key in keys {
            let (k, v) = (k.row(head / group, key), v.row(head / group, key));
            let p = (dot(own_q, k) - of.log_sums[head * q.rows + query]).exp();
            let ds = p * (dot(own_dy, v) - product);
            let (p, ds) = (p.rounded(dtype), ds.rounded(dtype));
            let (query_at, key_at) = (q.start(head, query), q.start(head, key));
            for e in 0..head_dim {
                dq[query_at + e].push(ds * k[e]);
                dk[key_at + e].push(ds * own_q[e]);
                dv[key_at + e].push(p * own_dy[e]);
            }
        }
    });
    sums.map(|sums| sums.into_iter().map(Sum::near).collect())
}
