//! One rank's replica: the training state, the step that changes it, and how it is saved to and restored from
//! checkpoints.
//!
//! ```text
//! state      parameters, moments, number of updates: all that a run could lose    digest     a hash of a state
//! step       gradients, their all-reduce, the update                              objective  the loss function
//! buckets    gradient buckets       optimizer  AdamW                              batch      a rank's share of a
//! step
//! memory     predicts the memory of a rank, by part
//! agreement  checks that all ranks hold the same state before they train together
//!
//! snapshot   copies this rank's share of a checkpoint     shares     which rank stores what
//! restore    reads each file on one rank                  receive    broadcasts what each rank has read
//! room       the buffer for one snapshot at a time
//! ```
//!
//! A state outlives a membership; everything else is created again for each membership. This module combines models,
//! operations and collectives, and does no I/O: the agent stores and fetches files.
//!
//! ```text
//! model/model-00001-of-00003-<mark>.safetensors    parameters in the dtype of saved models, with transformers' names
//! state/state-r<rank>-000-<mark>.safetensors       `master/<name>`, `m/<name>`, `v/<name>` of trained ones, in f32
//! ```
//!
//! Frozen parameters are not part of the state: a restore leaves them as they are in the base model. Stored files do
//! not depend on the world size that wrote them: they hold whole parameters, and any number of ranks can divide them
//! again.

mod agreement;
mod batch;
mod buckets;
pub mod digest;
mod divergence;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
mod memory;
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
pub use memory::Setup;
pub use restore::{Error as RestoreError, Fetched, restore, share_of};
pub use room::{Reserved, Room, Vacancy};
pub use snapshot::{PartFile, Saved, Snapshot, snapshot};
pub use state::State;
pub use step::{Committed, Recipe, Trainer};
