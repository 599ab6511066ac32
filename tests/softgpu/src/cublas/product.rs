//! The inner product of packed panels, for the widest vectors of the host.
//!
//! Each sum is taken in the order of its terms with fused multiply-adds, on every host alike, so
//! the bits depend neither on the host nor on the sizes of the matrices.

/// Rows of a tile.
pub(super) const ROWS: usize = 32;
/// Columns of a tile.
pub(super) const COLUMNS: usize = 4;

type Tile = [[f32; ROWS]; COLUMNS];

/// Multiplies a panel of A (columns of `ROWS`) with a panel of B (rows of `COLUMNS`).
pub(super) fn multiply(a: &[f32], b: &[f32]) -> Tile {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the host has the instructions.
            return unsafe { multiply_avx512(a, b) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            // SAFETY: the host has the instructions.
            return unsafe { multiply_avx2(a, b) };
        }
    }
    sums(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn multiply_avx512(a: &[f32], b: &[f32]) -> Tile {
    sums(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(a: &[f32], b: &[f32]) -> Tile {
    sums(a, b)
}

#[inline(always)]
fn sums(a: &[f32], b: &[f32]) -> Tile {
    let mut tile = [[0.0; ROWS]; COLUMNS];
    for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(COLUMNS)) {
        for (sums, factor) in tile.iter_mut().zip(b) {
            for (sum, value) in sums.iter_mut().zip(a) {
                *sum = value.mul_add(*factor, *sum);
            }
        }
    }
    tile
}
