//! Connects to a coordinator, and finds the successor of a coordinator that was replaced.
//!
//! All clients connect here, so that timeouts, the detection of dead peers and error messages are the same
//! everywhere.

use std::time::Duration;
use thiserror::Error;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// The metadata key for the address of a successor, in the error that ends a worker's stream when another coordinator
/// has taken over.
pub const SUCCESSOR: &str = "muster-coordinator";

/// Timeouts of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long connecting may take.
    pub connect: Duration,
    /// The interval of keep-alive pings, and the time within which each must be answered. If `None`, a dead peer is
    /// only detected by the caller's own deadline.
    pub keep_alive: Option<Duration>,
}

impl Options {
    /// Options for a request that is answered immediately. The caller sets a deadline.
    pub const QUESTION: Self = Self { connect: Duration::from_secs(5), keep_alive: None };

    /// Options for a stream, on which a live peer may be silent for a long time.
    pub const STREAM: Self =
        Self { connect: Duration::from_secs(5), keep_alive: Some(Duration::from_secs(5)) };
}

/// Why connecting failed.
#[derive(Debug, Error)]
pub enum Unconnected {
    /// The URL is invalid.
    #[error("`{url}` is not of the form http://host:port")]
    Malformed {
        /// The URL as given.
        url: String,
        /// The parser's error.
        source: tonic::transport::Error,
    },
    /// No connection could be made.
    #[error(
        "no coordinator answers at `{url}`\n\
         hint: start one with `coordinator serve`, or name it with --coordinator"
    )]
    Unreachable {
        /// The URL as given.
        url: String,
        /// The transport's error.
        source: tonic::transport::Error,
    },
}

impl Unconnected {
    /// The cause alone, for callers whose own error names the URL.
    pub fn into_source(self) -> tonic::transport::Error {
        match self {
            Self::Malformed { source, .. } | Self::Unreachable { source, .. } => source,
        }
    }
}

/// Connects to the coordinator at `url`.
///
/// # Errors
/// [`Unconnected`] if the URL is invalid or no connection can be made.
pub async fn channel(url: &str, options: Options) -> Result<Channel, Unconnected> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|source| Unconnected::Malformed { url: url.to_owned(), source })?
        .connect_timeout(options.connect)
        .tcp_nodelay(true);
    let endpoint = match options.keep_alive {
        Some(pause) => endpoint.http2_keep_alive_interval(pause).keep_alive_timeout(pause),
        None => endpoint,
    };
    let connected = endpoint.connect().await;
    connected.map_err(|source| Unconnected::Unreachable { url: url.to_owned(), source })
}

/// The address of the coordinator that replaced the one that sent `status`, if it names one.
pub fn successor(status: &Status) -> Option<String> {
    Some(status.metadata().get(SUCCESSOR)?.to_str().ok()?.to_owned())
}
