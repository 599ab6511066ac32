//! Faults to inject: what a test may choose, and how it is written.
//!
//! ```text
//!   launch:KERNEL:N=CODE  alloc:N=CODE  call:FUNCTION:N=CODE  kill:FUNCTION:N  ecc:N  nccl:RANK:PLACE=ACTION
//! ```

use std::fmt;

/// Where in a communicator's life a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NcclPlace {
    /// While the communicator is being made.
    Init,
    /// At the N-th collective of the rank, counted from 1.
    Collective(u64),
}

/// What a faulty rank does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NcclAction {
    /// It never proceeds until the communicator is aborted.
    Hang,
    /// The process kills itself with SIGKILL.
    Kill,
    /// It proceeds after a delay, in milliseconds.
    Slow(u64),
    /// `ncclCommGetAsyncError` reports this code and the operation hangs.
    Error(u32),
}

/// A fault to inject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The N-th launch of a kernel fails with a sticky error.
    Launch {
        /// The kernel's name, or `*` for any.
        kernel: String,
        /// Which of its launches, from 1.
        nth: u64,
        /// A `CUresult`.
        code: u32,
    },
    /// An allocation of device memory fails.
    Alloc {
        /// Which call of `cuMemAlloc_v2`, from 1.
        nth: u64,
        /// A `CUresult`.
        code: u32,
    },
    /// A call of an entry point returns a code and does nothing else.
    Call {
        /// The entry point's name in the library, such as `cuMemcpyHtoDAsync_v2`.
        function: String,
        /// Which of its calls, from 1.
        nth: u64,
        /// The code of the library that the entry point belongs to.
        code: u32,
    },
    /// The process kills itself with SIGKILL instead of making a call.
    Kill {
        /// The entry point's name in the library.
        function: String,
        /// Which of its calls, from 1.
        nth: u64,
    },
    /// A launch meets an uncorrectable memory error.
    Ecc {
        /// Which launch of any kernel, from 1.
        nth: u64,
    },
    /// A rank of a communicator misbehaves.
    Nccl {
        /// The rank that misbehaves, in every communicator of the process.
        rank: u32,
        /// When it does.
        place: NcclPlace,
        /// What it does.
        action: NcclAction,
    },
}

impl Fault {
    /// Reads a fault as `Display` writes it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.trim().split_once(':')?;
        match kind {
            "launch" => {
                let (kernel, rest) = rest.split_once(':')?;
                let (nth, code) = numbered(rest)?;
                Some(Self::Launch { kernel: kernel.to_owned(), nth, code })
            }
            "call" => {
                let (function, rest) = rest.split_once(':')?;
                let (nth, code) = numbered(rest)?;
                Some(Self::Call { function: function.to_owned(), nth, code })
            }
            "kill" => {
                let (function, nth) = rest.split_once(':')?;
                Some(Self::Kill { function: function.to_owned(), nth: nth.parse().ok()? })
            }
            "alloc" => numbered(rest).map(|(nth, code)| Self::Alloc { nth, code }),
            "ecc" => Some(Self::Ecc { nth: rest.parse().ok()? }),
            "nccl" => {
                let (rank, rest) = rest.split_once(':')?;
                let (place, action) = rest.split_once('=')?;
                let place = match place {
                    "init" => NcclPlace::Init,
                    nth => NcclPlace::Collective(nth.parse().ok()?),
                };
                let action = NcclAction::parse(action)?;
                Some(Self::Nccl { rank: rank.parse().ok()?, place, action })
            }
            _ => None,
        }
    }
}

fn numbered(text: &str) -> Option<(u64, u32)> {
    let (nth, code) = text.split_once('=')?;
    Some((nth.parse().ok()?, code.parse().ok()?))
}

impl NcclAction {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "hang" => Some(Self::Hang),
            "kill" => Some(Self::Kill),
            _ => match text.split_once(':')? {
                ("slow", delay) => delay.parse().ok().map(Self::Slow),
                ("error", code) => code.parse().ok().map(Self::Error),
                _ => None,
            },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launch { kernel, nth, code } => write!(out, "launch:{kernel}:{nth}={code}"),
            Self::Alloc { nth, code } => write!(out, "alloc:{nth}={code}"),
            Self::Call { function, nth, code } => write!(out, "call:{function}:{nth}={code}"),
            Self::Kill { function, nth } => write!(out, "kill:{function}:{nth}"),
            Self::Ecc { nth } => write!(out, "ecc:{nth}"),
            Self::Nccl { rank, place, action } => {
                write!(out, "nccl:{rank}:")?;
                match place {
                    NcclPlace::Init => out.write_str("init=")?,
                    NcclPlace::Collective(nth) => write!(out, "{nth}=")?,
                }
                match action {
                    NcclAction::Hang => out.write_str("hang"),
                    NcclAction::Kill => out.write_str("kill"),
                    NcclAction::Slow(delay_ms) => write!(out, "slow:{delay_ms}"),
                    NcclAction::Error(code) => write!(out, "error:{code}"),
                }
            }
        }
    }
}
