//! What tests of the whole system share.
//!
//! ```text
//! programs   the `coordinator` and `worker` of this build
//! fixture    a small run in a folder of its own: base, data, spec
//! process    a program under way: its events, each with a deadline; signals; what it leaves behind
//! pool       a standing coordinator and its workers
//! seaweed    a real S3 server                                proxy      what goes wrong before it
//! azurite    a real Azure server                             server     what they have in common
//! again      a test once more, in a store's environment
//! stored     a run in a store, looked at from beside it
//! hub        a hub of our own            http       as much of HTTP as that takes
//! model      the weights of a model folder                    lone       a run of one worker, without a plan
//! simulated  a worker that only speaks
//! ```
//!
//! Here is no claim: those are in `tests/`.

pub mod again;
pub mod azurite;
pub mod fixture;
pub mod http;
pub mod hub;
pub mod lone;
pub mod model;
pub mod pool;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod seaweed;
pub mod server;
pub mod simulated;
pub mod stored;
pub mod undisturbed;

pub use fixture::Fixture;
pub use process::{Ended, Event, Process};
