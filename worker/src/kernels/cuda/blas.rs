//! Matrix products by cuBLAS.
//!
//! cuBLAS stores matrices by columns, and ours are stored by rows: what is `[m, n]` here is `[n, m]` there, without any
//! copy. `C = A B` by rows is therefore `C = B A` by columns, with the operands exchanged.

#![allow(unsafe_code)] // Calls C functions.

use crate::device::cuda::{Error, Gpu, Stream};
use crate::device::{Device, Dtype};
use crate::kernels::{Onto, Operand, Out};
use cudarc::cublas::sys;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

/// The workspace that cuBLAS gets, as NVIDIA recommends for Hopper. Its own would be allocated per stream, and results
/// could differ from run to run.
const WORKSPACE_BYTES: usize = 32 << 20;

/// A handle of cuBLAS for one GPU's compute stream.
pub(super) struct Blas {
    gpu: Arc<Gpu>,
    handle: sys::cublasHandle_t,
    _workspace: crate::device::Buffer,
}

// SAFETY: a handle may be used by any thread, by one at a time; all calls come from the thread that launches kernels.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

/// A matrix in device memory, stored by rows.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) address: u64,
    pub(super) dtype: Dtype,
    /// Elements from one stored row to the next.
    pub(super) stride: usize,
    /// Whether the stored rows are the columns of the matrix.
    pub(super) transposed: bool,
    /// Elements from one matrix of a batch to the next.
    pub(super) next: usize,
}

impl Matrix {
    fn operation(self) -> sys::cublasOperation_t {
        if self.transposed {
            sys::cublasOperation_t::CUBLAS_OP_T
        } else {
            sys::cublasOperation_t::CUBLAS_OP_N
        }
    }
}

/// The size of a product: rows and columns of the result, summed indices, and the number of products.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) inner: usize,
    pub(super) count: usize,
}

fn data_type(dtype: Dtype) -> sys::cudaDataType_t {
    match dtype {
        Dtype::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        Dtype::F32 => sys::cudaDataType_t::CUDA_R_32F,
        Dtype::F64 | Dtype::U32 => panic!("no products of {dtype:?}"),
    }
}

fn int(n: usize) -> c_int {
    c_int::try_from(n).expect("a dimension below 2^31")
}

impl Blas {
    pub(super) fn new(device: &Device, gpu: &Arc<Gpu>) -> Result<Self, Error> {
        let cublas = gpu.libraries().cublas();
        let mut handle = null_mut();
        // SAFETY: `handle` outlives the call.
        let code = unsafe { (cublas.cublasCreate_v2)(&mut handle) };
        result(gpu, "cublasCreate", code)?;
        let workspace = device.zeros(Dtype::F32, WORKSPACE_BYTES / 4);
        let blas = Self { gpu: gpu.clone(), handle, _workspace: workspace };
        // SAFETY: the handle is live, and the workspace lives as long as it does.
        unsafe {
            let stream = gpu.raw(Stream::Compute).cast();
            result(gpu, "cublasSetStream", (cublas.cublasSetStream_v2)(handle, stream))?;
            let workspace = blas._workspace.all().address() as *mut c_void;
            let set = (cublas.cublasSetWorkspace_v2)(handle, workspace, WORKSPACE_BYTES);
            result(gpu, "cublasSetWorkspace", set)?;
            // Sums that are split among blocks stay f32.
            let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
            let set = (cublas.cublasSetMathMode)(handle, mode as u32);
            result(gpu, "cublasSetMathMode", set)?;
        }
        Ok(blas)
    }

    /// `c = a b` or `c += a b`.
    pub(super) fn gemm(&self, c: Out<'_>, a: Operand<'_>, b: Operand<'_>) {
        let size = Size { rows: a.rows, cols: b.cols, inner: a.cols, count: 1 };
        let operand = |x: Operand<'_>| Matrix {
            address: x.window.address(),
            dtype: x.window.dtype(),
            stride: x.stride,
            transposed: x.transposed,
            next: 0,
        };
        let to = Matrix {
            address: c.to.address(),
            dtype: c.to.dtype(),
            stride: b.cols,
            transposed: false,
            next: 0,
        };
        self.batched((to, c.onto), operand(a), operand(b), size);
    }

    /// As [`Blas::gemm`], for several products of one size. None of its dimensions is 0.
    pub(super) fn batched(&self, (c, onto): (Matrix, Onto), a: Matrix, b: Matrix, size: Size) {
        let Size { rows, cols, inner, count } = size;
        let (one, beta) = (1f32, if onto == Onto::Sum { 1f32 } else { 0. });
        let (one, beta) = (std::ptr::from_ref(&one).cast(), std::ptr::from_ref(&beta).cast());
        let next = |x: Matrix| x.next as i64;
        self.gpu.attempt(|| {
            self.gpu.count_product();
            let multiply = self.gpu.libraries().cublas().cublasGemmStridedBatchedEx;
            // SAFETY: the caller's matrices lie within their buffers; the factors outlive the call.
            let code = unsafe {
                multiply(
                    self.handle,
                    b.operation(),
                    a.operation(),
                    int(cols),
                    int(rows),
                    int(inner),
                    one,
                    b.address as *const c_void,
                    data_type(b.dtype),
                    int(b.stride),
                    next(b),
                    a.address as *const c_void,
                    data_type(a.dtype),
                    int(a.stride),
                    next(a),
                    beta,
                    c.address as *mut c_void,
                    data_type(c.dtype),
                    int(c.stride),
                    next(c),
                    int(count),
                    sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                    sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
                )
            };
            result(&self.gpu, "cublasGemmStridedBatchedEx", code)
        });
    }
}

fn result(gpu: &Gpu, call: &'static str, code: c_int) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the library's names are static strings that end in a zero.
    let name = unsafe { CStr::from_ptr((gpu.libraries().cublas().cublasGetStatusName)(code as _)) };
    Err(Error::Call { call, code, name: name.to_string_lossy().into_owned() })
}

impl Drop for Blas {
    /// Errors do not matter any more.
    fn drop(&mut self) {
        self.gpu.wait(Stream::Compute);
        // SAFETY: the handle is live and not used after this.
        unsafe { (self.gpu.libraries().cublas().cublasDestroy_v2)(self.handle) };
    }
}
