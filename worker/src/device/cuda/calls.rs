//! Handles of the driver, and the results of its calls.

use super::error::Error;
use super::library::Driver;
use std::ffi::{CStr, c_int};

/// A handle of the driver.
#[derive(Clone, Copy)]
pub(super) struct Handle<T>(pub(super) T);

// SAFETY: the driver's handles may be used by any thread.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above; the driver's functions are thread-safe.
unsafe impl<T> Sync for Handle<T> {}

/// The error that the driver's `code` stands for, if it is one.
pub(super) fn driver_result(driver: &Driver, call: &'static str, code: c_int) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    let mut name = std::ptr::null();
    // SAFETY: `name` outlives the call.
    let known = unsafe { (driver.cuGetErrorName)(code, &mut name) } == 0;
    let name = if known && !name.is_null() {
        // SAFETY: the driver's names are static strings that end in a zero.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    } else {
        "an unknown error".to_owned()
    };
    Err(Error::Call { call, code, name })
}
