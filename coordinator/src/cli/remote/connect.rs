//! The way to a standing coordinator: where it is, how long it may take, and what its errors mean.

use crate::cli::{Blame, Exit, Refusal};
use anyhow::anyhow;
use clap::Args;
use proto::spec::duration;
use std::error::Error as _;
use std::time::Duration;
use thiserror::Error;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use wire::connect::{self, Options, Unconnected, successor};
use wire::runs_client::RunsClient;

/// The longest answer that is read: the list of some ten thousand runs, or a long receipt.
const ANSWER_BYTES: usize = 64 << 20;
/// Coordinators that a question goes on to, one after another.
const MOVES: usize = 3;

pub(super) type Client = RunsClient<Channel>;

#[derive(Args)]
pub(in crate::cli) struct Remote {
    /// Where the coordinator is
    #[arg(
        long,
        value_name = "URL",
        env = "MUSTER_COORDINATOR",
        default_value = "http://127.0.0.1:7070",
        value_parser = wire::address::parse
    )]
    pub(super) coordinator: String,
    /// How long to wait for an answer, such as 30s or 2m
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUSTER_TIMEOUT",
        default_value = "10s",
        value_parser = positive
    )]
    pub(super) timeout: Duration,
    /// Print JSON, one object a line
    #[arg(long)]
    pub(super) json: bool,
}

/// A question whose effect is unknown, since no answer came.
#[derive(Debug, Error)]
pub(super) enum Unanswered {
    #[error(
        "the coordinator at `{url}` took the connection and has not answered for {} s; \
         it may be waiting for its storage\n\
         hint: its log says what it waits for; --timeout waits longer",
        .waited.as_secs()
    )]
    Silent { url: String, waited: Duration },
    #[error("the connection to the coordinator at `{url}` broke before it answered: {cause}")]
    Broken { url: String, cause: String },
}

impl Remote {
    /// What the coordinator answers, or the one that has its place.
    pub(super) async fn ask<T>(
        &self,
        question: impl AsyncFn(&mut Client) -> Result<Response<T>, Status>,
    ) -> Result<T, Refusal> {
        let mut url = self.coordinator.clone();
        for _ in 0..=MOVES {
            let connecting =
                tokio::time::timeout(self.timeout, connect(&url, Options::QUESTION)).await;
            let mut client = connecting.map_err(|_| self.silent(&url))??;
            match tokio::time::timeout(self.timeout, question(&mut client)).await {
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

    /// It took the connection and says nothing.
    pub(super) fn silent(&self, url: &str) -> Refusal {
        let error = Unanswered::Silent { url: url.to_owned(), waited: self.timeout };
        Refusal { exit: Exit::Infrastructure, error: error.into() }
    }
}

/// A connection to the coordinator at `url`.
pub(super) async fn connect(url: &str, options: Options) -> Result<Client, Refusal> {
    let channel = connect::channel(url, options).await.map_err(|error| {
        let exit = match error {
            Unconnected::Malformed { .. } => Exit::User,
            Unconnected::Unreachable { .. } => Exit::Infrastructure,
        };
        Refusal { exit, error: error.into() }
    });
    Ok(RunsClient::new(channel?).max_decoding_message_size(ANSWER_BYTES))
}

/// Whether the same question would be answered in the same way later.
pub(super) fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            // Of an answer that is longer than `ANSWER_BYTES`.
            | Code::OutOfRange
    )
}

/// What the coordinator at `url` answers, as an error that is blamed on who can act on it.
pub(super) fn refused(url: &str, status: &Status) -> Refusal {
    if let Some(cause) = status.source() {
        let cause = proto::error::chain(cause);
        let error = Unanswered::Broken { url: url.to_owned(), cause };
        return Refusal { exit: Exit::Infrastructure, error: error.into() };
    }
    let exit = match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition => Exit::User,
        _ => Exit::Infrastructure,
    };
    Refusal { exit, error: anyhow!(status.message().to_owned()) }
}

/// A span of time that is not empty.
fn positive(text: &str) -> anyhow::Result<Duration> {
    let span = duration::parse(text)?;
    anyhow::ensure!(!span.is_zero(), "it must be longer than 0s");
    Ok(span)
}
