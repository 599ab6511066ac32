//! The coordinator: takes runs, lists and cuts their data, gathers workers, keeps them in step, commits checkpoints.
//!
//! ```text
//! core/        PURE: events in, commands out
//! runtime      owns core, clock and queue; executes commands in order
//! journal      history on object storage         survey    lists sources, cuts raw shards
//! service      the gRPC edge                      launch    local worker processes
//! cli/         what a user types and sees
//! ```

pub mod core;
