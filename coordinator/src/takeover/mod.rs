//! Going on where another coordinator was.
//!
//! ```text
//! holder    whether the one before is still there
//! resume    which run `--resume` means
//! ```

pub mod holder;
pub mod resume;
