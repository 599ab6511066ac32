//! Checkpoints in storage, once their parts are there.
//!
//! ```text
//! seal       index, receipt and manifest: what makes stored parts a checkpoint
//! retain     which checkpoints stay              history   where the journal and storage differ
//! publish    the finished model's folder         card      what the model says of itself
//! receipt    what became of every record         tools     what `coordinator checkpoint` works with
//! ```

mod card;
mod history;
mod publish;
pub(crate) mod receipt;
mod retain;
mod seal;
pub(crate) mod tools;

pub(crate) use history::is_over;
pub use history::{replaced, uncommitted};
pub(crate) use publish::{Finished, ModelFolder, publish};
pub use retain::retain;
pub(crate) use retain::{delete, stored};
pub use seal::seal;

use thiserror::Error;

/// Why a model is not where users look for it.
#[derive(Debug, Error)]
pub enum Unpublished {
    /// The store refused or broke.
    #[error(transparent)]
    Store(#[from] storage::Error),
    /// Something that it consists of is not what it should be.
    #[error("{0}")]
    Broken(String),
}
