//! The functions that `-fsanitize=thread` calls at every load and store of the kernels.

use std::ffi::c_void;

use super::grid::{Grid, State, grid, wait};
use super::marks::Kind;
use super::shadow::Problem;
use crate::ops::ILLEGAL_ADDRESS;
use crate::report::violation;

/// `CUDA_ERROR_MISALIGNED_ADDRESS`.
const MISALIGNED_ADDRESS: u32 = 716;

fn access(at: *mut c_void, bytes: u64, kind: Kind) {
    let pointer = grid();
    if pointer.is_null() {
        return;
    }
    // SAFETY: the grid is this thread's; the reference ends before `report` pauses.
    let result = unsafe { (*pointer).shadow.access(at as u64, bytes, kind) };
    if let Err(problem) = result {
        report(pointer, at as u64, bytes, kind, problem);
    }
}

/// The check before an atomic operation.
pub(super) fn atomic(at: *mut c_void, bytes: u64) {
    access(at, bytes, Kind::Atomic);
}

#[cold]
fn report(pointer: *mut Grid, at: u64, bytes: u64, kind: Kind, problem: Problem) {
    let verb = match kind {
        Kind::Read => "reads",
        Kind::Write => "writes",
        Kind::Atomic => "atomically updates",
    };
    let (label, what, fault) = match &problem {
        Problem::Bounds => ("kernel.bounds", "outside every live block", Some(ILLEGAL_ADDRESS)),
        Problem::Device => ("kernel.device", "of another device", Some(ILLEGAL_ADDRESS)),
        Problem::Alignment => ("kernel.alignment", "misaligned", Some(MISALIGNED_ADDRESS)),
        Problem::Const => ("kernel.const", "that it received only as `const`", None),
        Problem::Undefined => ("kernel.undefined", "that was never written", None),
        Problem::SharedBounds => {
            ("shared.bounds", "of shared memory beyond its end", Some(ILLEGAL_ADDRESS))
        }
        Problem::SharedUndefined => {
            ("shared.undefined", "of shared memory that its block never wrote", None)
        }
        Problem::GlobalRace { .. } => ("race.global", "in a race with another thread", None),
        Problem::SharedRace { .. } => ("race.shared", "of shared memory, in a race", None),
    };
    // SAFETY: the grid is this thread's; the reference ends before the pause.
    unsafe {
        let grid = &mut *pointer;
        if grid.shadow.reported.insert(label) {
            let message = format!("`{}` {verb} {bytes} bytes {what}", grid.kernel.name);
            let mut names = grid.names();
            names.push(("address", format!("{at:#x}")));
            names.push(("argument", grid.argument_near(at)));
            if let Problem::GlobalRace { other } | Problem::SharedRace { other } = problem {
                names.push(("other_block", ((other >> 10) - 1).to_string()));
                names.push(("other_thread", (other & 1023).to_string()));
            }
            violation(label, &message, &names);
        }
        if let Some(code) = fault {
            grid.fault = Some(code);
            wait(pointer, State::Faulted);
        }
    }
}

macro_rules! hooks {
    ($($read:ident, $write:ident, $bytes:literal;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $read(at: *mut c_void) {
            access(at, $bytes, Kind::Read);
        }

        #[unsafe(no_mangle)]
        extern "C" fn $write(at: *mut c_void) {
            access(at, $bytes, Kind::Write);
        }
    )*};
}

hooks! {
    __tsan_read1, __tsan_write1, 1;
    __tsan_read2, __tsan_write2, 2;
    __tsan_read4, __tsan_write4, 4;
    __tsan_read8, __tsan_write8, 8;
    __tsan_read16, __tsan_write16, 16;
    __tsan_volatile_read1, __tsan_volatile_write1, 1;
    __tsan_volatile_read2, __tsan_volatile_write2, 2;
    __tsan_volatile_read4, __tsan_volatile_write4, 4;
    __tsan_volatile_read8, __tsan_volatile_write8, 8;
    __tsan_volatile_read16, __tsan_volatile_write16, 16;
}

/// Checks a range without alignment in aligned pieces.
fn pieces(at: *mut c_void, bytes: usize, kind: Kind) {
    const LARGEST: usize = 8;
    let mut offset = 0;
    while offset < bytes {
        let here = at.wrapping_byte_add(offset);
        let aligned = 1 << (here as usize | LARGEST).trailing_zeros();
        let mut piece = aligned;
        while piece > bytes - offset {
            piece /= 2;
        }
        access(here, piece as u64, kind);
        offset += piece;
    }
}

macro_rules! unaligned_hooks {
    ($($read:ident, $write:ident, $bytes:literal;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $read(at: *mut c_void) {
            pieces(at, $bytes, Kind::Read);
        }

        #[unsafe(no_mangle)]
        extern "C" fn $write(at: *mut c_void) {
            pieces(at, $bytes, Kind::Write);
        }
    )*};
}

unaligned_hooks! {
    __tsan_unaligned_read2, __tsan_unaligned_write2, 2;
    __tsan_unaligned_read4, __tsan_unaligned_write4, 4;
    __tsan_unaligned_read8, __tsan_unaligned_write8, 8;
    __tsan_unaligned_read16, __tsan_unaligned_write16, 16;
}

#[unsafe(no_mangle)]
extern "C" fn __tsan_read_range(at: *mut c_void, bytes: usize) {
    pieces(at, bytes, Kind::Read);
}

#[unsafe(no_mangle)]
extern "C" fn __tsan_write_range(at: *mut c_void, bytes: usize) {
    pieces(at, bytes, Kind::Write);
}

/// Clang calls these for copies of structs.
#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_memcpy(
    to: *mut c_void,
    from: *mut c_void,
    bytes: usize,
) -> *mut c_void {
    pieces(from, bytes, Kind::Read);
    pieces(to, bytes, Kind::Write);
    // SAFETY: the ranges were checked; a kernel's copies overlap only if it says so.
    unsafe { std::ptr::copy(from.cast::<u8>(), to.cast::<u8>(), bytes) };
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_memmove(
    to: *mut c_void,
    from: *mut c_void,
    bytes: usize,
) -> *mut c_void {
    // SAFETY: the caller passes what `memcpy` takes, and the copy allows overlaps.
    unsafe { __tsan_memcpy(to, from, bytes) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_memset(to: *mut c_void, value: i32, bytes: usize) -> *mut c_void {
    pieces(to, bytes, Kind::Write);
    // SAFETY: the range was checked.
    unsafe { std::ptr::write_bytes(to.cast::<u8>(), value as u8, bytes) };
    to
}

#[unsafe(no_mangle)]
extern "C" fn __tsan_init() {}

#[unsafe(no_mangle)]
extern "C" fn __tsan_func_entry(_caller: *mut c_void) {}

#[unsafe(no_mangle)]
extern "C" fn __tsan_func_exit() {}

#[unsafe(no_mangle)]
extern "C" fn __tsan_vptr_read(_at: *mut c_void) {}

#[unsafe(no_mangle)]
extern "C" fn __tsan_vptr_update(_at: *mut c_void, _value: *mut c_void) {}
