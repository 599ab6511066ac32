//! Checkpoints: this rank's part as bytes, and bytes back into a training.
//!
//! ```text
//! model/model-r<rank>-<mark>.safetensors    whole parameters in the dtype to save in, by transformers' names
//! state/state-r<rank>-<mark>.safetensors    `master/<name>`, `m/<name>`, `v/<name>`, f32
//! ```
//!
//! Nothing here depends on the world size that wrote it: parts hold whole parameters, and a restore reads them all.
//! Here is no I/O: the agent stores and fetches.

mod restore;
mod snapshot;

pub use restore::{Error, restore};
pub use snapshot::{PartFile, Snapshot, snapshot};
