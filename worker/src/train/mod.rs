//! The step: where data, model, operations and collectives meet.

mod agreement;
mod batch;
mod buckets;
pub mod digest;
#[cfg(test)]
pub(crate) mod fixture;
mod trainer;

pub use agreement::{Divergence, Origin, agree};
pub use batch::{Batch, MicroBatch};
pub use buckets::BUCKET_ELEMENTS;
pub use digest::Digest;
pub use trainer::{Committed, Error, Recipe, Trainer};
