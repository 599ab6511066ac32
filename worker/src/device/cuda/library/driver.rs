//! The functions of the driver, `libcuda.so.1`.

use super::functions::{Opened, Table, functions};
use super::reason::Reason;
use super::version::Version;
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUjit_option,
    CUmodule, CUstream, CUuuid,
};
use std::ffi::{c_char, c_int, c_uchar, c_uint, c_void};

functions! {
    fn cuInit(flags: c_uint) -> c_int;
    fn cuDriverGetVersion(version: *mut c_int) -> c_int;
    fn cuGetErrorName(status: c_int, name: *mut *const c_char) -> c_int;

    fn cuDeviceGetCount(count: *mut c_int) -> c_int;
    fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) -> c_int;
    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: CUdevice) -> c_int;
    fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, device: CUdevice) -> c_int;
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) -> c_int;
    fn cuDeviceGetAttribute(
        value: *mut c_int,
        attribute: CUdevice_attribute,
        device: CUdevice,
    ) -> c_int;
    fn cuDeviceGetPCIBusId(id: *mut c_char, length: c_int, device: CUdevice) -> c_int;
    fn cuDeviceCanAccessPeer(can: *mut c_int, device: CUdevice, peer: CUdevice) -> c_int;
    fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice) -> c_int;
    fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) -> c_int;
    fn cuCtxSetCurrent(context: CUcontext) -> c_int;

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int;
    fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize) -> c_int;
    fn cuMemFree_v2(address: CUdeviceptr) -> c_int;
    fn cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, flags: c_uint) -> c_int;
    fn cuMemFreeHost(address: *mut c_void) -> c_int;
    fn cuMemcpyHtoDAsync_v2(
        to: CUdeviceptr,
        from: *const c_void,
        bytes: usize,
        stream: CUstream,
    ) -> c_int;
    fn cuMemcpyDtoHAsync_v2(
        to: *mut c_void,
        from: CUdeviceptr,
        bytes: usize,
        stream: CUstream,
    ) -> c_int;
    fn cuMemcpyDtoDAsync_v2(
        to: CUdeviceptr,
        from: CUdeviceptr,
        bytes: usize,
        stream: CUstream,
    ) -> c_int;
    fn cuMemsetD8Async(to: CUdeviceptr, value: c_uchar, bytes: usize, stream: CUstream) -> c_int;

    fn cuStreamCreateWithPriority(stream: *mut CUstream, flags: c_uint, priority: c_int) -> c_int;
    fn cuStreamDestroy_v2(stream: CUstream) -> c_int;
    fn cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint) -> c_int;
    fn cuStreamSynchronize(stream: CUstream) -> c_int;
    fn cuEventCreate(event: *mut CUevent, flags: c_uint) -> c_int;
    fn cuEventDestroy_v2(event: CUevent) -> c_int;
    fn cuEventRecord(event: CUevent, stream: CUstream) -> c_int;
    fn cuEventQuery(event: CUevent) -> c_int;
    fn cuEventSynchronize(event: CUevent) -> c_int;
    fn cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent) -> c_int;

    fn cuModuleLoadDataEx(
        module: *mut CUmodule,
        image: *const c_void,
        option_count: c_uint,
        options: *mut CUjit_option,
        option_values: *mut *mut c_void,
    ) -> c_int;
    fn cuModuleUnload(module: CUmodule) -> c_int;
    fn cuModuleGetFunction(
        function: *mut CUfunction,
        module: CUmodule,
        name: *const c_char,
    ) -> c_int;
    fn cuLaunchKernel(
        function: CUfunction,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: CUstream,
        arguments: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> c_int;

    optional fn softgpuBlockTaken(address: CUdeviceptr, bytes: usize);
    optional fn softgpuBlockGiven(address: CUdeviceptr, bytes: usize);
    optional fn softgpuHostTouch(address: *const c_void, bytes: usize, write: c_int);
}

impl Table for Functions {
    /// The first driver for which CUDA 12 is built.
    const MINIMUM: Version = Version::new(12, 0);
    const VERSION_FUNCTION: &'static str = "cuDriverGetVersion";

    /// The newest version of CUDA that the driver supports. It needs no `cuInit` and no GPU.
    fn version(library: &Opened) -> Result<Version, Reason> {
        type GetVersion = unsafe extern "C" fn(*mut c_int) -> c_int;
        // SAFETY: the type is the header's.
        let get_version: GetVersion = unsafe { library.function(Self::VERSION_FUNCTION) }?;
        let mut code = 0;
        // SAFETY: the pointer is valid for the call.
        let status = unsafe { get_version(&mut code) };
        library.check(Self::VERSION_FUNCTION, status)?;
        Ok(Version::of_driver(code))
    }
}
