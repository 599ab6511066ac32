//! `coordinator run`: one run from start to end, with an embedded coordinator on the loopback and local workers.

use super::embedded::{self, Embedded};
use super::show::{Show, Style};
use super::typed::Typed;
use super::{Blame, Exit, Outcome, Refusal, devices, follow};
use crate::core::Timing;
use crate::data::{sources, survey};
use crate::launch;
use crate::runtime::Runtime;
use crate::runtime::feed::Watch;
use crate::runtime::handle::{Handle, Stopped};
use crate::takeover::{holder, resume};
use anyhow::anyhow;
use clap::Args;
use proto::id::RunId;
use proto::print;
use proto::spec::Spec;
use std::path::PathBuf;
use storage::Storage;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;
use wire::credentials::Credentials;

#[derive(Args)]
pub(super) struct Arguments {
    /// The run spec, a YAML file or an object such as s3://bucket/run.yaml
    spec: PathBuf,
    /// Number of worker processes, which share the cores equally [default: the spec's workers.min]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: Option<u32>,
    /// Devices of the workers: cpu, cuda:all, or GPUs by number, such as cuda:0,3; each GPU gets a worker
    #[arg(long, default_value = "cpu")]
    devices: String,
    /// Resume the newest run of this spec that was stopped or interrupted
    #[arg(long)]
    resume: bool,
    /// Take over the run from a coordinator that still answers
    #[arg(long, requires = "resume")]
    take_over: bool,
    /// Print events as JSON, one object per line; the run stops gracefully once standard output is closed
    #[arg(long)]
    json: bool,
    /// Port to listen on, on the loopback interface [default: any free port]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
}

pub(super) async fn run(arguments: Arguments) -> Outcome {
    let Typed { text, spec } = Typed::read(&arguments.spec).await?;
    let program = launch::program().blame(Exit::Infrastructure)?;
    let (devices, workers) =
        devices::chosen(&arguments.devices, arguments.workers, &spec, &program).await?;
    let mut spec = spec.with_workers(workers, workers);
    let socket = embedded::reserve(arguments.port)?;
    let storage = embedded::output(&spec).await?;
    let resumed = if arguments.resume {
        let found =
            resume::find(&storage, spec.clone(), arguments.take_over, Credentials::none()).await;
        Some(found.blame(Exit::User)?)
    } else {
        // Check everything first, so that a run that cannot begin leaves nothing behind.
        spec = sources::pin(spec).await?;
        survey::check(&spec, survey::Scope::Everywhere).await?;
        None
    };
    let listener = embedded::listen(socket)?;
    let own = holder::here(embedded::url(&listener)?);
    let patience = spec.checkpoint().storage_patience;
    let (mut runtime, handle) = Runtime::alone(storage.clone(), Timing::default(), own, patience);
    let resumed = match resumed {
        Some(found) => {
            let run = found.run.clone();
            runtime.resume(found).await.blame(Exit::Infrastructure)?;
            Some(run)
        }
        None => None,
    };
    let mut coordinator = Embedded::start(runtime, handle.clone(), listener)?;
    let run = match resumed {
        Some(run) => run,
        None => coordinator.work(submit(&handle, spec, text, &storage)).await?,
    };
    let style = if arguments.json { Style::Json } else { Style::Human };
    let folder = storage.url().strip_prefix("file://").unwrap_or(storage.url());
    let heading = format!("run {run} in {folder}/{run}");
    let show = Show::new(style, &heading, "the same command with --resume".into());
    let followed = async {
        let watch = handle.watch(run.clone(), 0).await.blame(Exit::Infrastructure)?;
        let watch = watch.map_err(anyhow::Error::msg).blame(Exit::Infrastructure)?;
        let unknown = || anyhow!("run `{run}` is unknown");
        let watch = watch.ok_or_else(unknown).blame(Exit::Infrastructure)?;
        let mut terminate = signal(SignalKind::terminate()).blame(Exit::Infrastructure)?;
        until_the_end(watch, &show, &handle, &mut terminate).await
    };
    let say = |line: &str| show.say(line);
    let node = follow::local(program, &coordinator, devices);
    let outcome = follow::with_workers(&mut coordinator, node, say, followed).await;
    coordinator.end();
    outcome
}

async fn submit(
    handle: &Handle,
    spec: Spec,
    typed: String,
    storage: &Storage,
) -> Result<RunId, Refusal> {
    let run = handle.submit(spec, proto::id::unique(), None).await.blame(Exit::Infrastructure)?;
    let run = run.map_err(anyhow::Error::msg).blame(Exit::Infrastructure)?;
    storage.put(&proto::key::spec(&run), typed).await.blame(Exit::Infrastructure)?;
    Ok(run)
}

/// Shows notices until the run has ended. The first Ctrl-C stops the run gracefully, the second at once. If standard
/// output cannot be written to, the run stops gracefully as well, since the program that followed it no longer does.
/// `terminate` is SIGTERM, which also counts if it came earlier.
pub(super) async fn until_the_end(
    mut watch: Watch,
    show: &Show,
    handle: &Handle,
    terminate: &mut Signal,
) -> Outcome {
    let mut interrupt = signal(SignalKind::interrupt()).blame(Exit::Infrastructure)?;
    let mut past = std::mem::take(&mut watch.past).into_iter();
    let mut asked = false;
    let mut printed = Ok(());
    loop {
        let notice = match past.next() {
            Some(notice) => notice,
            None => tokio::select! {
                _ = interrupt.recv() => {
                    if asked {
                        show.log("stopped at once; `--resume` continues from the last checkpoint");
                        return Ok(Exit::Paused);
                    }
                    asked = stop(show, handle).await?;
                    continue;
                }
                _ = terminate.recv(), if !asked => {
                    asked = stop(show, handle).await?;
                    continue;
                }
                notice = watch.now.recv() => match notice {
                    Ok(notice) => notice,
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return Err(Stopped).blame(Exit::Infrastructure),
                },
            },
        };
        if printed.is_ok() {
            printed = show.notice(&notice);
        }
        if let Some(outcome) = follow::end(&notice.notice) {
            return outcome.and_then(|exit| unprinted(exit, printed));
        }
        if let Err(error) = &printed
            && !asked
        {
            show.log(&proto::error::chain(error));
            asked = stop(show, handle).await?;
        }
    }
}

/// The outcome of a run whose notices could not all be printed. That the reader has gone does not change it.
fn unprinted(exit: Exit, printed: Result<(), print::Error>) -> Outcome {
    match printed {
        Ok(()) | Err(print::Error::Unread) => Ok(exit),
        Err(error @ print::Error::Refused(_)) => Err(error.into()),
    }
}

async fn stop(show: &Show, handle: &Handle) -> Result<bool, Refusal> {
    show.log("stopping after the current step, with a checkpoint; Ctrl-C again stops at once");
    handle.close().await.blame(Exit::Infrastructure)?;
    Ok(true)
}
