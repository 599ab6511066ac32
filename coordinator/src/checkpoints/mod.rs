//! Checkpoints in storage, once the parts of all ranks are stored.
//!
//! ```text
//! seal       writes index, receipt and manifest of a checkpoint
//! retain     deletes old checkpoints             history   compares the journal with storage
//! publish    writes the finished model's folder  card      renders the model card
//! receipt    reads and updates the receipt       tools     implements `coordinator checkpoint`
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

/// Why a checkpoint could not be sealed, a receipt not updated, or a model not published.
#[derive(Debug, Error)]
pub enum Unpublished {
    /// An error of the store.
    #[error(transparent)]
    Store(#[from] storage::Error),
    /// A file or document is missing or is not what it should be.
    #[error("{0}")]
    Broken(String),
}
