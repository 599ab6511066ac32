//! Code that tests of the whole system share.
//!
//! ```text
//! programs   the `coordinator` and `worker` of this build
//! fixture    a small run in its own folder: base, data, spec
//! process    a running program: its events, each with a deadline; signals; processes that it leaves behind
//! pool       a standing coordinator and its workers
//! certs      certificates and tokens of a pool
//! seaweed    a real S3 server
//! azurite    a real Azure server
//! server     the code that both servers share
//! proxy      a proxy in front of a server, which injects faults
//! ignored    runs an ignored test in a store's environment
//! stored     inspects a run in a store
//! namespaces a network of hosts with their own addresses, for one test
//! names      a name server in that network
//! pods       pods of the software Kubernetes in that network
//! hub        a test hub with the interface of the Hugging Face hub
//! http       the part of HTTP that the hub needs
//! gpu        a software GPU
//! memory     predicted and measured memory of a rank
//! model      the weights of a model folder
//! poisoned   a base that makes the gradient of one conversation infinite
//! lone       a run of one worker, without a plan
//! simulated  a worker that sends messages and does no work
//! usage      processor time and memory of a process
//! undisturbed  the reference result of the fixture's run
//! ```
//!
//! The tests themselves are in `tests/`.

pub mod azurite;
pub mod certs;
pub mod fixture;
pub mod gpu;
pub mod http;
pub mod hub;
pub mod ignored;
pub mod lone;
pub mod memory;
pub mod model;
pub mod names;
pub mod namespaces;
pub mod pods;
pub mod poisoned;
pub mod pool;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod seaweed;
pub mod server;
pub mod simulated;
pub mod stored;
pub mod undisturbed;
pub mod usage;

pub use fixture::Fixture;
pub use process::{Ended, Event, Process};
