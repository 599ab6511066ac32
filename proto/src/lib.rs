//! The contract: what two processes, or two runs, must agree on byte for byte.
//!
//! ```text
//! spec        the run spec that a user writes         plan      which sample is trained in which step
//! protocol    messages of workers and coordinator     id        identities and counters
//! event       a run's history                         error     error chains as text
//! prepared    tokenized shards in storage             receipt   what happened to every record
//! manifest    what checkpoints and data sets contain  key       object keys in storage
//! cost        measured cost of a step                 tensors   headers of safetensors files
//! text        text of a data set, safe to show        print     standard output and logs
//! ```
//!
//! This crate contains no tensors, tokenizers, network or storage: gRPC is the crate `wire`, object storage the crate
//! `storage`.

pub mod cost;
pub mod error;
pub mod event;
pub mod exit;
pub mod id;
pub mod key;
pub mod manifest;
pub mod plan;
pub mod prepared;
pub mod print;
pub mod protocol;
pub mod receipt;
pub mod spec;
pub mod tensors;
pub mod text;

/// The version of the wire protocol, the plan and the arithmetic of a step. All members of a run must have the same.
pub const PROTOCOL: u32 = 7;
