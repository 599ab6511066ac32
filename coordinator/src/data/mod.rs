//! A run's data, from what a spec names to a stored plan.
//!
//! ```text
//! sources    which objects a source names            progress   a deadline for work without answers
//! base       what is read in a base model's folder   staging    a base model, brought from the hub
//! survey     cuts raw shards, fingerprints them      contents   the prepared samples, read back
//! quality/   PURE: what is wrong with a data set, and which samples that excludes
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
