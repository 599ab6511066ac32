//! Products with AVX-512 BF16, whose `VDPBF16PS` adds two terms to each of 16 sums.

#![allow(unsafe_code)] // Calls code compiled for CPU features that were detected before, and reads vectors.

use super::super::gemm::Matrix;
use super::Unit;
use super::pairs::{self, Order, SIDE};
use half::bf16;
use std::arch::x86_64::*;

/// The unit for AVX-512 BF16.
pub(super) struct Dot(());

/// Whether this CPU has it.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512bf16") && pairs_are_available()
}

/// Whether this CPU can pack pairs.
fn pairs_are_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

impl Unit for Dot {
    type Packed = u32;

    const ORDER: &'static str = "pairs";
    const ROWS: usize = SIDE;
    const COLS: usize = SIDE;
    const PACKED_TERMS: usize = 2;
    const STEP: usize = pairs::TERMS;
    const TERMS: usize = 512;

    fn pack_rows(panel: &mut [u32], a: Matrix<'_, bf16>) {
        assert!(pairs_are_available());
        // SAFETY: just checked.
        unsafe { pairs::pack(panel, a, 1, Order::Lines) };
    }

    fn pack_columns(panel: &mut [u32], b: Matrix<'_, bf16>) {
        assert!(pairs_are_available());
        // SAFETY: just checked.
        unsafe { pairs::pack(panel, b, 1, Order::Pairs) };
    }

    fn ready() -> Self {
        assert!(is_available());
        Self(())
    }

    fn multiply(&self, a: &[u32], b: &[u32], sums: &mut [f32]) {
        // SAFETY: `ready`, which alone makes a `Dot`, checked that the CPU has the features.
        unsafe { multiply(a, b, sums) };
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply(a: &[u32], b: &[u32], sums: &mut [f32]) {
    let (sums, _) = sums.as_chunks_mut::<SIDE>();
    let sums = sums.first_chunk_mut::<SIDE>().expect("a block of sums");
    // SAFETY: both are 1 KiB of bits.
    let mut block: [__m512; SIDE] = unsafe { std::mem::transmute_copy(sums) };
    for (a, b) in a.as_chunks::<{ SIDE * SIDE }>().0.iter().zip(b.as_chunks::<{ SIDE * SIDE }>().0)
    {
        for pair in 0..SIDE {
            // SAFETY: reads 16 of the square's 256 numbers.
            let b = unsafe { _mm512_loadu_epi32(b[pair * SIDE..].as_ptr().cast()) };
            // SAFETY: both are 64 bytes of bits.
            let b = unsafe { std::mem::transmute::<__m512i, __m512bh>(b) };
            for (line, sum) in block.iter_mut().enumerate() {
                let a = _mm512_set1_epi32(a[line * SIDE + pair].cast_signed());
                // SAFETY: both are 64 bytes of bits.
                let a = unsafe { std::mem::transmute::<__m512i, __m512bh>(a) };
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
    }
    // SAFETY: both are 1 KiB of bits.
    *sums = unsafe { std::mem::transmute::<[__m512; SIDE], [[f32; SIDE]; SIDE]>(block) };
}
