//! The worker: one rank process per device, under one supervisor per node.
//!
//! ```text
//! run.rs          START HERE: join -> restore -> steps -> checkpoints -> leave
//! session.rs      PURE: the worker's side of the protocol
//! agent/          async: streams, heartbeats, directives, uploads; starts and aborts the training thread
//! controls.rs     the interface between the agent and the training thread
//! inputs/         a run's spec, base folder and template, and checks that this host can read all inputs
//! prepare/        turns a raw shard into a prepared one, in storage
//! job/            a run in memory: plan, samples, base model
//! replica/        the training state, the step that changes it, snapshot and restore
//! model/          configurations, parameters, the decoder, generation
//! ops/            the tape, and each operation as a forward/backward pair
//! kernels/        the arithmetic behind the operations, one kernel table per device
//! device/         buffers in host or device memory; GPUs
//! collective/     all-reduce, broadcast and barrier over ranks: in-process, TCP ring
//! available.rs    how much memory a rank may use
//! cache.rs        this host's copies of remote models
//! address.rs      the address at which peers reach a rank
//! supervise.rs    one process per device
//! devices/        which devices a node has, and the one that a rank uses
//! generate.rs     answers prompts with a model
//! measure.rs      measures the cost of a step, for `coordinator plan`
//! bench/          measures the speed of steps, and estimates that of GPUs
//! ```
//!
//! The crate `data`, in the folder beside `src`, turns bytes into batches. It knows no tensors, so it builds and is
//! tested in seconds. `model`, `ops` and `collective` are independent of each other, except that the model is written
//! in `ops`; `replica` combines them. Async code never touches a tensor, and the training thread never awaits.

pub mod address;
pub mod agent;
pub mod available;
pub mod bench;
pub mod cache;
pub mod collective;
pub mod controls;
pub mod device;
pub mod devices;
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
