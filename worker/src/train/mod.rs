//! The step: where data, model, operations and collectives meet.

mod batch;
mod buckets;
pub mod digest;
mod trainer;

pub use batch::{Batch, MicroBatch};
pub use buckets::BUCKET_ELEMENTS;
pub use trainer::{Committed, Error, Recipe, Trainer};
