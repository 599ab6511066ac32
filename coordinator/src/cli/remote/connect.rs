//! Requests to a standing coordinator: its URL, timeouts, and the meaning of its errors.

use crate::cli::{Blame, Exit, Refusal, credentials};
use anyhow::anyhow;
use clap::Args;
use proto::spec::duration;
use std::error::Error as _;
use std::time::Duration;
use thiserror::Error;
use tonic::{Code, Response, Status};
use wire::connect::{self, Connection, Options, Unconnected, successor};
use wire::runs_client::RunsClient;

/// Maximum size of a reply: enough for a list of about ten thousand runs, or a long receipt.
const ANSWER_BYTES: usize = 64 << 20;
/// Maximum number of redirections of a request from one coordinator to its successor.
const MOVES: usize = 3;

pub(super) type Client = RunsClient<Connection>;

#[derive(Args)]
pub(in crate::cli) struct Remote {
    /// URL of the coordinator
    #[arg(
        long,
        value_name = "URL",
        env = "MUSTER_COORDINATOR",
        default_value = "http://127.0.0.1:7070",
        value_parser = wire::address::parse
    )]
    pub(super) coordinator: String,
    #[command(flatten)]
    credentials: credentials::Arguments,
    /// How long to wait for an answer, such as 30s or 2m
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUSTER_TIMEOUT",
        default_value = "10s",
        value_parser = positive
    )]
    pub(super) timeout: Duration,
    /// Print JSON, one object per line
    #[arg(long)]
    pub(super) json: bool,
}

/// A request without a reply, so that its effect is unknown.
#[derive(Debug, Error)]
pub(super) enum Unanswered {
    #[error(
        "the coordinator at `{url}` took the connection and has not answered for {} s; \
         it may be waiting for its storage\n\
         hint: its log says what it waits for; a larger --timeout waits longer",
        .waited.as_secs()
    )]
    Silent { url: String, waited: Duration },
    #[error("the connection to the coordinator at `{url}` broke before it answered: {cause}")]
    Broken { url: String, cause: String },
}

impl Remote {
    /// Whether the user wants to do without encryption.
    pub(super) fn is_insecure(&self) -> bool {
        self.credentials.insecure
    }

    /// Sends a request to the coordinator, or to the one that has replaced it, and returns the reply.
    pub(super) async fn ask<T>(
        &self,
        request: impl AsyncFn(&mut Client) -> Result<Response<T>, Status>,
    ) -> Result<T, Refusal> {
        let mut url = self.coordinator.clone();
        for _ in 0..=MOVES {
            let connecting =
                tokio::time::timeout(self.timeout, self.connect(&url, Options::QUESTION)).await;
            let mut client = connecting.map_err(|_| self.silent(&url))??;
            match tokio::time::timeout(self.timeout, request(&mut client)).await {
                Err(_) => return Err(self.silent(&url)),
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => match successor(&status) {
                    Some(next) => url = next,
                    None => return Err(refused(&url, &status)),
                },
            }
        }
        Err(anyhow!("the coordinator at `{}` keeps moving, last to `{url}`", self.coordinator))
            .blame(Exit::Infrastructure)
    }

    /// Connects to the coordinator at `url`.
    pub(super) async fn connect(&self, url: &str, options: Options) -> Result<Client, Refusal> {
        let credentials = self.credentials.read();
        let channel = connect::channel(url, &credentials, options).await.map_err(|error| {
            let exit = match error {
                Unconnected::Malformed { .. }
                | Unconnected::Credentials(_)
                | Unconnected::Untrusted { .. } => Exit::User,
                Unconnected::Unreachable { .. } => Exit::Infrastructure,
            };
            Refusal { exit, error: error.into() }
        });
        Ok(RunsClient::new(channel?).max_decoding_message_size(ANSWER_BYTES))
    }

    /// The error if the coordinator accepts the connection and does not answer.
    pub(super) fn silent(&self, url: &str) -> Refusal {
        let error = Unanswered::Silent { url: url.to_owned(), waited: self.timeout };
        Refusal { exit: Exit::Infrastructure, error: error.into() }
    }
}

/// Whether a later request would get the same error.
pub(super) fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            // The reply is larger than `ANSWER_BYTES`.
            | Code::OutOfRange
    )
}

/// Converts an error from the coordinator at `url`. The exit code says whose fault it is.
pub(super) fn refused(url: &str, status: &Status) -> Refusal {
    if let Some(cause) = status.source() {
        let mut cause = proto::error::chain(cause);
        if url.starts_with("http://") {
            cause.push_str("\nhint: if the coordinator uses TLS, its URL begins with https://");
        }
        let error = Unanswered::Broken { url: url.to_owned(), cause };
        return Refusal { exit: Exit::Infrastructure, error: error.into() };
    }
    let exit = match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::Unauthenticated
        | Code::PermissionDenied => Exit::User,
        _ => Exit::Infrastructure,
    };
    Refusal { exit, error: anyhow!(status.message().to_owned()) }
}

/// Parses a duration longer than zero.
fn positive(text: &str) -> anyhow::Result<Duration> {
    let span = duration::parse(text)?;
    anyhow::ensure!(!span.is_zero(), "it must be longer than 0s");
    Ok(span)
}
