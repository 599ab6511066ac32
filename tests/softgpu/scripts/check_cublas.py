"""Compares the software cuBLAS with torch.matmul.

Usage: python scripts/check_cublas.py target/debug/libsoftgpu.so
"""

import ctypes
import itertools
import sys

import torch

F32, BF16 = 0, 14
COMPUTE_32F, COMPUTE_32F_PEDANTIC = 68, 69
TYPES = {F32: torch.float32, BF16: torch.bfloat16}

gpu = ctypes.CDLL(sys.argv[1])
stream, handle, context = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()


def check(code, want=0):
    assert code == want, f"code {code}, want {want}"


check(gpu.cuInit(0))
check(gpu.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
check(gpu.cuCtxSetCurrent(context))
check(gpu.cuStreamCreate(ctypes.byref(stream), 1))
check(gpu.cublasCreate_v2(ctypes.byref(handle)))
check(gpu.cublasSetStream_v2(handle, stream))


def upload(tensor):
    """Copies a tensor to new device memory, byte for byte."""
    data = tensor.contiguous().view(torch.uint8).flatten()
    address = ctypes.c_uint64()
    check(gpu.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(data.numel())))
    source = ctypes.c_void_p(data.data_ptr())
    check(gpu.cuMemcpyHtoDAsync_v2(address, source, ctypes.c_size_t(data.numel()), stream))
    return address


def download(address, like):
    out = torch.empty_like(like)
    size = ctypes.c_size_t(out.numel() * out.element_size())
    check(gpu.cuMemcpyDtoHAsync_v2(ctypes.c_void_p(out.data_ptr()), address, size, stream))
    return out


def stored(batch, rows, columns, ld, scalar, fill=float("nan")):
    """Column-major storage [batch, columns, ld], whose padding holds `fill`."""
    memory = torch.full((batch, columns, ld), fill)
    memory[:, :, :rows] = torch.randn(batch, columns, rows)
    return memory.to(TYPES[scalar])


def one(m, n, k, op_a, op_b, pad, batch, types, alpha, beta, compute, share_a=False):
    type_in, type_out = types
    rows_a, columns_a = (k, m) if op_a else (m, k)
    rows_b, columns_b = (n, k) if op_b else (k, n)
    lda, ldb, ldc = rows_a + pad, rows_b + pad, m + pad
    a = stored(1 if share_a else batch, rows_a, columns_a, lda, type_in)
    b = stored(batch, rows_b, columns_b, ldb, type_in)
    c = stored(batch, m, n, ldc, type_out)
    if beta == 0.0:
        c[:] = float("nan")
    device_a, device_b, device_c = upload(a), upload(b), upload(c)
    scalars = [ctypes.byref(ctypes.c_float(alpha)), ctypes.byref(ctypes.c_float(beta))]
    big = ctypes.c_longlong
    if batch == 1:
        code = gpu.cublasGemmEx(
            handle, op_a, op_b, m, n, k, scalars[0], device_a, type_in, lda,
            device_b, type_in, ldb, scalars[1], device_c, type_out, ldc, compute, -1)
    else:
        code = gpu.cublasGemmStridedBatchedEx(
            handle, op_a, op_b, m, n, k, scalars[0],
            device_a, type_in, lda, big(0 if share_a else a[0].numel()),
            device_b, type_in, ldb, big(b[0].numel()), scalars[1],
            device_c, type_out, ldc, big(c[0].numel()), batch, compute, -1)
    check(code)
    got = download(device_c, c)
    op_of_a = a[:, :, :rows_a].double()
    op_of_b = b[:, :, :rows_b].double()
    matrix_a = op_of_a if op_a else op_of_a.transpose(1, 2)
    matrix_b = op_of_b if op_b else op_of_b.transpose(1, 2)
    want = alpha * torch.matmul(matrix_a, matrix_b)
    if beta != 0.0:
        want = want + beta * c[:, :, :m].double().transpose(1, 2)
    result = got[:, :, :m].transpose(1, 2).double()
    relative = 2.0**-8 if type_out == BF16 else 0.0
    error = (result - want).abs() - relative * want.abs()
    limit = 1e-6 * (k + 1) * max(1.0, abs(alpha))
    assert error.max().item() < limit, (m, n, k, op_a, op_b, pad, batch, types, error.max())
    if pad:
        assert torch.equal(got[:, :, m:].isnan(), c[:, :, m:].isnan()), "padding was written"
    for address in (device_a, device_b, device_c):
        check(gpu.cuMemFree_v2(address))


torch.manual_seed(0)
count = 0
sizes = [(1, 1, 1), (5, 7, 3), (33, 4, 65), (64, 96, 128), (130, 37, 50)]
for (m, n, k), op_a, op_b, pad, batch in itertools.product(sizes, (0, 1), (0, 1), (0, 3), (1, 3)):
    for types in ((F32, F32), (BF16, F32), (BF16, BF16)):
        for alpha, beta in ((1.0, 0.0), (1.0, 1.0), (0.5, -2.0)):
            one(m, n, k, op_a, op_b, pad, batch, types, alpha, beta, COMPUTE_32F)
            count += 1
one(16, 16, 16, 0, 0, 0, 4, (F32, F32), 1.0, 0.0, COMPUTE_32F_PEDANTIC, share_a=True)
print(f"{count + 1} products agree with torch.matmul")
