//! `coordinator serve`: a standing coordinator for a pool of workers.

use super::{Blame, Exit, Outcome, Refusal};
use crate::core::Timing;
use crate::runtime::{self, Runtime, Vacancy};
use crate::service::{self, Door};
use crate::takeover::holder;
use crate::web::{self, Stage};
use ::kubernetes::Cluster;
use anyhow::{Context, anyhow};
use clap::Args;
use proto::print;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;
use storage::Storage;
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use wire::credentials::{Credentials, Folder};

/// How long a replaced coordinator goes on serving, so that workers learn the address of its successor.
const REDIRECT_TIME: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct Arguments {
    /// Address and port to listen on
    #[arg(long, env = "MUSTER_LISTEN", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// Address and port for health checks and metrics: /healthz, /readyz, /metrics [default: none]
    #[arg(long, value_name = "ADDRESS", env = "MUSTER_WEB")]
    web: Option<SocketAddr>,
    /// URL at which others reach this coordinator [default: the address that it listens on, or this host's name if it
    /// listens on all addresses]
    #[arg(
        long,
        value_name = "URL",
        env = "MUSTER_ADVERTISE",
        value_parser = wire::address::parse
    )]
    advertise: Option<String>,
    /// Folder with this coordinator's credentials: its certificate tls.crt with tls.key, the authority ca.crt of
    /// clients' certificates, and the list `tokens` of accepted tokens; see `coordinator certs` and `coordinator token`
    #[arg(long, value_name = "FOLDER", env = "MUSTER_CREDENTIALS")]
    credentials: Option<PathBuf>,
    /// Let pods of this coordinator's namespace join with the token of their service account (audience `muster`), which
    /// the cluster's API server checks; needs permission to create TokenReviews
    #[arg(long, requires = "credentials")]
    token_review: bool,
    /// Listen for other hosts without encryption, or without asking for credentials
    #[arg(long, env = "MUSTER_INSECURE", value_parser = clap::builder::FalseyValueParser::new())]
    insecure: bool,
    /// Folder or prefix under which the pool stores everything, such as /shared/muster or s3://bucket/muster
    #[arg(long, env = "MUSTER_OUTPUT")]
    output: String,
    /// Take over from a coordinator that still answers; its runs continue, and its workers move to this one
    #[arg(long)]
    take_over: bool,
}

pub(super) async fn serve(arguments: Arguments) -> Outcome {
    raise_file_limit();
    let door = match &arguments.credentials {
        Some(folder) => {
            let cluster = match arguments.token_review {
                true => Some(Cluster::connect(None, None).await.blame(Exit::User)?),
                false => None,
            };
            Door::with_reviews(Folder::at(folder), cluster).blame(Exit::User)?
        }
        None => Door::open(),
    };
    check_exposure(&arguments, &door)?;
    let busy = |error| busy(arguments.listen, error);
    let socket = super::reserve(arguments.listen).map_err(busy)?;
    let (stage, watched) = watch::channel(Stage::Starting);
    let web = web::serve_at(arguments.web, door.clone(), watched);
    let serving = serve_pool(&arguments, door.clone(), socket, stage);
    tokio::select! {
        outcome = serving => outcome,
        error = web => {
            let context = "the web port cannot be served\nhint: choose another address with --web";
            Err(error).context(context).blame(Exit::User)
        }
    }
}

/// The error for an address that is in use or does not exist.
fn busy(address: SocketAddr, error: std::io::Error) -> Refusal {
    let context = format!("cannot listen on {address}\nhint: choose another address with --listen");
    Refusal { exit: Exit::User, error: anyhow::Error::from(error).context(context) }
}

/// Claims the pool, and serves its runs until a signal.
async fn serve_pool(
    arguments: &Arguments,
    door: Door,
    socket: TcpSocket,
    stage: watch::Sender<Stage>,
) -> Outcome {
    let busy = |error| busy(arguments.listen, error);
    let storage = Storage::open(&arguments.output)
        .context("--output\nhint: name a folder that this user can write to")
        .blame(Exit::User)?;
    super::probe(&storage, "--output").await?;
    let own = Credentials::new(arguments.credentials.clone(), arguments.insecure);
    let found = Vacancy::find(storage.clone(), arguments.take_over, own).await;
    let vacancy = found.map_err(refused)?;
    let listener = socket.listen(super::BACKLOG).map_err(busy)?;
    let address = listener.local_addr().blame(Exit::Infrastructure)?;
    let scheme = if door.is_encrypted() { "https" } else { "http" };
    let given = arguments.advertise.clone();
    let advertise = given.unwrap_or_else(|| advertised(scheme, address));
    let own = holder::here(advertise);
    let opened = Runtime::of_pool(vacancy, Timing::default(), own).await;
    let (runtime, handle) = opened.map_err(refused)?;
    stage.send_replace(Stage::Working(handle.clone()));
    print::note(format_args!(
        "coordinator at {scheme}://{address}, everything under {}; {}",
        storage.url(),
        door.wanted()
    ));
    let mut interrupt = signal(SignalKind::interrupt()).blame(Exit::Infrastructure)?;
    let mut terminate = signal(SignalKind::terminate()).blame(Exit::Infrastructure)?;
    let (shutdown, shut) = oneshot::channel::<()>();
    let mut server = pin!(service::serve(listener, door, handle.clone(), async {
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

fn advertised(scheme: &str, address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("{scheme}://{}:{}", holder::host(), address.port())
    } else {
        format!("{scheme}://{address}")
    }
}

/// Allows as many open files as the system permits: every connection is one.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Without it, the coordinator accepts fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Checks that other hosts reach only a coordinator that is encrypted and asks for credentials, unless the user wants
/// it otherwise.
fn check_exposure(arguments: &Arguments, door: &Door) -> Result<(), Refusal> {
    let ports = [Some(arguments.listen), arguments.web];
    let exposed = ports.into_iter().flatten().find(|port| !port.ip().is_loopback());
    let Some(listen) = exposed.filter(|_| !door.is_encrypted()) else { return Ok(()) };
    let exposed = match &arguments.credentials {
        Some(_) => "without encryption, so that tokens could be read",
        None => "without encryption, and allow everybody everything",
    };
    if arguments.insecure {
        tracing::warn!(%listen, "--insecure: the coordinator listens {exposed}");
        return Ok(());
    }
    Err(anyhow!(
        "the coordinator would listen for other hosts on {listen} {exposed}\n\
         hint: `coordinator certs` makes certificates for --credentials; or listen on 127.0.0.1; or write --insecure \
         if everybody in this network may submit, cancel and read all runs"
    ))
    .blame(Exit::User)
}
