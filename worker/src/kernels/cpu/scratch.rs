//! The memory that kernels take from the pool while they run, as numbers of elements by type. It depends on the
//! number of threads of the current rayon pool.

use super::attention::Products;
use super::float::with_float;
use super::gemm::turns;
use super::gemm_bf16;
use crate::device::Dtype;
use crate::kernels::{Attention, Operand, Span};

/// That of a product.
pub(crate) fn gemm(a: &Operand<'_>, b: &Operand<'_>) -> Vec<(Dtype, usize)> {
    let elements = b.rows * b.cols;
    match a.window.dtype() {
        Dtype::Bf16 => gemm_bf16::scratch([a.rows, a.cols, b.cols]),
        _ if turns(a.rows, b.transposed, elements) => vec![(Dtype::F32, elements)],
        _ => Vec::new(),
    }
}

/// That of attention, whose keys have `keys` elements.
pub(crate) fn attend(
    dtype: Dtype,
    a: &Attention,
    keys: usize,
    spans: &[Span],
) -> Vec<(Dtype, usize)> {
    let (rows, longest) = (block_rows(dtype), longest(spans));
    let scores = (Dtype::F32, rows * longest);
    if dtype == Dtype::F32 {
        return [vec![(Dtype::F32, keys)], on_every_thread(&[scores])].concat();
    }
    let product = gemm_bf16::scratch_here([rows, longest, a.head_dim]);
    on_every_thread(&[vec![scores, (dtype, rows * longest)], product].concat())
}

/// That of the backward of attention.
pub(crate) fn attend_back(
    dtype: Dtype,
    a: &Attention,
    keys: usize,
    spans: &[Span],
) -> Vec<(Dtype, usize)> {
    let (rows, longest) = (block_rows(dtype), longest(spans));
    let scores = [(Dtype::F32, rows * longest); 2];
    if dtype == Dtype::F32 {
        return [vec![(Dtype::F32, keys); 2], on_every_thread(&scores)].concat();
    }
    let gradients = vec![(Dtype::F32, longest * a.head_dim); 2];
    let product = gemm_bf16::scratch_here([longest, rows, a.head_dim]);
    on_every_thread(&[&scores[..], &[(dtype, rows * longest)], &gradients, &product].concat())
}

fn block_rows(dtype: Dtype) -> usize {
    with_float!(dtype, T => <T as Products>::BLOCK_ROWS)
}

fn longest(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.keys.len()).max().unwrap_or(0)
}

fn on_every_thread(pieces: &[(Dtype, usize)]) -> Vec<(Dtype, usize)> {
    pieces.repeat(rayon::current_num_threads())
}
