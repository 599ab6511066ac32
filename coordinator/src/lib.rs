//! The coordinator: takes runs, lists and cuts their data, gathers workers, keeps them in step, commits checkpoints.
//!
//! ```text
//! core/          PURE: events in, commands out
//! runtime/       owns core, clock and queue; executes commands in order; its journal and its watchers' feed
//! data/          from the sources in a spec to a stored plan
//! checkpoints/   sealing stored parts as a checkpoint, retention, publishing the finished model
//! takeover/      whether the previous coordinator is still alive, and resuming its runs
//! service/       the gRPC edge
//! launch/        workers that a command starts for its own run
//! cli/           commands and their output
//! ```
//!
//! The coordinator knows no tensors, and uses a tokenizer only to show samples: workers do all computation.

pub mod checkpoints;
pub mod cli;
pub mod core;
mod data;
pub mod launch;
pub mod runtime;
pub mod service;
pub mod takeover;
