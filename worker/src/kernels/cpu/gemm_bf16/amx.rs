//! Products with AMX, whose `TDPBF16PS` multiplies two tiles of 16 x 32 and 32 x 16 numbers.
//!
//! It sums 32 terms at a time: those with even and those with odd indices, each in order by fused multiply-adds that
//! start at 0; then the second sum is added to the first, and both to the element. Numbers below 2^-126 are taken as
//! zero. Linux gives a process the tile registers on request.

#![allow(unsafe_code)] // Inline assembly: the intrinsics are not stable yet.

use super::super::gemm::Matrix;
use super::Unit;
use super::pairs::{self, Order, SIDE};
use half::bf16;
use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;
use std::sync::LazyLock;

/// The unit of AMX. The tile registers of the thread are configured while it lives.
pub(super) struct Amx {
    /// It belongs to its thread.
    registers: PhantomData<*const ()>,
}

/// Whether this CPU has it, and Linux gives it to this process.
pub(super) fn is_available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        const BF16: u32 = 1 << 22;
        const TILE: u32 = 1 << 24;
        __cpuid(0).eax >= 7
            && __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE
            && is_x86_feature_detected!("avx512bw")
            && is_permitted()
    });
    *AVAILABLE
}

/// Asks Linux for the tile registers.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers, and changes nothing but the permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The operand of `LDTILECFG`: 8 tiles of 16 lines with 64 bytes each.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

static SHAPES: Shapes = {
    let (mut line_bytes, mut lines) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        (line_bytes[tile], lines[tile]) = (64, 16);
        tile += 1;
    }
    Shapes { palette: 1, start_row: 0, reserved: [0; 14], line_bytes, lines }
};

/// Squares of an operand in a block: 2 x 2 tiles of sums for 2 of `a` and 2 of `b` fill the 8 registers.
const GROUPS: usize = 2;

impl Unit for Amx {
    type Packed = u32;

    const ORDER: &'static str = "tiles";
    const ROWS: usize = GROUPS * SIDE;
    const COLS: usize = GROUPS * SIDE;
    const PACKED_TERMS: usize = 2;
    const STEP: usize = pairs::TERMS;
    const TERMS: usize = 512;

    fn pack_rows(panel: &mut [u32], a: Matrix<'_, bf16>) {
        assert!(is_available());
        // SAFETY: the CPU has AMX, and AVX-512 with it.
        unsafe { pairs::pack(panel, a, GROUPS, Order::Lines) };
    }

    fn pack_columns(panel: &mut [u32], b: Matrix<'_, bf16>) {
        assert!(is_available());
        // SAFETY: as above.
        unsafe { pairs::pack(panel, b, GROUPS, Order::Pairs) };
    }

    fn ready() -> Self {
        assert!(is_available());
        // SAFETY: the CPU has the instruction, and it reads 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(readonly, nostack)) };
        Self { registers: PhantomData }
    }

    fn multiply(&self, a: &[u32], b: &[u32], sums: &mut [f32]) {
        let squares = a.len() / (GROUPS * SIDE * SIDE);
        assert_eq!((a.len(), a.len() % (GROUPS * SIDE * SIDE)), (b.len(), 0), "whole squares");
        assert!(sums.len() >= Self::ROWS * Self::COLS && squares > 0, "a block of sums");
        // SAFETY: `self` has configured the registers. The loop reads `squares` pairs of squares of both operands, and
        // the block of sums is read before and written after it.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {line}]",
                "tileloadd tmm1, [{sums} + {line} + 64]",
                "tileloadd tmm2, [{sums} + {line} + 2048]",
                "tileloadd tmm3, [{sums} + {line} + 2112]",
                "2:",
                "tileloadd tmm4, [{a} + {pairs}]",
                "tileloadd tmm6, [{b} + {pairs}]",
                "tileloadd tmm7, [{b} + {pairs} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a} + {pairs} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 2048",
                "add {b}, 2048",
                "dec {squares}",
                "jnz 2b",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 64], tmm1",
                "tilestored [{sums} + {line} + 2048], tmm2",
                "tilestored [{sums} + {line} + 2112], tmm3",
                a = inout(reg) a.as_ptr() => _,
                b = inout(reg) b.as_ptr() => _,
                squares = inout(reg) squares => _,
                sums = in(reg) sums.as_mut_ptr(),
                line = in(reg) 128usize,
                pairs = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Amx {
    fn drop(&mut self) {
        // SAFETY: the CPU has the instruction; nothing uses the registers any more.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}
