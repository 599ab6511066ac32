//! What a training minimises: from hidden states to a loss and its first gradient.
//!
//! An objective sums over targets and leaves the division to the step, which divides once by what the plan says.

pub mod sft;
