//! The contract: what two processes, or two runs, must agree on byte for byte.
//!
//! Knows no tensor and no tokenizer.

pub mod plan;
pub mod prepared;
pub mod receipt;
pub mod spec;
