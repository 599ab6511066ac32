//! The functions of cuBLAS, `libcublas.so.N`.

use super::functions::{Library, Opened, Table, functions};
use super::reason::Reason;
use super::version::Version;
use cudarc::cublas::sys::{
    cublasComputeType_t, cublasGemmAlgo_t, cublasHandle_t, cublasOperation_t, cudaDataType,
};
use cudarc::driver::sys::CUstream;
use std::ffi::{c_char, c_int, c_longlong, c_uint, c_void};
use std::path::Path;
use std::ptr;

functions! {
    fn cublasCreate_v2(handle: *mut cublasHandle_t) -> c_int;
    fn cublasDestroy_v2(handle: cublasHandle_t) -> c_int;
    fn cublasGetVersion_v2(handle: cublasHandle_t, version: *mut c_int) -> c_int;
    fn cublasSetStream_v2(handle: cublasHandle_t, stream: CUstream) -> c_int;
    fn cublasSetWorkspace_v2(handle: cublasHandle_t, workspace: *mut c_void, bytes: usize) -> c_int;
    // The mode is an integer because flags are added to it.
    fn cublasSetMathMode(handle: cublasHandle_t, mode: c_uint) -> c_int;
    fn cublasGemmStridedBatchedEx(
        handle: cublasHandle_t,
        transpose_a: cublasOperation_t,
        transpose_b: cublasOperation_t,
        m: c_int,
        n: c_int,
        k: c_int,
        alpha: *const c_void,
        a: *const c_void,
        a_type: cudaDataType,
        a_stride: c_int,
        a_batch_stride: c_longlong,
        b: *const c_void,
        b_type: cudaDataType,
        b_stride: c_int,
        b_batch_stride: c_longlong,
        beta: *const c_void,
        c: *mut c_void,
        c_type: cudaDataType,
        c_stride: c_int,
        c_batch_stride: c_longlong,
        batch: c_int,
        compute_type: cublasComputeType_t,
        algorithm: cublasGemmAlgo_t,
    ) -> c_int;
    fn cublasGetStatusName(status: c_int) -> *const c_char;
}

impl Table for Functions {
    const MINIMUM: Version = Version::new(12, 0);
    const VERSION_FUNCTION: &'static str = "cublasGetVersion_v2";

    /// The version, for which cuBLAS accepts a null handle: a real one needs a GPU.
    fn version(library: &Opened) -> Result<Version, Reason> {
        type GetVersion = unsafe extern "C" fn(cublasHandle_t, *mut c_int) -> c_int;
        // SAFETY: the type is the header's.
        let get_version: GetVersion = unsafe { library.function(Self::VERSION_FUNCTION) }?;
        let mut code = 0;
        // SAFETY: the pointer is valid for the call.
        let status = unsafe { get_version(ptr::null_mut(), &mut code) };
        library.check(Self::VERSION_FUNCTION, status)?;
        Ok(Version::of_cublas(code))
    }
}

/// Opens cuBLAS at `path` with the cuBLASLt that lies beside it.
///
/// libcublas is linked with libcublasLt. LD_LIBRARY_PATH would come before the folder of libcublas
/// in the loader's search, and the cuBLASLt of another release lacks symbols.
pub(super) fn open(path: &Path, major: u32) -> Result<Library<Functions>, Reason> {
    let lt = match path.parent() {
        Some(folder) if folder != Path::new("") => {
            // Without it, the loader says below what it misses.
            Opened::open(&folder.join(format!("libcublasLt.so.{major}"))).ok()
        }
        _ => None,
    };
    Ok(Library::<Functions>::open(path)?.with(lt))
}
