//! The contract: what two processes, or two runs, must agree on byte for byte.
//!
//! ```text
//! spec        what a user asks for            plan      which sample goes where, when
//! protocol    what workers and coordinator say    id        identities and counters
//! event       a run's history                  error     how an error is told
//! prepared    tokenized shards in storage     receipt   what became of every record
//! manifest    what a checkpoint consists of   key       where objects lie
//! cost        what a step takes                tensors   heads of safetensors files
//! text        what a data set says, safe to show   print     standard output, whose reader may go
//! ```
//!
//! Knows no tensor, no tokenizer and no network: gRPC is the crate `wire`, object storage the crate `storage`.

pub mod cost;
pub mod error;
pub mod event;
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

/// The version of the wire protocol, of the plan and of the step's arithmetic: equal in all members of a run.
pub const PROTOCOL: u32 = 6;
