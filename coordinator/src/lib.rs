//! The coordinator: takes runs, lists and cuts their data, gathers workers, keeps them in step, commits checkpoints.
//!
//! ```text
//! core/          PURE: events in, commands out
//! runtime/       owns core, clock and queue; executes commands in order; its journal and its watchers' feed
//! data/          from what a spec names to a stored plan
//! checkpoints/   what makes stored parts a checkpoint, which of them stay, the finished model
//! takeover/      whether the coordinator before is still there, and going on where it was
//! service/       the gRPC edge
//! launch/        workers that a command starts for its own run
//! cli/           what a user types and sees
//! ```
//!
//! It never knows a tensor, and a tokenizer only to show samples: whatever computes is a worker's work.

pub mod checkpoints;
pub mod cli;
pub mod core;
mod data;
pub mod launch;
pub mod runtime;
pub mod service;
pub mod takeover;
