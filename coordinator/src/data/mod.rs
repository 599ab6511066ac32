//! A run's data, from the sources in a spec to a stored plan.
//!
//! ```text
//! sources    lists the objects that a source names   progress   a deadline for work without answers
//! base       reads files of a base model's folder    staging    copies a base model from the hub
//! survey     cuts raw shards, fingerprints them      contents   reads prepared samples back
//! quality/   PURE: findings about a data set, and which samples they exclude
//! planning   from prepared samples to a stored plan  fault      whose fault an error is
//! ```

pub(crate) mod base;
mod contents;
pub(crate) mod fault;
pub(crate) mod planning;
pub(crate) mod progress;
mod quality;
pub(crate) mod sources;
mod staging;
pub(crate) mod survey;
