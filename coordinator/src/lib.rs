//! The coordinator: takes runs, lists and cuts their data, gathers workers, keeps them in step, commits checkpoints.
//!
//! ```text
//! core/        PURE: events in, commands out
//! runtime      owns core, clock and queue; executes commands in order          handle    its queue, from outside
//! journal      history on object storage          feed      what watchers are told, kept as metrics
//! holder       whether the one before is still there
//! sources      which objects a source names             base      what is read in a base model's folder
//! staging      a base model, brought from the hub       progress  a deadline for work without answers
//! survey       cuts raw shards, fingerprints them     planning  from prepared samples to a stored plan
//! quality/     PURE: what is wrong with a data set, and which samples that excludes
//! finish       manifests, the finished model       resume    which run `--resume` means
//! service      the gRPC edge                       launch    local worker processes
//! cli/         what a user types and sees
//! ```
//!
//! It never knows a tensor, and a tokenizer only to show samples: whatever computes is a worker's work.

mod base;
mod checkpoints;
pub mod cli;
mod contents;
pub mod core;
pub mod feed;
pub mod finish;
pub mod handle;
pub mod holder;
pub mod journal;
pub mod launch;
mod naming;
mod planning;
mod progress;
mod quality;
pub mod resume;
pub mod runtime;
pub mod service;
mod sources;
mod staging;
mod survey;
