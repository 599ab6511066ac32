//! Modules: images made by the software NVRTC, and the functions in them.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use super::context::{OPTIN_SHARED_BYTES, STATIC_SHARED_BYTES};
use super::{CUresult, Code, Handle, current, put};
use crate::kernel::{self, Kernel};
use crate::nvrtc::Image;
use crate::world::world;

/// A loaded image.
#[derive(Debug)]
pub(crate) struct Module {
    pub device: usize,
    /// The number of its source.
    source: u64,
}

/// A kernel of a module.
#[derive(Debug)]
pub(crate) struct Function {
    pub kernel: &'static Kernel,
    pub device: usize,
    /// The handle of its module, which must still be loaded at a launch.
    pub module: usize,
    /// Dynamic shared memory that a launch may ask for.
    pub max_dynamic_shared: AtomicI32,
}

/// The function behind a handle, if its module is loaded.
pub(crate) fn find_function(handle: Handle) -> Result<Arc<Function>, Code> {
    let function = world().functions.find(handle as usize).ok_or(Code::INVALID_HANDLE)?;
    world().modules.find(function.module).ok_or(Code::INVALID_HANDLE)?;
    Ok(function)
}

fn load(device: usize, module: *mut Handle, image: *const libc::c_void) -> Result<(), Code> {
    if module.is_null() || image.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: an image starts with at least the bytes of a header; the caller vouches for it.
    let image = unsafe { Image::read(image.cast()) }.ok_or(Code::INVALID_IMAGE)?;
    let (major, minor) = world().settings.capability;
    let target = major * 10 + minor;
    if !kernel::has_source(image.hash) {
        return Err(Code::INVALID_IMAGE);
    }
    let fits = if image.is_ptx {
        image.arch <= target
    } else {
        // A cubin runs on its own major version, on the same minor or a later one.
        image.arch / 10 == major && image.arch <= target
    };
    if !fits {
        return Err(Code::NO_BINARY_FOR_GPU);
    }
    if image.is_ptx && image.cuda > world().settings.driver {
        return Err(Code::UNSUPPORTED_PTX_VERSION);
    }
    let handle = world().modules.insert(Arc::new(Module { device, source: image.hash }));
    // SAFETY: the pointer is not null, and the caller vouches for it.
    unsafe { put(module, handle as Handle) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuModuleLoadData(
    module: *mut Handle,
    image: *const libc::c_void,
) -> CUresult {
    current("cuModuleLoadData", |device| load(device.index, module, image))
}

/// The options concern the JIT compiler's log and are ignored.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const libc::c_void,
    _count: c_uint,
    _options: *mut c_int,
    _values: *mut *mut libc::c_void,
) -> CUresult {
    current("cuModuleLoadDataEx", |device| load(device.index, module, image))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleUnload(module: Handle) -> CUresult {
    current("cuModuleUnload", |_| {
        world().modules.remove(module as usize).map(|_| ()).ok_or(Code::INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuModuleGetFunction(
    function: *mut Handle,
    module: Handle,
    name: *const c_char,
) -> CUresult {
    current("cuModuleGetFunction", |_| {
        if function.is_null() || name.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let found = world().modules.find(module as usize).ok_or(Code::INVALID_HANDLE)?;
        // SAFETY: the caller vouches for a zero-ended text.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| Code::NOT_FOUND)?;
        let kernel = kernel::find(found.source, name).ok_or(Code::NOT_FOUND)?;
        let room = STATIC_SHARED_BYTES - kernel.static_shared as c_int;
        let handle = world().functions.insert(Arc::new(Function {
            kernel,
            device: found.device,
            module: module as usize,
            max_dynamic_shared: AtomicI32::new(room.max(0)),
        }));
        // SAFETY: the pointer is not null, and the caller vouches for it.
        unsafe { put(function, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuFuncSetAttribute(
    function: Handle,
    attribute: c_int,
    value: c_int,
) -> CUresult {
    current("cuFuncSetAttribute", |_| {
        let function = find_function(function)?;
        match attribute {
            8 => {
                let room = OPTIN_SHARED_BYTES - function.kernel.static_shared as c_int;
                if value < 0 || value > room {
                    return Err(Code::INVALID_VALUE);
                }
                function.max_dynamic_shared.store(value, Ordering::SeqCst);
                Ok(())
            }
            // The preferred carve-out is a hint, -1 for the default, otherwise a percentage.
            9 if (-1..=100).contains(&value) => Ok(()),
            _ => Err(Code::INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    function: Handle,
) -> CUresult {
    current("cuFuncGetAttribute", |_| {
        let function = find_function(function)?;
        let (major, minor) = world().settings.capability;
        let found = match attribute {
            0 => 1024,                                   // threads per block
            1 => function.kernel.static_shared as c_int, // static shared bytes
            2 | 3 => 0,                                  // constant and local bytes
            4 => 32,                                     // registers
            5 | 6 => (major * 10 + minor) as c_int,      // PTX and binary version
            7 => 0,
            8 => function.max_dynamic_shared.load(Ordering::SeqCst),
            9 => -1,
            10..=15 => 0,
            _ => return Err(Code::INVALID_VALUE),
        };
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(value, found) }
    })
}
