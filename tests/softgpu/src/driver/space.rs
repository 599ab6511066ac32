//! Pages for device and pinned memory: guarded on both sides, never used twice.

use std::sync::OnceLock;

use super::Code;
use crate::protection;

const PAGE: usize = 4096;
/// Large allocations share one file of 0xFF bytes, copied on the first write of each page.
const CHUNK: usize = 16 << 20;
const FILL: u8 = 0xff;

/// Maps memory between two guard pages and returns its first address. Memory of a device is filled
/// with 0xFF and closed to the caller's threads.
pub(super) fn map(bytes: usize, of_device: bool) -> Result<u64, Code> {
    let inner = bytes.div_ceil(PAGE) * PAGE;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address that the system chooses.
    let base = unsafe {
        let null = std::ptr::null_mut();
        libc::mmap(null, inner + 2 * PAGE, libc::PROT_NONE, anonymous, -1, 0)
    };
    if base == libc::MAP_FAILED {
        return Err(Code::OUT_OF_MEMORY);
    }
    let start = base as usize + PAGE;
    // SAFETY: the pages lie inside the mapping made above.
    let opened = unsafe {
        libc::mprotect(start as *mut libc::c_void, inner, libc::PROT_READ | libc::PROT_WRITE)
    };
    if opened != 0 {
        return Err(Code::OUT_OF_MEMORY);
    }
    if of_device {
        fill(start, inner);
        protection::close(start, inner);
    }
    // Put the end of the memory against the upper guard page, as far as alignment allows.
    let slack = (inner - bytes) / 512 * 512;
    Ok((start + slack) as u64)
}

fn fill(start: usize, bytes: usize) {
    let mut at = start;
    let end = start + bytes;
    while end - at >= CHUNK {
        let Some(file) = file_of_ones() else { break };
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range lies inside pages that `map` has just made.
        let mapped = unsafe { libc::mmap(at as *mut libc::c_void, CHUNK, access, flags, file, 0) };
        if mapped == libc::MAP_FAILED {
            break;
        }
        at += CHUNK;
    }
    // SAFETY: the range lies inside pages that `map` has just made.
    unsafe { std::ptr::write_bytes(at as *mut u8, FILL, end - at) };
}

fn file_of_ones() -> Option<i32> {
    static FILE: OnceLock<Option<i32>> = OnceLock::new();
    *FILE.get_or_init(|| {
        // SAFETY: the name is a constant, and the file is only written here.
        unsafe {
            let file = libc::memfd_create(c"softgpu-ones".as_ptr(), libc::MFD_CLOEXEC);
            let ones = vec![FILL; CHUNK];
            let written = libc::write(file, ones.as_ptr().cast(), CHUNK);
            (file >= 0 && written == CHUNK as isize).then_some(file)
        }
    })
}

/// Makes freed memory inaccessible for good, so that a later use faults.
pub(super) fn unmap(start: u64, bytes: usize) {
    let first = start as usize / PAGE * PAGE;
    let length = start as usize + bytes - first;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the range was mapped by `map` and is in use no more.
    unsafe { libc::mmap(first as *mut libc::c_void, length, libc::PROT_NONE, flags, -1, 0) };
}
