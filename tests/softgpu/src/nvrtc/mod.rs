//! NVRTC: accepts the one source that the host's kernels were built from.
//!
//! Safety of all entry points: pointers must be valid as NVIDIA's documentation demands.

mod image;
mod options;

pub(crate) use image::Image;

use std::ffi::{CStr, c_char, c_int};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::fault;
use crate::kernel;
use crate::report::count;
use crate::world::{Handles, world};

const SUCCESS: u32 = 0;
const INVALID_INPUT: u32 = 3;
const INVALID_PROGRAM: u32 = 4;
const INVALID_OPTION: u32 = 5;
const COMPILATION: u32 = 6;

#[derive(Debug, Default)]
struct Program {
    source: String,
    log: String,
    cubin: Option<String>,
    ptx: Option<String>,
}

fn programs() -> &'static Handles<Mutex<Program>> {
    static PROGRAMS: OnceLock<Handles<Mutex<Program>>> = OnceLock::new();
    PROGRAMS.get_or_init(|| Handles::with_base(0x6_0000_1000))
}

type Handle = *mut libc::c_void;

fn call(name: &str, act: impl FnOnce() -> Result<(), u32>) -> u32 {
    if let Some(code) = fault::call(name) {
        return code;
    }
    act().err().unwrap_or(SUCCESS)
}

fn with<T>(handle: Handle, act: impl FnOnce(&mut Program) -> Result<T, u32>) -> Result<T, u32> {
    let program = programs().find(handle as usize).ok_or(INVALID_PROGRAM)?;
    act(&mut program.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Writes through a caller's pointer.
///
/// # Safety
/// The pointer must be null or valid for a write.
unsafe fn put<T>(at: *mut T, value: T) -> Result<(), u32> {
    // SAFETY: the caller vouches for the pointer.
    unsafe { crate::driver::put(at, value) }.map_err(|_| INVALID_INPUT)
}

/// Copies a text and its zero to a caller's buffer.
///
/// # Safety
/// The pointer must be null or have room for the text and its zero.
unsafe fn put_text(to: *mut c_char, text: &str) -> Result<(), u32> {
    if to.is_null() {
        return Err(INVALID_INPUT);
    }
    // SAFETY: the caller asked for the size and vouches for the room.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), text.len());
        *to.add(text.len()) = 0;
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> u32 {
    call("nvrtcVersion", || {
        let version = world().settings.cuda;
        // SAFETY: the caller's pointers are valid or null.
        unsafe {
            put(major, version.0 as c_int)?;
            put(minor, version.1 as c_int)
        }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvrtcGetNumSupportedArchs(number: *mut c_int) -> u32 {
    call("nvrtcGetNumSupportedArchs", || {
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(number, world().settings.supported_archs.len() as c_int) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvrtcGetSupportedArchs(list: *mut c_int) -> u32 {
    call("nvrtcGetSupportedArchs", || {
        if list.is_null() {
            return Err(INVALID_INPUT);
        }
        for (index, arch) in world().settings.supported_archs.iter().enumerate() {
            // SAFETY: the caller asked for the number and vouches for the room.
            unsafe { put(list.add(index), *arch as c_int) }?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvrtcCreateProgram(
    program: *mut Handle,
    source: *const c_char,
    _name: *const c_char,
    headers: c_int,
    _header_texts: *const *const c_char,
    _include_names: *const *const c_char,
) -> u32 {
    call("nvrtcCreateProgram", || {
        if program.is_null() || source.is_null() || headers < 0 {
            return Err(INVALID_INPUT);
        }
        // SAFETY: the caller vouches for a zero-ended text.
        let source = unsafe { CStr::from_ptr(source) }.to_string_lossy().into_owned();
        let new = Program { source, ..Program::default() };
        let handle = programs().insert(Arc::new(Mutex::new(new)));
        // SAFETY: the pointer is not null, and the caller vouches for it.
        unsafe { put(program, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvrtcDestroyProgram(program: *mut Handle) -> u32 {
    call("nvrtcDestroyProgram", || {
        if program.is_null() {
            return Err(INVALID_PROGRAM);
        }
        // SAFETY: the pointer is not null, and the caller vouches for it.
        unsafe {
            programs().remove(*program as usize).ok_or(INVALID_PROGRAM)?;
            put(program, std::ptr::null_mut())
        }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvrtcCompileProgram(
    program: Handle,
    count_of_options: c_int,
    options: *const *const c_char,
) -> u32 {
    call("nvrtcCompileProgram", || {
        count("nvrtc_compilations", 1);
        let mut texts = Vec::new();
        for index in 0..usize::try_from(count_of_options).map_err(|_| INVALID_INPUT)? {
            // SAFETY: the caller vouches for that many zero-ended texts.
            let text = unsafe { CStr::from_ptr(*options.add(index)) };
            texts.push(text.to_string_lossy().into_owned());
        }
        with(program, |program| compile(program, &texts))
    })
}

fn compile(program: &mut Program, options: &[String]) -> Result<(), u32> {
    *program = Program { source: std::mem::take(&mut program.source), ..Program::default() };
    let target = options::parse(options).map_err(|message| {
        program.log = format!("nvrtc: error: {message}\n");
        INVALID_OPTION
    })?;
    let Some(hash) = kernel::source_of(&program.source) else {
        program.log = "softgpu.cu(1): error: this is not the source that the software GPU's \
                       kernels were built from; build the tests again\n"
            .to_owned();
        return Err(COMPILATION);
    };
    let (real, arch) = target;
    let image = Image { is_ptx: true, arch, cuda: world().settings.cuda, hash };
    program.ptx = Some(image.text());
    program.cubin = real.then(|| Image { is_ptx: false, ..image }.text());
    Ok(())
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvrtcGetProgramLogSize(program: Handle, size: *mut usize) -> u32 {
    call("nvrtcGetProgramLogSize", || {
        // SAFETY: the caller's pointer is valid or null.
        with(program, |program| unsafe { put(size, program.log.len() + 1) })
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvrtcGetProgramLog(program: Handle, log: *mut c_char) -> u32 {
    call("nvrtcGetProgramLog", || {
        // SAFETY: the caller asked for the size and vouches for the room.
        with(program, |program| unsafe { put_text(log, &program.log) })
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvrtcGetCUBINSize(program: Handle, size: *mut usize) -> u32 {
    call("nvrtcGetCUBINSize", || {
        // A program for a virtual architecture, or without a successful compilation, has none.
        let bytes =
            |program: &mut Program| Ok(program.cubin.as_ref().map_or(0, |cubin| cubin.len() + 1));
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(size, with(program, bytes)?) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvrtcGetCUBIN(program: Handle, cubin: *mut c_char) -> u32 {
    call("nvrtcGetCUBIN", || {
        with(program, |program| {
            let text = program.cubin.as_ref().ok_or(INVALID_PROGRAM)?;
            // SAFETY: the caller asked for the size and vouches for the room.
            unsafe { put_text(cubin, text) }
        })
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvrtcGetPTXSize(program: Handle, size: *mut usize) -> u32 {
    call("nvrtcGetPTXSize", || {
        with(program, |program| {
            let bytes = program.ptx.as_ref().map_or(0, String::len) + 1;
            // SAFETY: the caller's pointer is valid or null.
            unsafe { put(size, bytes) }
        })
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvrtcGetPTX(program: Handle, ptx: *mut c_char) -> u32 {
    call("nvrtcGetPTX", || {
        with(program, |program| {
            let text = program.ptx.as_deref().unwrap_or_default();
            // SAFETY: the caller asked for the size and vouches for the room.
            unsafe { put_text(ptx, text) }
        })
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nvrtcGetErrorString(result: u32) -> *const c_char {
    let text = match result {
        0 => c"NVRTC_SUCCESS",
        1 => c"NVRTC_ERROR_OUT_OF_MEMORY",
        2 => c"NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
        3 => c"NVRTC_ERROR_INVALID_INPUT",
        4 => c"NVRTC_ERROR_INVALID_PROGRAM",
        5 => c"NVRTC_ERROR_INVALID_OPTION",
        6 => c"NVRTC_ERROR_COMPILATION",
        7 => c"NVRTC_ERROR_BUILTIN_OPERATION_FAILURE",
        8 => c"NVRTC_ERROR_NO_NAME_EXPRESSIONS_AFTER_COMPILATION",
        9 => c"NVRTC_ERROR_NO_LOWERED_NAMES_BEFORE_COMPILATION",
        10 => c"NVRTC_ERROR_NAME_EXPRESSION_NOT_VALID",
        11 => c"NVRTC_ERROR_INTERNAL_ERROR",
        12 => c"NVRTC_ERROR_TIME_FILE_WRITE_FAILED",
        13 => c"NVRTC_ERROR_NO_PCH_CREATE_ATTEMPTED",
        _ => c"NVRTC_ERROR unknown",
    };
    text.as_ptr()
}
