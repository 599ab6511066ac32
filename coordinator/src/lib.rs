//! The coordinator: accepts runs, plans their data, gathers workers, keeps them in step, and commits checkpoints.
//!
//! ```text
//! core/          the decisions, pure: events in, commands out
//! runtime/       owns core, clock and queue; executes commands in order; journals and the watchers' feed
//! data/          from the sources of a spec to a stored plan
//! checkpoints/   seals and deletes checkpoints, publishes the finished model
//! takeover/      goes on with runs of another coordinator, after asking whether it is still at work
//! service/       the gRPC services, and who may call them
//! web/           health and metrics
//! launch/        starts workers for a command's own run
//! cli/           commands and their output
//! ```
//!
//! The coordinator does not compute: it knows no tensors, and uses a tokenizer only to show samples.

pub mod checkpoints;
pub mod cli;
pub mod core;
mod data;
pub mod launch;
pub mod runtime;
pub mod service;
pub mod takeover;
pub mod web;
