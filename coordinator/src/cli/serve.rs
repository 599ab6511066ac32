//! `coordinator serve`: a standing coordinator for a pool of workers.

use super::{Blame, Exit, Outcome, Refusal};
use crate::core::Timing;
use crate::runtime::Runtime;
use crate::service;
use anyhow::Context;
use clap::Args;
use proto::storage::Storage;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Args)]
pub(super) struct Arguments {
    /// Where to listen
    #[arg(long, env = "MUSTER_LISTEN", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// The prefix under which this pool keeps everything, e.g. /shared/muster
    #[arg(long, env = "MUSTER_OUTPUT")]
    output: String,
}

pub(super) async fn serve(arguments: Arguments) -> Outcome {
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| {
            format!(
                "{} cannot be listened on\nhint: choose another with --listen",
                arguments.listen
            )
        })
        .blame(Exit::User)?;
    let storage = Storage::open(&arguments.output)
        .context("--output\nhint: name a folder that this user can write to")
        .blame(Exit::User)?;
    super::probe(&storage, "--output").await?;
    let (runtime, handle) =
        Runtime::of_pool(storage.clone(), Timing::default()).await.blame(Exit::Infrastructure)?;
    let address = listener.local_addr().blame(Exit::Infrastructure)?;
    eprintln!("coordinator at http://{address}, everything under {}", storage.url());
    let mut interrupt = signal(SignalKind::interrupt()).blame(Exit::Infrastructure)?;
    let mut terminate = signal(SignalKind::terminate()).blame(Exit::Infrastructure)?;
    let server = service::serve(listener, handle.clone(), std::future::pending());
    // Workers go on without a coordinator and come back to the next one: leaving needs no ceremony.
    tokio::select! {
        _ = interrupt.recv() => Ok(Exit::Done),
        _ = terminate.recv() => Ok(Exit::Done),
        outcome = runtime.run() => match outcome {
            Ok(()) => Ok(Exit::Done),
            Err(error) => Err(Refusal { exit: Exit::Infrastructure, error: error.into() }),
        },
        outcome = server => outcome.map(|()| Exit::Done).blame(Exit::Infrastructure),
    }
}
