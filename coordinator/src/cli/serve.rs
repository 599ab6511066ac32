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

/// How long workers have to hear where the coordinator is that has this one's place.
const FAREWELL: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct Arguments {
    /// Address and port to listen on
    #[arg(long, env = "MUSTER_LISTEN", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// Where others reach this coordinator [default: the address that it listens on, or this host's name if that is
    /// every address]
    #[arg(
        long,
        value_name = "URL",
        env = "MUSTER_ADVERTISE",
        value_parser = wire::address::parse
    )]
    advertise: Option<String>,
    /// Folder or prefix under which the pool keeps everything, such as /shared/muster or s3://bucket/muster
    #[arg(long, env = "MUSTER_OUTPUT")]
    output: String,
    /// Take the place of a coordinator that still answers; its runs go on, and its workers come here
    #[arg(long)]
    take_over: bool,
}

pub(super) async fn serve(arguments: Arguments) -> Outcome {
    let busy = |error: std::io::Error| {
        let listen = arguments.listen;
        let hint = "hint: choose another with --listen";
        let said = format!("{listen} cannot be listened on\n{hint}");
        Refusal { exit: Exit::User, error: anyhow::Error::from(error).context(said) }
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
        // Dropped or sent, it is time.
        let _ = shut.await;
    }));
    // Beside the connections that it answers, so that what one of them brings wakes no other thread.
    let mut running = tokio::spawn(runtime.run());
    // Workers go on without a coordinator and come back to the next one: leaving needs no ceremony.
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
    // Whoever does not hear it finds the other as it found this one.
    let _ = tokio::time::timeout(FAREWELL, server).await;
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
