//! The worker: one rank process per device, under one supervisor per node.
//!
//! ```text
//! run.rs          THE PAGE: join -> restore -> steps -> checkpoints -> leave; read this first
//! session.rs      PURE: the worker's side of the protocol
//! agent/          async: streams, beats, directives, uploads; starts and aborts the training thread
//! controls.rs     what passes between the two
//! inputs/         what is read of a run first: spec, base folder, template; and whether this host sees it all
//! prepare/        from a raw shard to a prepared one, in storage
//! job/            what a run needs in memory: plan, samples, base
//! replica/        the training state, the step that changes it, snapshot and restore
//! model/          configurations, parameters, the decoder, generation
//! ops/            the tape, and each operation as a forward/backward pair
//! kernels/        the arithmetic of operations, one table for every device
//! device/         memory, and where it lies
//! collective/     sums over ranks: in-process, TCP ring
//! cache.rs        a remote model's files, on this host
//! address.rs      where peers reach a rank
//! supervise.rs    one process per device       generate.rs a model answers a prompt
//! measure.rs      what a step costs, for `coordinator plan`
//! ```
//!
//! From bytes to batches is the crate `data`, in the folder beside `src`: it knows no tensor, so it builds and is
//! tested in seconds. `model`, `ops` and `collective` do not know each other (the model is written in `ops`, and that
//! is all); `replica` joins them. Async code never touches a tensor, and the training thread never awaits.

pub mod address;
pub mod agent;
pub mod cache;
pub mod collective;
pub mod controls;
pub mod device;
pub mod generate;
mod inputs;
pub mod job;
pub mod kernels;
pub mod measure;
pub mod model;
pub mod ops;
pub mod prepare;
pub mod replica;
pub mod run;
pub mod session;
pub mod supervise;
