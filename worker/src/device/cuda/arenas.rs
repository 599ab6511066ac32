//! The arenas of a GPU, and the segments that they lie in.

use super::arena::{Arena, rounded};
use super::calls::Handle;
use super::library::Driver;
use cudarc::driver::sys;
use std::collections::VecDeque;
use std::ffi::c_void;

/// The arenas of a GPU.
#[derive(Default)]
pub(super) struct Memories {
    pub(super) lasting: Arena,
    pub(super) passing: Arena,
    pub(super) inputs: Arena,
    pub(super) pinned: Arena,
    /// Blocks of `inputs` and `pinned` that are free once an event has happened.
    pub(super) released: VecDeque<Released>,
    pub(super) segments: Vec<u64>,
    pub(super) pinned_segments: Vec<u64>,
}

/// A block that is free once an event has happened.
pub(super) struct Released {
    pub(super) after: Handle<sys::CUevent>,
    pub(super) space: Space,
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// One of the arenas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Lasting,
    Passing,
    Inputs,
    Pinned,
}

impl Memories {
    pub(super) fn arena(&mut self, space: Space) -> &mut Arena {
        match space {
            Space::Lasting => &mut self.lasting,
            Space::Passing => &mut self.passing,
            Space::Inputs => &mut self.inputs,
            Space::Pinned => &mut self.pinned,
        }
    }

    /// Frees all segments.
    ///
    /// # Safety
    /// The context is current, and no work uses the memory.
    pub(super) unsafe fn free(&mut self, driver: &Driver) {
        for Released { space, start, bytes, .. } in self.released.drain(..) {
            announce(driver.softgpuBlockGiven, space, start, bytes);
        }
        for segment in self.segments.drain(..) {
            // SAFETY: the segment was allocated by `cuMemAlloc` and is freed once.
            unsafe { (driver.cuMemFree_v2)(segment) };
        }
        for segment in self.pinned_segments.drain(..) {
            // SAFETY: the segment was allocated by `cuMemHostAlloc` and is freed once.
            unsafe { (driver.cuMemFreeHost)(segment as *mut c_void) };
        }
    }
}

/// Tells the software GPU of tests about a block. Other drivers have no such function.
pub(super) fn announce(
    function: Option<unsafe extern "C" fn(sys::CUdeviceptr, usize)>,
    space: Space,
    start: u64,
    bytes: u64,
) {
    if let (Some(function), false) = (function, space == Space::Pinned) {
        // SAFETY: the function only notes the numbers.
        unsafe { function(start, rounded(bytes) as usize) };
    }
}
