//! The Job controller: what one synchronization of a Job does, as a function of the Job and its pods.
//!
//! ```text
//! Job, pods, backoff, now --sync--> effects: create, delete and release pods; write the status; emit events
//! ```
//! [`sync::sync`] decides; it acts only through [`effects::Effects`], so that the tables of Kubernetes' own tests run
//! against it without a cluster. Source: `pkg/controller/job`.

pub(crate) mod backoff;
pub(crate) mod effects;
mod failure_policy;
mod manage;
pub(crate) mod model;
mod per_index;
mod removal;
mod state;
pub(crate) mod status;
mod success_policy;
pub(crate) mod sync;
mod template;
mod track;

#[cfg(test)]
mod tests;
