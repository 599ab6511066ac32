//! Kubernetes' own case tables against the Job controller.
//!
//! Inputs and outcomes were carried over from `pkg/controller/job/*_test.go`; each table says what was left out.

mod backoff;
mod fake;
mod indexed;
mod policies;
mod sync_job;
