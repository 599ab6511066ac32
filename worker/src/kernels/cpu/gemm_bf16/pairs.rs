//! Operands as squares of pairs of terms, for units that multiply pairs.
//!
//! ```text
//! panel    `groups` lines of squares, 16 lines each; one square of each group, then the next of each
//! square   16 lines of 16 pairs of terms: a line after the other for `a`, a pair after the other for `b`
//! pair     the first term in the low half
//! ```

#![allow(unsafe_code)] // Calls code compiled for AVX-512, and reads vectors.

use super::super::gemm::Matrix;
use half::bf16;
use std::arch::x86_64::*;

/// Lines of a square, and pairs of each line.
pub(super) const SIDE: usize = 16;
/// Terms of a line in a square.
pub(super) const TERMS: usize = 2 * SIDE;

/// What lies side by side in a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The pairs of a line.
    Lines,
    /// The same pair of each line.
    Pairs,
}

type Square = [[u32; SIDE]; SIDE];

/// Packs the lines of `m` into a panel of `groups` squares side by side; lines and terms that do not exist are zero.
///
/// # Safety
/// The CPU must have AVX-512 F and BW.
pub(super) unsafe fn pack(panel: &mut [u32], m: Matrix<'_, bf16>, groups: usize, order: Order) {
    assert!(m.col_stride == 1 || m.row_stride == 1, "rows or columns of neighbouring elements");
    let (squares, _) = panel.as_chunks_mut::<SIDE>();
    let (squares, _) = squares.as_chunks_mut::<SIDE>();
    for (at, square) in squares.iter_mut().enumerate() {
        let (line, term) = (at % groups * SIDE, at / groups * TERMS);
        // SAFETY: the caller ensures that the CPU has the features.
        unsafe { pack_square(square, m, (line, term), order) };
    }
}

/// Packs the square that starts at `line` and `term`.
#[target_feature(enable = "avx512f,avx512bw")]
fn pack_square(
    square: &mut Square,
    m: Matrix<'_, bf16>,
    (line, term): (usize, usize),
    order: Order,
) {
    let lines = SIDE.min(m.rows.saturating_sub(line));
    let terms = TERMS.min(m.cols - term);
    if lines < SIDE || terms < TERMS {
        *square = [[0; SIDE]; SIDE];
    }
    if lines == 0 {
        return;
    }
    let stored = if m.col_stride == 1 {
        for (i, to) in square[..lines].iter_mut().enumerate() {
            let from = &m.data[(line + i) * m.row_stride + term..][..terms];
            pack_pairs(to, from);
        }
        Order::Lines
    } else {
        for (pair, to) in square[..terms.div_ceil(2)].iter_mut().enumerate() {
            let column = |term: usize| &m.data[term * m.col_stride + line..][..lines];
            let first = term + 2 * pair;
            if first + 1 < m.cols {
                zip_pairs(to, column(first), column(first + 1));
            } else {
                let each = to.iter_mut().zip(column(first));
                each.for_each(|(to, x)| *to = u32::from(x.to_bits()));
            }
        }
        Order::Pairs
    };
    if stored != order {
        transpose(square);
    }
}

/// Packs neighbouring elements of a line.
#[inline(always)]
fn pack_pairs(to: &mut [u32; SIDE], from: &[bf16]) {
    let pair = |a: bf16, b: bf16| u32::from(a.to_bits()) | u32::from(b.to_bits()) << 16;
    if let Ok(from) = <&[bf16; TERMS]>::try_from(from) {
        for (i, to) in to.iter_mut().enumerate() {
            *to = pair(from[2 * i], from[2 * i + 1]);
        }
        return;
    }
    for (to, from) in to.iter_mut().zip(from.chunks(2)) {
        *to = pair(from[0], from.get(1).copied().unwrap_or(bf16::ZERO));
    }
}

/// Packs one pair of each line.
#[inline(always)]
fn zip_pairs(to: &mut [u32; SIDE], first: &[bf16], second: &[bf16]) {
    let pair = |a: bf16, b: bf16| u32::from(a.to_bits()) | u32::from(b.to_bits()) << 16;
    if let (Ok(first), Ok(second)) =
        (<&[bf16; SIDE]>::try_from(first), <&[bf16; SIDE]>::try_from(second))
    {
        for (i, to) in to.iter_mut().enumerate() {
            *to = pair(first[i], second[i]);
        }
        return;
    }
    for (to, (first, second)) in to.iter_mut().zip(first.iter().zip(second)) {
        *to = pair(*first, *second);
    }
}

/// Transposes a square: exchanges the quarters off the diagonal, and then the same within smaller squares.
#[target_feature(enable = "avx512f")]
fn transpose(square: &mut Square) {
    // SAFETY: both are 1 KiB of bits.
    let mut rows: [__m512i; SIDE] = unsafe { std::mem::transmute_copy(square) };
    exchange::<8>(&mut rows);
    exchange::<4>(&mut rows);
    exchange::<2>(&mut rows);
    exchange::<1>(&mut rows);
    // SAFETY: as above.
    *square = unsafe { std::mem::transmute::<[__m512i; SIDE], Square>(rows) };
}

/// Exchanges the squares of `S` off the diagonal of each square of `2 S`.
#[inline]
#[target_feature(enable = "avx512f")]
fn exchange<const S: usize>(rows: &mut [__m512i; SIDE]) {
    // SAFETY: both are 64 bytes of bits.
    let vector = |lanes| unsafe { std::mem::transmute::<[u32; SIDE], __m512i>(lanes) };
    let upper = vector(const { lanes(S, 0, SIDE - S) });
    let lower = vector(const { lanes(S, S, SIDE) });
    for row in (0..SIDE).filter(|row| row & S == 0) {
        let (a, b) = (rows[row], rows[row + S]);
        rows[row] = _mm512_permutex2var_epi32(a, upper, b);
        rows[row + S] = _mm512_permutex2var_epi32(a, lower, b);
    }
}

/// For each lane of a result, the lane of two vectors that it takes: lanes without bit `s` take one at the distance
/// `even`, the others one at the distance `odd`. Those of the second vector begin at [`SIDE`].
const fn lanes(s: usize, even: usize, odd: usize) -> [u32; SIDE] {
    let mut lanes = [0; SIDE];
    let mut to = 0;
    while to < SIDE {
        lanes[to] = (to + if to & s == 0 { even } else { odd }) as u32;
        to += 1;
    }
    lanes
}
