//! Why a GPU cannot be used, or can no longer be used.

use proto::cost::bytes;

/// A failure of a GPU or of a library that drives it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is not enough memory.
    #[error("{} of GPU memory is not available: {} of {} is free", bytes(*wanted), bytes(*free), bytes(*total))]
    OutOfMemory {
        /// Bytes that were requested.
        wanted: u64,
        /// Bytes that no process uses.
        free: u64,
        /// Bytes of the GPU.
        total: u64,
    },
    /// A call failed.
    #[error("{call}: {name} ({code})")]
    Call {
        /// The function.
        call: &'static str,
        /// The library's number for the error.
        code: i32,
        /// The library's name for the error.
        name: String,
    },
    /// The kernels cannot be compiled.
    #[error("the kernels cannot be compiled for {architecture}: {log}")]
    Compiler {
        /// The architecture of the GPU.
        architecture: String,
        /// The compiler's messages.
        log: String,
    },
}

impl Error {
    /// Whether the GPU itself is damaged, so that no process should use it.
    pub fn is_hardware(&self) -> bool {
        matches!(self, Self::Call { code: 214 | 220 | 226, .. })
    }
}
