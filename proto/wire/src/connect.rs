//! A channel to a coordinator, and where a coordinator has gone that answers no more questions.
//!
//! Every client of the house connects here: how long a host may take, how a dead peer is noticed and what the errors
//! say is decided once.

use std::time::Duration;
use thiserror::Error;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Metadata of the error that ends a worker's stream where another coordinator has this one's place: its address.
pub const SUCCESSOR: &str = "muster-coordinator";

/// How patient a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A host that accepts no connection within this time counts as absent.
    pub connect: Duration,
    /// Between two signs of life, and how long each may take. Without it, only the caller's own deadline tells that
    /// the peer has died.
    pub keep_alive: Option<Duration>,
}

impl Options {
    /// For a question that is answered at once, within a deadline of the caller's own.
    pub const QUESTION: Self = Self { connect: Duration::from_secs(5), keep_alive: None };

    /// For a stream, on which the peer's silence means nothing and its death must be noticed.
    pub const STREAM: Self =
        Self { connect: Duration::from_secs(5), keep_alive: Some(Duration::from_secs(5)) };
}

/// Why there is no channel.
#[derive(Debug, Error)]
pub enum Unconnected {
    /// The URL is none.
    #[error("`{url}` is not http://host:port")]
    Malformed {
        /// As given.
        url: String,
        /// The parser's word.
        source: tonic::transport::Error,
    },
    /// Nobody accepts a connection.
    #[error(
        "no coordinator answers at `{url}`\n\
         hint: start one with `coordinator serve`, or name it with --coordinator"
    )]
    Unreachable {
        /// As given.
        url: String,
        /// The transport's word.
        source: tonic::transport::Error,
    },
}

impl Unconnected {
    /// The cause alone, for a caller that says itself where it wanted to go.
    pub fn into_source(self) -> tonic::transport::Error {
        match self {
            Self::Malformed { source, .. } | Self::Unreachable { source, .. } => source,
        }
    }
}

/// Connects to the coordinator at `url`.
///
/// # Errors
/// [`Unconnected`].
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

/// The address of the coordinator that has taken the place of the one that answers with `status`.
pub fn successor(status: &Status) -> Option<String> {
    Some(status.metadata().get(SUCCESSOR)?.to_str().ok()?.to_owned())
}
