//! The worker: one rank process per device, under one supervisor per node.
//!
//! ```text
//! run.rs          THE PAGE: join -> restore -> steps -> checkpoints -> leave; read this first
//! session.rs      PURE: the worker's side of the protocol
//! agent.rs        async: streams, beats, directives; starts and aborts the run thread
//! data/           bytes -> records -> conversations -> tokens and weights -> prepared shards -> batches
//! model/          configurations, parameters, the decoder, generation
//! ops/            the tape, and each operation as a forward/backward pair
//! collective/     sums over ranks: in-process, TCP ring
//! train/          the step: accumulate, reduce, clip, AdamW, schedule, evaluation
//! checkpoint/     snapshot, upload, verify, load
//! ```
//!
//! `data`, `model`, `ops` and `collective` do not know each other (the model is written in `ops`, and that is
//! all); `train` joins them. Async code never touches a tensor, and the run thread never awaits.

pub mod collective;
pub mod data;
pub mod model;
pub mod ops;
