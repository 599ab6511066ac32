//! The API over HTTP.
//!
//! ```text
//! connection -> server -> route -> handle (authenticate, fault, authorize) -> objects | list | watch | subresources
//! ```

mod answer;
mod discovery;
mod handle;
mod list;
mod objects;
mod options;
mod reviews;
mod route;
pub(crate) mod server;
mod subresources;
mod watch;
