//! What every pod of a Job runs.
//!
//! ```text
//! index 0     the coordinator of one run, and a worker beside it
//! others      a worker, which finds the coordinator by the name of the first pod
//! ```
//!
//! The run's name is the same for every pod and every attempt of the Job, so that a pod that replaces the first one
//! goes on with the run that it finds in the output. The exit codes are those of [`proto::exit`]: 0 only if the run has
//! succeeded, 64 to 67 if it has ended otherwise, and any other code if another pod should take this one's place.

use super::progress::Trainer;
use crate::cli::embedded::Embedded;
use crate::cli::show::{Show, Style};
use crate::cli::typed::Typed;
use crate::cli::{BACKLOG, Blame, Exit, Refusal, block_on, exit_code, follow, probe, reserve};
use crate::core::Timing;
use crate::launch::{self, Launched, Node};
use crate::runtime::handle::Handle;
use crate::runtime::{Runtime, journal};
use crate::service::Door;
use crate::takeover::holder;
use crate::takeover::resume::{self, Known, how_ended};
use crate::web::{self, Stage};
use anyhow::{Context, anyhow};
use clap::Args;
use proto::event::Fact;
use proto::exit;
use proto::id::RunId;
use proto::print;
use proto::protocol::Dismissal;
use proto::spec::{Spec, duration};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use storage::Storage;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use wire::credentials::{Credentials, Folder};

/// The log filter of the workers, which is the one that they have by themselves.
const LOG: &str = "warn,worker=info,proto=info,data=info";
/// How long the coordinator waits after the run's end until all workers know of it.
const DISMISSAL_TIME: Duration = Duration::from_secs(15);
/// How long the pod waits for its last report of progress.
const REPORT_TIME: Duration = Duration::from_secs(5);
/// The pause between two looks at the workers, or at a run whose coordinator does not answer.
const POLL: Duration = Duration::from_millis(200);
/// The pause before a worker that was dismissed, although its run has not ended, joins the next first pod.
const REJOIN: Duration = Duration::from_secs(2);
/// How often a worker's pod checks whether the run has ended while its worker had no connection.
const CHECK: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// The run spec, a YAML file
    spec: PathBuf,
    /// Name of the run, the same in all pods and all attempts of a Job
    #[arg(long, value_name = "NAME", env = "MUSTER_RUN")]
    run: String,
    /// Index of this pod; the one with index 0 coordinates
    #[arg(long, env = "JOB_COMPLETION_INDEX")]
    index: u32,
    /// Name of this pod, the beginning of the names of its workers
    #[arg(long, env = "POD_NAME")]
    name: String,
    /// IP address of this pod, at which other pods reach its workers
    #[arg(long, env = "POD_IP")]
    ip: Option<IpAddr>,
    /// Ports for connections between workers
    #[arg(long, value_name = "PORT-PORT", default_value = "7100-7163")]
    ring_ports: String,
    /// URL at which all pods reach the one with index 0
    #[arg(long, value_name = "URL", env = "MUSTER_COORDINATOR", value_parser = wire::address::parse)]
    coordinator: String,
    /// Address and port at which the pod with index 0 listens
    #[arg(long, env = "MUSTER_LISTEN", default_value = "[::]:7070")]
    listen: SocketAddr,
    /// Address and port for health checks, and for the metrics of the pod with index 0 [default: none]
    #[arg(long, value_name = "ADDRESS", env = "MUSTER_WEB")]
    web: Option<SocketAddr>,
    /// Folder with the credentials of the Job: tls.crt, tls.key, ca.crt
    #[arg(long, value_name = "FOLDER", env = "MUSTER_CREDENTIALS")]
    credentials: Option<PathBuf>,
    /// Work without encryption and without credentials
    #[arg(long, env = "MUSTER_INSECURE", value_parser = clap::builder::FalseyValueParser::new())]
    insecure: bool,
    /// Devices of this pod's workers, such as cpu, cpu:2 or cuda:all
    #[arg(long, env = "MUSTER_DEVICES", default_value = "cpu")]
    devices: String,
    /// How long workers may take to leave after SIGTERM, for a checkpoint
    #[arg(long, value_name = "DURATION", env = "MUSTER_GRACE", default_value = "20s", value_parser = duration::parse)]
    grace: Duration,
}

/// Runs the pod until the run's end, or until this pod should be replaced.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match block_on(pod(arguments)) {
        Ok(code) => ExitCode::from(code),
        Err(refusal) => {
            // What is wrong with the arguments, the spec or the data is as wrong in another pod.
            let code = match refusal.exit {
                Exit::User => exit::FAILED_USER,
                Exit::Data => exit::FAILED_DATA,
                _ => return exit_code(Err(refusal)),
            };
            exit_code(Err(refusal));
            ExitCode::from(code)
        }
    }
}

async fn pod(arguments: &Arguments) -> Result<u8, Refusal> {
    let Typed { spec, .. } = Typed::read(&arguments.spec).await?;
    let program = launch::program().blame(Exit::Infrastructure)?;
    let own = Credentials::new(arguments.credentials.clone(), arguments.insecure);
    let mut more = own.arguments();
    more.extend(["--grace".to_owned(), format!("{}s", arguments.grace.as_secs())]);
    if let Some(ip) = arguments.ip {
        let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        more.extend(["--ring-address".to_owned(), format!("{host}:{}", arguments.ring_ports)]);
    }
    let node = Node {
        program,
        coordinator: arguments.coordinator.clone(),
        devices: arguments.devices.clone(),
        name: arguments.name.clone(),
        arguments: more,
        log: LOG,
    };
    let door = match &arguments.credentials {
        Some(folder) => Door::with(Folder::at(folder)).blame(Exit::User)?,
        None => Door::open(),
    };
    if !door.is_encrypted() && !arguments.insecure {
        let error = anyhow!(
            "the pods of a Job reach each other over the network, so they need certificates\n\
             hint: `coordinator kubernetes credentials` makes them for --credentials; --insecure does without"
        );
        return Err(error).blame(Exit::User);
    }
    if arguments.index > 0 {
        let (_, watched) = watch::channel(Stage::Beside);
        let web = web::serve_at(arguments.web, door, watched);
        return tokio::select! {
            code = work(arguments, node, &spec) => code,
            error = web => Err(error).context("--web").blame(Exit::User),
        };
    }
    let (stage, watched) = watch::channel(Stage::Starting);
    let web = web::serve_at(arguments.web, door.clone(), watched);
    tokio::select! {
        code = coordinate(arguments, node, spec, (door, own, stage)) => code,
        error = web => Err(error).context("--web").blame(Exit::User),
    }
}

/// Coordinates the run, with a worker beside it. Returns the exit code.
async fn coordinate(
    arguments: &Arguments,
    node: Node,
    spec: Spec,
    (door, credentials, stage): (Door, Credentials, watch::Sender<Stage>),
) -> Result<u8, Refusal> {
    // The first process of a container ignores SIGTERM unless it listens, and the store may not answer for minutes.
    let mut terminate = signal(SignalKind::terminate()).blame(Exit::Infrastructure)?;
    let prepared = tokio::select! {
        prepared = prepare(arguments, spec, (door, credentials)) => prepared?,
        _ = terminate.recv() => return Ok(exit::STOPPED),
    };
    let (mut coordinator, storage) = match prepared {
        Prepared::Coordinating(coordinator, storage) => (coordinator, storage),
        Prepared::Ended(code) => return Ok(code),
    };
    let (handle, run) = (coordinator.handle.clone(), RunId::new(arguments.run.clone()));
    stage.send_replace(Stage::Working(handle.clone()));
    let heading = format!("run {run} in {}/{run}", storage.url());
    let show = Show::new(Style::Human, &heading, "the next pod".into());
    let followed = async {
        let watch = handle.watch(run.clone(), 0).await.blame(Exit::Infrastructure)?;
        let watch = watch.map_err(anyhow::Error::msg).blame(Exit::Infrastructure)?;
        let watch = watch.ok_or_else(|| anyhow!("run `{run}` is unknown"));
        let watch = watch.blame(Exit::Infrastructure)?;
        crate::cli::run::until_the_end(watch, &show, &handle, &mut terminate).await
    };
    let reporting = match Trainer::from_env() {
        Some(trainer) => {
            let watch = handle.watch(run.clone(), 0).await.blame(Exit::Infrastructure)?;
            watch.ok().flatten().map(|watch| tokio::spawn(trainer.report(watch)))
        }
        None => None,
    };
    let say = |line: &str| show.say(line);
    let outcome = follow::with_workers(&mut coordinator, node, say, followed).await;
    dismiss_all(&handle).await;
    if let Some(reporting) = reporting {
        // The last report is on its way, unless the run has not ended.
        let _ = tokio::time::timeout(REPORT_TIME, reporting).await;
    }
    let how = how_it_ended(&handle, &run).await;
    coordinator.end();
    match (how, outcome) {
        (Dismissal::Closing | Dismissal::Refused, Err(error)) => Err(error),
        (how, outcome) => {
            if let Err(Refusal { error, .. }) = outcome {
                print::note(format_args!("error: {}", proto::error::chain(error.as_ref())));
            }
            Ok(exit::of_dismissal(how).unwrap_or(exit::STOPPED))
        }
    }
}

/// What the first pod has found.
enum Prepared {
    /// The coordinator has the run.
    Coordinating(Embedded, Storage),
    /// The run has ended already, and so does this pod, with this exit code.
    Ended(u8),
}

/// Starts the coordinator, with the run that it finds or with a new one.
async fn prepare(
    arguments: &Arguments,
    spec: Spec,
    (door, credentials): (Door, Credentials),
) -> Result<Prepared, Refusal> {
    let run = RunId::new(arguments.run.clone());
    let busy = |error: std::io::Error| {
        let context = format!("cannot listen on {}", arguments.listen);
        Refusal { exit: Exit::Infrastructure, error: anyhow::Error::from(error).context(context) }
    };
    let socket = reserve(arguments.listen).map_err(busy)?;
    let storage = Storage::open(&spec.output().to_string()).context("output").blame(Exit::User)?;
    probe(&storage, "output").await?;
    // This coordinator must not listen yet: the last one may have had the same address, and is asked there.
    let known = resume::look_up(&storage, &run, spec.clone(), credentials).await;
    let known = known.map_err(|error| {
        let exit = match error {
            resume::Error::Changed { .. } => Exit::User,
            _ => Exit::Infrastructure,
        };
        Refusal { exit, error: error.into() }
    })?;
    if let Known::Ended(how) = known {
        print::note(format_args!("run {run} has ended already"));
        return Ok(Prepared::Ended(exit::of_dismissal(how).unwrap_or(exit::STOPPED)));
    }
    let patience = spec.checkpoint().storage_patience;
    let own = holder::here(arguments.coordinator.clone());
    let (mut runtime, handle) = Runtime::alone(storage.clone(), Timing::default(), own, patience);
    let is_new = match known {
        Known::Resumable(found) => {
            runtime.resume(*found).await.blame(Exit::Infrastructure)?;
            false
        }
        Known::New | Known::Ended(_) => true,
    };
    let listener = socket.listen(BACKLOG).map_err(busy)?;
    let url = arguments.coordinator.clone();
    let mut coordinator = Embedded::start_at(url, door, runtime, handle.clone(), listener);
    if is_new {
        coordinator.work(submit(&handle, &run, spec)).await?;
    }
    Ok(Prepared::Coordinating(coordinator, storage))
}

async fn submit(handle: &Handle, run: &RunId, spec: Spec) -> Result<(), Refusal> {
    let spec = crate::data::sources::pin(spec).await?;
    let submitted = handle.submit_as(run.clone(), spec).await.blame(Exit::Infrastructure)?;
    submitted.map(|_| ()).map_err(anyhow::Error::msg).blame(Exit::User)
}

/// Waits until all workers have been dismissed and have disconnected.
async fn dismiss_all(handle: &Handle) {
    let all_gone = async {
        while let Ok(overview) = handle.overview().await
            && overview.workers.iter().any(|worker| worker.state != "disconnected")
        {
            tokio::time::sleep(POLL).await;
        }
    };
    // A worker that misses its dismissal finds the run's end in the output.
    let _ = tokio::time::timeout(DISMISSAL_TIME, all_gone).await;
}

async fn how_it_ended(handle: &Handle, run: &RunId) -> Dismissal {
    let Ok(overview) = handle.overview().await else { return Dismissal::Closing };
    let found = overview.runs.iter().find(|seen| seen.status.run == *run);
    found.map_or(Dismissal::Closing, |seen| seen.status.outcome)
}

/// Works for the coordinator in the first pod. Returns the exit code.
async fn work(arguments: &Arguments, node: Node, spec: &Spec) -> Result<u8, Refusal> {
    let storage = Storage::open(&spec.output().to_string()).context("output").blame(Exit::User)?;
    let run = RunId::new(arguments.run.clone());
    let mut terminate = signal(SignalKind::terminate()).blame(Exit::Infrastructure)?;
    let say = |line: &str| print::note(line);
    loop {
        let mut launched = Launched::locally(node.clone()).blame(Exit::Infrastructure)?;
        tokio::select! {
            // Only the first pod leaves. If this one left, too, it would count as a failure of the Job, and each of
            // those doubles the time until Kubernetes replaces pods.
            ended = launched.watch(say) => match ended {
                Err(launch::Error::Drained) => {}
                ended => return code_of(ended),
            },
            _ = terminate.recv() => {
                launched.terminate();
                return code_of(launched.watch(say).await);
            }
            how = missed_end(&arguments.coordinator, &storage, &run) => {
                launched.end().await;
                return Ok(exit::of_dismissal(how).unwrap_or(exit::STOPPED));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(REJOIN) => {}
            _ = terminate.recv() => return Ok(exit::STOPPED),
        }
    }
}

/// The exit code of a pod whose workers have ended.
fn code_of(ended: Result<(), launch::Error>) -> Result<u8, Refusal> {
    match ended {
        Ok(()) => Ok(exit::SUCCEEDED),
        Err(launch::Error::Drained) => Ok(exit::STOPPED),
        Err(error) => match error.code() {
            Some(code) => Ok(code),
            None => Err(error).blame(Exit::Infrastructure),
        },
    }
}

/// Resolves once the run has ended although no coordinator answers: a worker that had no connection at that moment was
/// not dismissed.
async fn missed_end(coordinator: &str, storage: &Storage, run: &RunId) -> Dismissal {
    let authority = coordinator.split_once("://").map_or(coordinator, |(_, rest)| rest);
    let authority = authority.trim_end_matches('/');
    loop {
        tokio::time::sleep(CHECK).await;
        if tokio::net::TcpStream::connect(authority).await.is_ok() {
            continue;
        }
        // If the store is away, too, the next look will tell.
        let Ok(history) = journal::read::<Fact>(storage, &proto::key::journal(run)).await else {
            continue;
        };
        if let Some(how) = how_ended(&history) {
            return how;
        }
    }
}
