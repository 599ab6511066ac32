//! `cublasGemmEx` and `cublasGemmStridedBatchedEx`: arguments as documented.

use std::ffi::{c_int, c_longlong, c_void};
use std::sync::Arc;

use super::gemm::{Gemm, Matrix, Scalar, Shape};
use super::{Status, call, with};
use crate::driver::{self, Handle};
use crate::memory::Span;
use crate::ops::Bytes;
use crate::report::{count, violation};
use crate::stream::{Stream, planned};

const OP_N: u32 = 0;
const OP_T: u32 = 1;
const OP_C: u32 = 2;
const COMPUTE_32F: u32 = 68;
const COMPUTE_32F_PEDANTIC: u32 = 69;

/// The arguments that both calls share.
struct Request {
    ops: (u32, u32),
    sizes: (c_int, c_int, c_int),
    types: (u32, u32, u32),
    lds: (c_int, c_int, c_int),
    strides: (c_longlong, c_longlong, c_longlong),
    batch: c_int,
    compute: u32,
    alpha: *const c_void,
    beta: *const c_void,
    pointers: (*const c_void, *const c_void, *mut c_void),
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cublasGemmEx(
    handle: Handle,
    op_a: u32,
    op_b: u32,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    type_a: u32,
    lda: c_int,
    b: *const c_void,
    type_b: u32,
    ldb: c_int,
    beta: *const c_void,
    c: *mut c_void,
    type_c: u32,
    ldc: c_int,
    compute: u32,
    _algorithm: c_int,
) -> u32 {
    let request = Request {
        ops: (op_a, op_b),
        sizes: (m, n, k),
        types: (type_a, type_b, type_c),
        lds: (lda, ldb, ldc),
        strides: (0, 0, 0),
        batch: 1,
        compute,
        alpha,
        beta,
        pointers: (a, b, c),
    };
    // SAFETY: the caller's pointers are as documented.
    call("cublasGemmEx", || unsafe { enqueue(handle, "cublasGemmEx", &request) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cublasGemmStridedBatchedEx(
    handle: Handle,
    op_a: u32,
    op_b: u32,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    type_a: u32,
    lda: c_int,
    stride_a: c_longlong,
    b: *const c_void,
    type_b: u32,
    ldb: c_int,
    stride_b: c_longlong,
    beta: *const c_void,
    c: *mut c_void,
    type_c: u32,
    ldc: c_int,
    stride_c: c_longlong,
    batch: c_int,
    compute: u32,
    _algorithm: c_int,
) -> u32 {
    let request = Request {
        ops: (op_a, op_b),
        sizes: (m, n, k),
        types: (type_a, type_b, type_c),
        lds: (lda, ldb, ldc),
        strides: (stride_a, stride_b, stride_c),
        batch,
        compute,
        alpha,
        beta,
        pointers: (a, b, c),
    };
    let name = "cublasGemmStridedBatchedEx";
    // SAFETY: the caller's pointers are as documented.
    call(name, || unsafe { enqueue(handle, name, &request) })
}

fn transposed(op: u32) -> Result<bool, Status> {
    match op {
        OP_N => Ok(false),
        OP_T | OP_C => Ok(true),
        _ => Err(Status::INVALID_VALUE),
    }
}

fn size(value: c_int) -> Result<usize, Status> {
    usize::try_from(value).map_err(|_| Status::INVALID_VALUE)
}

/// Checks the arguments and enqueues the product.
///
/// # Safety
/// `alpha` and `beta` must be null or point to floats.
unsafe fn enqueue(handle: Handle, name: &str, request: &Request) -> Result<(), Status> {
    count("cublas_calls", 1);
    let (stream, workspace) = stream_of(handle)?;
    let (a_transposed, b_transposed) = (transposed(request.ops.0)?, transposed(request.ops.1)?);
    let (m, n, k) = (size(request.sizes.0)?, size(request.sizes.1)?, size(request.sizes.2)?);
    let (lda, ldb, ldc) = (size(request.lds.0)?, size(request.lds.1)?, size(request.lds.2)?);
    let batch = size(request.batch)?;
    let rows_a = if a_transposed { k } else { m };
    let rows_b = if b_transposed { n } else { k };
    let small = |ld: usize, rows: usize| ld < rows.max(1);
    if small(lda, rows_a) || small(ldb, rows_b) || small(ldc, m) {
        return Err(Status::INVALID_VALUE);
    }
    if ![COMPUTE_32F, COMPUTE_32F_PEDANTIC].contains(&request.compute) {
        return Err(Status::NOT_SUPPORTED);
    }
    let scalar = |code: u32| Scalar::from_code(code).ok_or(Status::NOT_SUPPORTED);
    let (of_a, of_b) = (scalar(request.types.0)?, scalar(request.types.1)?);
    let of_c = scalar(request.types.2)?;
    if of_a != of_b || (of_a == Scalar::F32 && of_c == Scalar::Bf16) {
        return Err(Status::NOT_SUPPORTED);
    }
    if m == 0 || n == 0 || batch == 0 {
        return Ok(());
    }
    let (a, b, c) = request.pointers;
    if request.alpha.is_null() || request.beta.is_null() || c.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: the pointers are not null, and the caller vouches for them.
    let (alpha, beta) = unsafe { (*request.alpha.cast::<f32>(), *request.beta.cast::<f32>()) };
    let uses_inputs = k > 0 && alpha != 0.0;
    if uses_inputs && (a.is_null() || b.is_null()) {
        return Err(Status::INVALID_VALUE);
    }
    let (stride_a, stride_b, stride_c) = request.strides;
    if batch > 1 && stride_c.unsigned_abs() < (ldc * (n - 1) + m) as u64 {
        let message = format!("the products of `{name}` overlap: stride {stride_c} of C");
        violation("cublas.overlap", &message, &[]);
        return Err(Status::INVALID_VALUE);
    }
    let matrix = |at: u64, scalar, ld, stride: i64, rows, columns| Matrix {
        at: Bytes::at(at),
        scalar,
        ld,
        stride,
        rows,
        columns,
    };
    let columns_a = if a_transposed { m } else { k };
    let columns_b = if b_transposed { k } else { n };
    let gemm = Gemm {
        shape: Shape { m, n, k, batch },
        a: matrix(a as u64, of_a, lda, stride_a, rows_a, columns_a),
        b: matrix(b as u64, of_b, ldb, stride_b, rows_b, columns_b),
        c: matrix(c as u64, of_c, ldc, stride_c, m, n),
        a_transposed,
        b_transposed,
        alpha,
        beta,
    };
    let label = format!("{name} {m}x{n}x{k}");
    let mut touched = gemm.touched();
    touched.writes.extend(workspace);
    stream.enqueue(planned(label, touched, move || gemm.run()));
    Ok(())
}

fn stream_of(handle: Handle) -> Result<(Arc<Stream>, Option<Span>), Status> {
    let (stream, workspace, device_pointers) =
        with(handle, |state| Ok((state.stream.clone(), state.workspace, state.device_pointers)))?;
    if device_pointers {
        return Err(Status::NOT_SUPPORTED);
    }
    let device = driver::current_device().ok_or(Status::NOT_INITIALIZED)?;
    if device.sticky().is_some() {
        return Err(Status::EXECUTION_FAILED);
    }
    // Without cublasSetStream the default stream is meant, which is refused.
    match stream {
        Some(stream) => Ok((stream, workspace)),
        None => match driver::stream(std::ptr::null_mut()) {
            Ok(stream) => Ok((stream, workspace)),
            Err(_) => Err(Status::EXECUTION_FAILED),
        },
    }
}
