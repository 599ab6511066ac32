//! Products of bf16 matrices, summed in f32 and rounded once.
//!
//! ```text
//! pack      each operand into panels of a few rows of `a` or columns of `b`, in the order of the sum
//! tile      one task: some panels of `a` with some of `b`, a block of the sum at a time
//! multiply  one panel of `a` with one of `b`, whose sums stay in registers
//! ```
//!
//! What multiplies is a [`Unit`], the fastest that the CPU has:
//!
//! ```text
//! portable.rs  f32 fused multiply-add, on any CPU
//! dot.rs       AVX-512 BF16's dot product of pairs
//! amx.rs       AMX's product of tiles
//! pairs.rs     the operands of `dot` and `amx`
//! ```
//!
//! An element has the same bits for any number of threads. Portable and AVX-512 BF16 units have the same bits, but
//! for numbers below 2^-126, which the latter takes as zero. A sum starts at 0 and each term is added by a fused
//! multiply-add: the pairs of neighbouring terms in order, and of each pair the second term first. AMX sums in another
//! order, see `amx.rs`. Sources: the Intel 64 and IA-32 Architectures Software Developer's Manual, `VDPBF16PS` and
//! `TDPBF16PS`.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod dot;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod portable;

use super::float::Float;
use super::gemm::{Matrix, MatrixMut};
use super::simd::{self, Loop};
use crate::device::{Dtype, Element, give, take};
use crate::kernels::Onto;
use half::bf16;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Rows and columns of the result in a tile, multiples of those of every unit.
const TILE_ROWS: usize = 192;
const TILE_COLS: usize = 128;

/// The part of a CPU that multiplies.
trait Unit: Sized {
    /// The elements of packed operands.
    type Packed: Element;

    /// The name of its order of summation.
    const ORDER: &'static str;
    /// Rows and columns of the block of sums that fits in its registers.
    const ROWS: usize;
    const COLS: usize;
    /// The number of terms in an element.
    const PACKED_TERMS: usize;
    /// Operands are filled up with zeros to a multiple of this number of terms.
    const STEP: usize;
    /// Terms that are added at a time: a panel of `b` stays in the L1 cache, the panels of `a` in the L2 cache.
    const TERMS: usize;

    /// Packs up to [`Self::ROWS`] rows of `a` into a panel.
    fn pack_rows(panel: &mut [Self::Packed], a: Matrix<'_, bf16>);

    /// Packs up to [`Self::COLS`] columns of `b`, given as rows, into a panel.
    fn pack_columns(panel: &mut [Self::Packed], b: Matrix<'_, bf16>);

    /// Prepares the unit for this thread.
    fn ready() -> Self;

    /// Adds the product of two panels, or of the same terms of both, to a block of sums.
    fn multiply(&self, a: &[Self::Packed], b: &[Self::Packed], sums: &mut [f32]);

    /// Elements of a panel with `lines` rows or columns.
    fn panel(lines: usize, terms: usize) -> usize {
        lines * terms / Self::PACKED_TERMS
    }
}

/// Evaluates an expression in which `$U` is the fastest unit of this CPU, as the result of the function around it.
macro_rules! with_unit {
    ($U:ident => $do:expr) => {{
        #[cfg(target_arch = "x86_64")]
        if amx::is_available() {
            type $U = amx::Amx;
            return $do;
        }
        #[cfg(target_arch = "x86_64")]
        if dot::is_available() {
            type $U = dot::Dot;
            return $do;
        }
        type $U = portable::Portable;
        $do
    }};
}

/// `c = a b` or `c += a b`, in tiles on all threads of the pool.
pub(super) fn gemm_parallel<C: Float>(
    c: &mut [C],
    onto: Onto,
    a: Matrix<'_, bf16>,
    b: Matrix<'_, bf16>,
) {
    with_unit!(U => product::<U, C>(c, onto, a, b))
}

/// `c = a b` or `c += a b`, on this thread.
pub(super) fn gemm(c: MatrixMut<'_>, onto: Onto, a: Matrix<'_, bf16>, b: Matrix<'_, bf16>) {
    with_unit!(U => product_here::<U>(c, onto, a, b))
}

/// The order in which this CPU sums: `pairs` or `tiles`.
pub(super) fn order() -> &'static str {
    with_unit!(U => U::ORDER)
}

fn product_here<U: Unit>(c: MatrixMut<'_>, onto: Onto, a: Matrix<'_, bf16>, b: Matrix<'_, bf16>) {
    let MatrixMut { data, rows, cols } = c;
    assert_eq!((rows, cols, a.cols), (a.rows, b.cols, b.rows), "the shapes of operands match");
    if data.is_empty() {
        return;
    }
    let terms = a.cols.next_multiple_of(U::STEP);
    let (panel_a, panel_b) = (U::panel(U::ROWS, terms), U::panel(U::COLS, terms));
    let (count_a, count_b) = (rows.div_ceil(U::ROWS), cols.div_ceil(U::COLS));
    let packed_a = Panels::new(panel_a * count_a, |packed| {
        for (n, panel) in packed.chunks_exact_mut(panel_a.max(1)).enumerate() {
            U::pack_rows(panel, lines(a, n, U::ROWS));
        }
    });
    let packed_b = Panels::new(panel_b * count_b, |packed| {
        for (n, panel) in packed.chunks_exact_mut(panel_b.max(1)).enumerate() {
            U::pack_columns(panel, lines(b.t(), n, U::COLS));
        }
    });
    let whole = Tile { row: 0, col: 0, rows: data.chunks_mut(cols).collect() };
    whole.compute::<U>(onto, (&packed_a, &packed_b), terms);
}

/// The lines of panel `n`, of up to `count` lines.
fn lines(m: Matrix<'_, bf16>, n: usize, count: usize) -> Matrix<'_, bf16> {
    m.rows(n * count..m.rows.min((n + 1) * count))
}

/// The memory that [`gemm`] takes from the pool, as [`scratch`].
pub(super) fn scratch_here([rows, terms, cols]: [usize; 3]) -> Vec<(Dtype, usize)> {
    with_unit!(U => {
        let blocks = rows.next_multiple_of(U::ROWS) * cols.next_multiple_of(U::COLS);
        let sums = (Dtype::F32, blocks + Panels::<f32>::SLACK);
        operands::<U>([rows, terms, cols]).into_iter().chain([sums]).collect()
    })
}

/// The memory of packed operands.
fn operands<U: Unit>([rows, terms, cols]: [usize; 3]) -> [(Dtype, usize); 2] {
    let terms = terms.next_multiple_of(U::STEP);
    let packed = |lines: usize, of: usize| U::panel(of, terms) * lines.div_ceil(of);
    [packed(rows, U::ROWS), packed(cols, U::COLS)]
        .map(|len| (Dtype::of::<U::Packed>(), len + Panels::<U::Packed>::SLACK))
}

/// The memory that a product of `[rows, terms]` with `[terms, cols]` takes from the pool, by type.
pub(super) fn scratch(shape: [usize; 3]) -> Vec<(Dtype, usize)> {
    with_unit!(U => scratch_of::<U>(shape))
}

fn scratch_of<U: Unit>([rows, terms, cols]: [usize; 3]) -> Vec<(Dtype, usize)> {
    let sums = TILE_ROWS.min(rows.next_multiple_of(U::ROWS))
        * TILE_COLS.min(cols.next_multiple_of(U::COLS));
    let sums = (Dtype::F32, sums + Panels::<f32>::SLACK);
    let threads = rayon::current_num_threads();
    let operands = operands::<U>([rows, terms, cols]).into_iter();
    operands.chain(std::iter::repeat_n(sums, threads)).collect()
}

fn product<U: Unit, C: Float>(c: &mut [C], onto: Onto, a: Matrix<'_, bf16>, b: Matrix<'_, bf16>) {
    let (rows, cols, terms) = (a.rows, b.cols, a.cols);
    assert_eq!((c.len(), b.rows), (rows * cols, terms), "the shapes of operands match");
    if c.is_empty() {
        return;
    }
    let terms = terms.next_multiple_of(U::STEP);
    let (panel_a, panel_b) = (U::panel(U::ROWS, terms), U::panel(U::COLS, terms));
    let packed_a = Panels::new(panel_a * rows.div_ceil(U::ROWS), |packed| {
        let panels = packed.par_chunks_exact_mut(panel_a.max(1)).enumerate();
        panels.for_each(|(n, panel)| U::pack_rows(panel, lines(a, n, U::ROWS)));
    });
    let packed_b = Panels::new(panel_b * cols.div_ceil(U::COLS), |packed| {
        let panels = packed.par_chunks_exact_mut(panel_b.max(1)).enumerate();
        panels.for_each(|(n, panel)| U::pack_columns(panel, lines(b.t(), n, U::COLS)));
    });
    tiles(c, cols).into_par_iter().with_max_len(1).for_each(|tile| {
        let a = some(&packed_a, tile.row / U::ROWS, TILE_ROWS / U::ROWS, panel_a);
        let b = some(&packed_b, tile.col / U::COLS, TILE_COLS / U::COLS, panel_b);
        tile.compute::<U>(onto, (a, b), terms);
    });
}

/// Up to `count` panels of `len` elements, starting at panel `first`.
fn some<T>(packed: &[T], first: usize, count: usize, len: usize) -> &[T] {
    let rest = &packed[first * len..];
    &rest[..rest.len().min(count * len)]
}

/// A part of the result.
struct Tile<'a, C> {
    row: usize,
    col: usize,
    /// The part's elements of each row.
    rows: Vec<&'a mut [C]>,
}

/// Cuts a result into tiles.
fn tiles<C>(c: &mut [C], cols: usize) -> Vec<Tile<'_, C>> {
    let mut tiles = Vec::new();
    for (band, c) in c.chunks_mut(TILE_ROWS * cols).enumerate() {
        let first = tiles.len();
        let across = (0..cols.div_ceil(TILE_COLS)).map(|tile| Tile {
            row: band * TILE_ROWS,
            col: tile * TILE_COLS,
            rows: Vec::with_capacity(c.len() / cols),
        });
        tiles.extend(across);
        for row in c.chunks_mut(cols) {
            let parts = tiles[first..].iter_mut().zip(row.chunks_mut(TILE_COLS));
            parts.for_each(|(tile, part)| tile.rows.push(part));
        }
    }
    tiles
}

impl<C: Float> Tile<'_, C> {
    /// Computes the tile from its panels of `a` and `b`.
    fn compute<U: Unit>(self, onto: Onto, (a, b): (&[U::Packed], &[U::Packed]), terms: usize) {
        let unit = U::ready();
        let block = U::ROWS * U::COLS;
        let down = self.rows.len().div_ceil(U::ROWS);
        let across = self.rows[0].len().div_ceil(U::COLS);
        let mut sums = Panels::<f32>::new(down * across * block, |sums| sums.fill(0.));
        let (panel_a, panel_b) = (U::panel(U::ROWS, terms), U::panel(U::COLS, terms));
        for start in (0..terms).step_by(U::TERMS) {
            let end = terms.min(start + U::TERMS);
            let of_a = U::panel(U::ROWS, start)..U::panel(U::ROWS, end);
            let of_b = U::panel(U::COLS, start)..U::panel(U::COLS, end);
            for (b, sums) in b.chunks_exact(panel_b).zip(sums.chunks_exact_mut(down * block)) {
                for (a, sums) in a.chunks_exact(panel_a).zip(sums.chunks_exact_mut(block)) {
                    unit.multiply(&a[of_a.clone()], &b[of_b.clone()], sums);
                }
            }
        }
        drop(unit);
        for (row, c) in self.rows.into_iter().enumerate() {
            let sums = &sums[row * U::COLS..];
            simd::run(Round::<C, U> { c, onto, sums, stride: down * block, unit: PhantomData });
        }
    }
}

/// Rounds the sums of a row.
struct Round<'a, C, U> {
    c: &'a mut [C],
    onto: Onto,
    /// The sums of a block every `stride`.
    sums: &'a [f32],
    stride: usize,
    unit: PhantomData<U>,
}

impl<C: Float, U: Unit> Loop for Round<'_, C, U> {
    #[inline(always)]
    fn run(self) {
        for (c, sums) in self.c.chunks_mut(U::COLS).zip(self.sums.chunks(self.stride)) {
            let each = c.iter_mut().zip(&sums[..U::COLS]);
            match self.onto {
                Onto::Fresh => each.for_each(|(c, sum)| *c = C::round(*sum)),
                Onto::Sum => each.for_each(|(c, sum)| *c = C::round(c.widen() + sum)),
            }
        }
    }
}

/// Numbers in memory from the pool, from the start of a cache line.
struct Panels<T: Element> {
    memory: Vec<T>,
    numbers: std::ops::Range<usize>,
}

impl<T: Element> Panels<T> {
    /// Bytes of a cache line.
    const LINE: usize = 64;
    /// Numbers that alignment may cost.
    const SLACK: usize = Self::LINE / size_of::<T>();

    /// `len` numbers, all of which `fill` sets.
    fn new(len: usize, fill: impl FnOnce(&mut [T])) -> Self {
        let mut memory = take::<T>(len + Self::SLACK);
        let start = memory.as_ptr().align_offset(Self::LINE);
        let numbers = start..start + len;
        fill(&mut memory[numbers.clone()]);
        Self { memory, numbers }
    }
}

impl<T: Element> Deref for Panels<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.memory[self.numbers.clone()]
    }
}

impl<T: Element> DerefMut for Panels<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.numbers.clone()]
    }
}

impl<T: Element> Drop for Panels<T> {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<bf16> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bf16::round((state >> 8) as f32 / (1 << 23) as f32 - 1.)
        };
        std::iter::repeat_with(next).take(n).collect()
    }

    /// The terms of an element, each as its two factors.
    fn terms(a: Matrix<'_, bf16>, b: Matrix<'_, bf16>, row: usize, col: usize) -> Vec<[f32; 2]> {
        let x = |k: usize| a.data[row * a.row_stride + k * a.col_stride].to_f32();
        let y = |k: usize| b.data[k * b.row_stride + col * b.col_stride].to_f32();
        (0..a.cols).map(|k| [x(k), y(k)]).collect()
    }

    /// Adds terms to `sum` in their order.
    fn chain<'a>(sum: f32, terms: impl Iterator<Item = &'a [f32; 2]>) -> f32 {
        terms.fold(sum, |sum, [x, y]| x.mul_add(*y, sum))
    }

    /// The definition of the portable unit and AVX-512 BF16's.
    fn in_pairs(terms: &[[f32; 2]]) -> f32 {
        terms.chunks(2).fold(0., |sum, pair| chain(sum, pair.iter().rev()))
    }

    /// The definition of AMX's.
    #[cfg(target_arch = "x86_64")]
    fn in_tiles(terms: &[[f32; 2]]) -> f32 {
        terms.chunks(pairs::TERMS).fold(0., |sum, terms| {
            let even = chain(0., terms.iter().step_by(2));
            let odd = chain(0., terms.iter().skip(1).step_by(2));
            sum + (even + odd)
        })
    }

    fn has_the_bits_of<U: Unit>(definition: fn(&[[f32; 2]]) -> f32) {
        for (m, n, k) in [(1, 5, 3), (7, 33, 65), (150, 140, 2), (13, 17, 801), (197, 129, 386)] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            for a in [Matrix::new(&a, m, k), Matrix::new(&a, k, m).t()] {
                for b in [Matrix::new(&b, k, n), Matrix::new(&b, n, k).t()] {
                    let mut c = vec![f32::NAN; m * n];
                    product::<U, f32>(&mut c, Onto::Fresh, a, b);
                    for (i, c) in c.iter().enumerate() {
                        let expected = definition(&terms(a, b, i / n, i % n));
                        assert_eq!(c.to_bits(), expected.to_bits(), "{m} {n} {k}: {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn portable_products_have_the_bits_of_their_definition() {
        has_the_bits_of::<portable::Portable>(in_pairs);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn products_of_avx512_bf16_have_the_bits_of_portable_ones() {
        if !dot::is_available() {
            return eprintln!("skipped: this CPU has no AVX-512 BF16");
        }
        has_the_bits_of::<dot::Dot>(in_pairs);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn products_of_amx_have_the_bits_of_their_definition() {
        if !amx::is_available() {
            return eprintln!("skipped: this CPU has no AMX");
        }
        has_the_bits_of::<amx::Amx>(in_tiles);
    }
}
