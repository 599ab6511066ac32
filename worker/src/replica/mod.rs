//! One rank's replica: the training state, the step that changes it, and how it comes from and goes to a checkpoint.
//!
//! ```text
//! state      parameters, moments, updates: all that a run would lose            digest     what a state is known by
//! step       gradients, their sum over ranks, the update                        objective  what is minimised
//! buckets    gradients on their way                       optimizer  AdamW      batch      a rank's share of a step
//! agreement  proof that all ranks hold the same state before they train together
//!
//! snapshot   a copy of this rank's share of a checkpoint  shares     which rank stores what
//! restore    each file read by one rank                   receive    what one rank has read, on all ranks
//! room       one snapshot at a time
//! ```
//!
//! A state outlives a membership; everything else is made anew for each. Here models, operations and collectives meet,
//! and here is no I/O: the agent stores and fetches.
//!
//! ```text
//! model/model-00001-of-00003-<mark>.safetensors    parameters in the dtype to save in, by transformers' names
//! state/state-r<rank>-000-<mark>.safetensors       `master/<name>`, `m/<name>`, `v/<name>`, f32, of what is trained
//! ```
//!
//! Frozen parameters are no state: a restore leaves them as the base has them. Nothing that is stored depends on the
//! world size that wrote it: files hold whole parameters, and any number of ranks divides them anew.

mod agreement;
mod batch;
mod buckets;
pub mod digest;
mod divergence;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
pub mod objective;
pub mod optimizer;
mod receive;
mod restore;
mod room;
mod shares;
mod snapshot;
mod state;
mod step;

pub use agreement::agree;
pub use batch::{Batch, MicroBatch};
pub use buckets::BUCKET_ELEMENTS;
pub use digest::Digest;
pub use divergence::{Divergence, Origin};
pub use error::Error;
pub use restore::{Error as RestoreError, Fetched, restore, share_of};
pub use room::{Reserved, Room, Vacancy};
pub use snapshot::{PartFile, Saved, Snapshot, snapshot};
pub use state::State;
pub use step::{Committed, Recipe, Trainer};
