//! The functions of NVRTC, the compiler of CUDA C, `libnvrtc.so.N`.

use super::functions::{Library, Opened, Table, functions};
use super::reason::Reason;
use super::version::Version;
use cudarc::nvrtc::sys::nvrtcProgram;
use std::ffi::{c_char, c_int};
use std::path::Path;

functions! {
    fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int;
    fn nvrtcGetNumSupportedArchs(count: *mut c_int) -> c_int;
    fn nvrtcGetSupportedArchs(architectures: *mut c_int) -> c_int;
    fn nvrtcCreateProgram(
        program: *mut nvrtcProgram,
        source: *const c_char,
        name: *const c_char,
        header_count: c_int,
        headers: *const *const c_char,
        include_names: *const *const c_char,
    ) -> c_int;
    fn nvrtcDestroyProgram(program: *mut nvrtcProgram) -> c_int;
    fn nvrtcCompileProgram(
        program: nvrtcProgram,
        option_count: c_int,
        options: *const *const c_char,
    ) -> c_int;
    fn nvrtcGetProgramLogSize(program: nvrtcProgram, bytes: *mut usize) -> c_int;
    fn nvrtcGetProgramLog(program: nvrtcProgram, log: *mut c_char) -> c_int;
    fn nvrtcGetCUBINSize(program: nvrtcProgram, bytes: *mut usize) -> c_int;
    fn nvrtcGetCUBIN(program: nvrtcProgram, cubin: *mut c_char) -> c_int;
    fn nvrtcGetPTXSize(program: nvrtcProgram, bytes: *mut usize) -> c_int;
    fn nvrtcGetPTX(program: nvrtcProgram, ptx: *mut c_char) -> c_int;
    fn nvrtcGetErrorString(status: c_int) -> *const c_char;
}

impl Table for Functions {
    const MINIMUM: Version = Version::new(12, 0);
    const VERSION_FUNCTION: &'static str = "nvrtcVersion";

    fn version(library: &Opened) -> Result<Version, Reason> {
        type GetVersion = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
        // SAFETY: the type is the header's.
        let get_version: GetVersion = unsafe { library.function(Self::VERSION_FUNCTION) }?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the pointers are valid for the call.
        let status = unsafe { get_version(&mut major, &mut minor) };
        library.check(Self::VERSION_FUNCTION, status)?;
        Ok(Version::new(major.unsigned_abs(), minor.unsigned_abs()))
    }
}

/// Opens NVRTC at `path` with its builtins.
///
/// The first compilation opens `libnvrtc-builtins.so.X.Y` by that name. Not every libnvrtc has a
/// run path (that of CUDA 13.0 has none), and without one it finds the file beside it only if the
/// file is open already. Either order works, and libnvrtc first tells which version it wants.
pub(super) fn open(path: &Path) -> Result<Library<Functions>, Reason> {
    let nvrtc = Library::<Functions>::open(path)?;
    let version = nvrtc.version();
    let name = format!("libnvrtc-builtins.so.{}.{}", version.major, version.minor);
    let builtins = Opened::open_beside(nvrtc.file(), &name)?;
    Ok(nvrtc.with(Some(builtins)))
}
