//! The memory that kernels take from the pool while they run, as numbers of elements by type. It depends on the
//! number of threads of the current rayon pool.

use super::gemm::turns;
use super::{attention, gemm_bf16};
use crate::device::Dtype;
use crate::kernels::{Operand, Span};

/// That of a product.
pub(crate) fn gemm(a: &Operand<'_>, b: &Operand<'_>) -> Vec<(Dtype, usize)> {
    let elements = b.rows * b.cols;
    match a.window.dtype() {
        Dtype::Bf16 => gemm_bf16::scratch([a.rows, a.cols, b.cols]),
        _ if turns(a.rows, b.transposed, elements) => vec![(Dtype::F32, elements)],
        _ => Vec::new(),
    }
}

/// That of attention, whose operands have the lengths `widened`, and the keys `keys` elements.
pub(crate) fn attend(
    dtype: Dtype,
    widened: &[usize],
    keys: usize,
    spans: &[Span],
) -> Vec<(Dtype, usize)> {
    let blocks = vec![longest(spans) * attention::BLOCK_ROWS; rayon::current_num_threads()];
    in_f32(dtype, widened, [vec![keys], blocks].concat())
}

/// That of the backward of attention.
pub(crate) fn attend_back(
    dtype: Dtype,
    widened: &[usize],
    keys: usize,
    spans: &[Span],
) -> Vec<(Dtype, usize)> {
    let blocks = vec![longest(spans) * attention::BLOCK_ROWS; 2 * rayon::current_num_threads()];
    in_f32(dtype, widened, [vec![keys; 2], blocks].concat())
}

fn longest(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.keys.len()).max().unwrap_or(0)
}

fn in_f32(dtype: Dtype, widened: &[usize], rest: Vec<usize>) -> Vec<(Dtype, usize)> {
    let widened = if dtype == Dtype::F32 { &[] } else { widened };
    widened.iter().copied().chain(rest).map(|len| (Dtype::F32, len)).collect()
}
