//! Device memory is closed to the caller's threads, where the processor has protection keys: a
//! caller that follows a device address crashes, as it would with a real GPU.
//!
//! Linux gives every thread no access to a new key's memory; the streams' threads open it for
//! themselves.

use std::sync::OnceLock;

const DISABLE_ACCESS: libc::c_ulong = 1;

/// The key of device memory, if there is one.
fn key() -> Option<u32> {
    static KEY: OnceLock<Option<u32>> = OnceLock::new();
    *KEY.get_or_init(|| {
        if !cfg!(target_arch = "x86_64") {
            return None;
        }
        // SAFETY: the call takes two numbers and touches no memory.
        let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0_usize, DISABLE_ACCESS) };
        u32::try_from(key).ok()
    })
}

/// Closes a mapped range to all threads that have not opened device memory.
pub(crate) fn close(start: usize, bytes: usize) {
    let Some(key) = key() else { return };
    let access = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    // SAFETY: the range was just mapped and belongs to the device. A failure leaves it open.
    unsafe { libc::syscall(libc::SYS_pkey_mprotect, start, bytes, access, key as usize) };
}

/// Opens device memory to the calling thread.
#[cfg(target_arch = "x86_64")]
pub(crate) fn open() {
    let Some(key) = key() else { return };
    // SAFETY: a key was allocated, so the processor has the register; only this key's two bits
    // change.
    unsafe {
        let mut rights: u32;
        std::arch::asm!("rdpkru", out("eax") rights, out("edx") _, in("ecx") 0);
        rights &= !(3 << (2 * key));
        std::arch::asm!("wrpkru", in("eax") rights, in("edx") 0, in("ecx") 0);
    }
}

/// Opens device memory to the calling thread: it was never closed.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn open() {}
