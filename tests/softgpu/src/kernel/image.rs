//! Where this library's own constants and thread-local variables lie.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Addresses of the library as a thread sees it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Image {
    /// Code and data.
    pub data: (u64, u64),
    /// This thread's copy of the thread-local variables, in which the kernels' shared arrays lie.
    pub locals: (u64, u64),
}

thread_local! {
    /// Reading it makes the system allocate the thread's copy.
    static TOUCH: Cell<u8> = const { Cell::new(1) };
}

/// Finds the addresses for the calling thread.
pub(super) fn image() -> Image {
    TOUCH.set(2);
    let mut image = Image::default();
    // SAFETY: the callback keeps to the type that the pointer has.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut image).cast()) };
    image
}

unsafe extern "C" fn visit(
    info: *mut libc::dl_phdr_info,
    size: usize,
    image: *mut c_void,
) -> c_int {
    let here = visit as *const () as u64;
    // SAFETY: the loader passes a valid description, and `image` is the caller's.
    let (info, image) = unsafe { (&*info, &mut *image.cast::<Image>()) };
    // SAFETY: the loader vouches for the headers.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize) };
    let loads = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let range = |header: &libc::Elf64_Phdr| {
        let start = info.dlpi_addr + header.p_vaddr;
        (start, start + header.p_memsz)
    };
    let mut all = (u64::MAX, 0);
    let mut ours = false;
    for (start, end) in loads.map(range) {
        ours |= (start..end).contains(&here);
        all = (all.0.min(start), all.1.max(end));
    }
    if !ours {
        return 0;
    }
    image.data = all;
    let locals = headers.iter().find(|header| header.p_type == libc::PT_TLS);
    if let Some(header) = locals
        && size >= size_of::<libc::dl_phdr_info>()
    {
        let start = info.dlpi_tls_data as u64;
        image.locals = (start, start + header.p_memsz);
    }
    1
}

/// The file that this library was loaded from.
pub(super) fn own_path() -> Option<PathBuf> {
    // SAFETY: all fields of the description may be zero.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    let here = own_path as *const () as *const c_void;
    // SAFETY: the address is a function's, and the description outlives the call.
    let found = unsafe { libc::dladdr(here, &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's name ends with a zero.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(name.to_str().ok()?.into())
}

/// Keeps the library loaded until the process ends: its threads cannot be stopped.
pub(crate) fn stay_loaded() {
    let Some(name) =
        own_path().and_then(|path| CString::new(path.into_os_string().into_vec()).ok())
    else {
        return;
    };
    // SAFETY: the library is loaded already, so nothing runs here. In an executable that links
    // the crate the call fails, which does no harm.
    unsafe {
        libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE)
    };
}
