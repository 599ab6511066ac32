//! `coordinator serve`: a standing coordinator for a pool of workers.

use super::{Blame, Exit, Outcome, Refusal};
use crate::core::Timing;
use crate::runtime::{self, Runtime, Vacancy};
use crate::service;
use crate::takeover::holder;
use anyhow::Context;
use clap::Args;
use proto::print;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;
use storage::Storage;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How long a replaced coordinator goes on serving, so that workers learn the address of its successor.
const REDIRECT_TIME: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct Arguments {
    /// Address and port to listen on
    #[arg(long, env = "MUSTER_LISTEN", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// URL at which others reach this coordinator [default: the address that it listens on, or this host's name if it
    /// listens on all addresses]
    #[arg(
        long,
        value_name = "URL",
        env = "MUSTER_ADVERTISE",
        value_parser = wire::address::parse
    )]
    advertise: Option<String>,
    /// Folder or prefix under which the pool stores everything, such as /shared/muster or s3://bucket/muster
    #[arg(long, env = "MUSTER_OUTPUT")]
    output: String,
    /// Take over from a coordinator that still answers; its runs continue, and its workers move to this one
    #[arg(long)]
    take_over: bool,
}

pub(super) async fn serve(arguments: Arguments) -> Outcome {
    let busy = |error: std::io::Error| {
        let listen = arguments.listen;
        let hint = "hint: choose another address with --listen";
        let context = format!("cannot listen on {listen}\n{hint}");
        Refusal { exit: Exit::User, error: anyhow::Error::from(error).context(context) }
    };
    let socket = super::reserve(arguments.listen).map_err(busy)?;
    let storage = Storage::open(&arguments.output)
        .context("--output\nhint: name a folder that this user can write to")
        .blame(Exit::User)?;
    super::probe(&storage, "--output").await?;
    let vacancy = Vacancy::find(storage.clone(), arguments.take_over).await.map_err(refused)?;
    let listener = socket.listen(super::BACKLOG).map_err(busy)?;
    let address = listener.local_addr().blame(Exit::Infrastructure)?;
    let own = holder::here(arguments.advertise.unwrap_or_else(|| advertised(address)));
    let opened = Runtime::of_pool(vacancy, Timing::default(), own).await;
    let (runtime, handle) = opened.map_err(refused)?;
    print::note(format_args!(
        "coordinator at http://{address}, everything under {}",
        storage.url()
    ));
    let mut interrupt = signal(SignalKind::interrupt()).blame(Exit::Infrastructure)?;
    let mut terminate = signal(SignalKind::terminate()).blame(Exit::Infrastructure)?;
    let (shutdown, shut) = oneshot::channel::<()>();
    let mut server = pin!(service::serve(listener, handle.clone(), async {
        // The sender is dropped to shut down.
        let _ = shut.await;
    }));
    // Spawned, to run on the same threads as the connections: their inputs then need not wake the main thread.
    let mut running = tokio::spawn(runtime.run());
    // Workers continue without a coordinator and reconnect to the next one, so nothing needs to be stopped here.
    let error = tokio::select! {
        _ = interrupt.recv() => return Ok(Exit::Done),
        _ = terminate.recv() => return Ok(Exit::Done),
        outcome = &mut running => match outcome.blame(Exit::Infrastructure)? {
            Ok(()) => return Ok(Exit::Done),
            Err(error) => error,
        },
        outcome = &mut server => return outcome.map(|()| Exit::Done).blame(Exit::Infrastructure),
    };
    drop(shutdown);
    // A worker that misses the redirection finds the successor in the way it found this coordinator.
    let _ = tokio::time::timeout(REDIRECT_TIME, server).await;
    Err(refused(error))
}

fn refused(error: runtime::Error) -> Refusal {
    let exit = match error {
        runtime::Error::Held(_) => Exit::User,
        runtime::Error::Journal(_)
        | runtime::Error::Storage(_)
        | runtime::Error::Spec { .. }
        | runtime::Error::Replaced(_) => Exit::Infrastructure,
    };
    Refusal { exit, error: error.into() }
}

fn advertised(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("http://{}:{}", holder::host(), address.port())
    } else {
        format!("http://{address}")
    }
}
