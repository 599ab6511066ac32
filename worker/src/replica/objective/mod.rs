//! Training objectives: from hidden states to a loss, the start of the backward.
//!
//! An objective sums over targets and leaves the division to the step, which divides once by the total weight of the
//! plan.

pub mod sft;
