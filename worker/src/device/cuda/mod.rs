//! NVIDIA GPUs, through libraries that are loaded at run time: a host without them is a host without a GPU.
//!
//! ```text
//! library/     finds the driver, NVRTC, cuBLAS and NCCL, and loads them as one set
//! present.rs   the GPUs of this host
//! gpu.rs       a GPU in use: context, streams, events, launches, the first error
//! calls.rs     handles, and results of calls         arena.rs    PURE: which addresses are in use
//! arenas.rs    the arenas of a GPU                   memory.rs   memory on the GPU, and pinned memory
//! program.rs   kernels, compiled for the GPU at hand  error.rs    why a GPU cannot be used
//! event.rs     points in a stream's work, to order streams of different threads
//! stamp.rs     times of a stream's work             counts.rs    how often a GPU was asked for something
//! ```

#![allow(unsafe_code)] // Calls C functions.

mod arena;
mod arenas;
mod calls;
mod counts;
mod error;
mod event;
mod gpu;
pub mod library;
mod memory;
mod present;
mod program;
mod stamp;

pub(super) use arena::Arena;
pub use counts::Counts;
pub use error::Error;
pub(crate) use event::Event;
pub use gpu::Gpu;
pub(crate) use gpu::{Argument, Function, Grid, Stream};
pub(super) use memory::{OnGpu, Use};
pub use present::{Mode, Present, free_memory, list};
pub(crate) use program::Program;
#[cfg(test)]
pub(crate) use program::compile_for_all;
pub use stamp::Stamp;

/// Ends this process without running the handlers that CUDA's libraries have registered for its end, which wait for the
/// GPU.
pub fn exit_at_once(code: u8) -> ! {
    // SAFETY: nothing of this process is used any more.
    unsafe { libc::_exit(code.into()) }
}
