//! Going on with a run or a pool that another coordinator had.
//!
//! ```text
//! holder    asks the last coordinator whether it is still at work
//! resume    finds the run that `--resume` means
//! ```

pub mod holder;
pub mod resume;
