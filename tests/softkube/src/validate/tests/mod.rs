//! Tests of validation.

mod jobs;
mod kinds;
