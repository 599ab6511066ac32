//! Checkpoints: this rank's part as bytes, and bytes back into a training.
//!
//! ```text
//! model/model-00001-of-00003-<mark>.safetensors    parameters in the dtype to save in, by transformers' names
//! state/state-r<rank>-000-<mark>.safetensors       `master/<name>`, `m/<name>`, `v/<name>`, f32, of what is trained
//!
//! layout     which rank stores what               room       one snapshot at a time
//! snapshot   a copy of this rank's share          restore    each file read by one rank, then broadcast
//! ```
//!
//! Frozen parameters are no state: a restore leaves them as the base has them.
//!
//! Nothing that is stored depends on the world size that wrote it: files hold whole parameters, and any number of ranks
//! shares them out anew. Here is no I/O: the agent stores and fetches.

mod layout;
mod restore;
mod room;
mod snapshot;

pub use restore::{Error, Fetched, restore, share_of};
pub use room::{Reserved, Room, Vacancy};
pub use snapshot::{PartFile, Saved, Snapshot, snapshot};
