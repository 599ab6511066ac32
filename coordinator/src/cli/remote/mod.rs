//! Commands that talk to a standing coordinator.
//!
//! ```text
//! connect   its URL, timeouts, the meaning of its errors
//! follow    a run's notices until it ends, across restarts and moves
//! tables    runs and workers for people                json   the same for programs
//! ```

mod connect;
mod follow;
mod json;
pub(super) mod tables;

use super::kubernetes::{self, Place};
use super::typed::{self, Typed};
use super::{Exit, Outcome, Refusal, now_ms};
use clap::Args;
use connect::{Remote, Unanswered};
use follow::Following;
use proto::print;
use proto::spec::duration;
use proto::text::visible;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub(super) struct Submit {
    /// The run spec, a YAML file or an object such as s3://bucket/run.yaml
    #[arg(required_unless_present = "resume")]
    spec: Option<PathBuf>,
    /// Start another attempt of a run that ended without success, from its newest checkpoint; SPEC is optional, and may
    /// differ from the run's only in `workers` and `checkpoint`
    #[arg(long, value_name = "RUN", conflicts_with = "idempotency_key")]
    resume: Option<String>,
    /// Do not check that the spec's paths exist on this host
    #[arg(long, conflicts_with = "launch")]
    no_check: bool,
    /// Follow the run until it ends
    #[arg(long)]
    follow: bool,
    /// Fail once the coordinator has been unreachable for this long, such as 30s or 10m [default: wait forever]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = duration::parse,
        requires = "follow",
        conflicts_with = "launch"
    )]
    give_up_after: Option<Duration>,
    /// Queue the run only once, however often the same spec is submitted with this key [default: a new key]
    #[arg(long, value_name = "KEY", conflicts_with = "launch")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    job: kubernetes::Options,
}

#[derive(Args)]
pub(super) struct List {
    /// Show only the runs
    #[arg(long, conflicts_with_all = ["workers", "launch"])]
    runs: bool,
    /// Show only the workers
    #[arg(long, conflicts_with = "launch")]
    workers: bool,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Status {
    /// The run's name, as `list` shows it
    run: String,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Watch {
    /// The run's name, as `list` shows it
    run: String,
    /// Fail once the coordinator has been unreachable for this long, such as 30s or 10m [default: wait forever]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "launch")]
    give_up_after: Option<Duration>,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Cancel {
    /// The run's name, as `list` shows it
    run: String,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn submit(arguments: Submit) -> Outcome {
    let Submit {
        spec,
        resume,
        no_check,
        follow,
        give_up_after,
        idempotency_key,
        remote,
        place,
        job,
    } = arguments;
    if place.is_cluster() {
        let (insecure, json) = (remote.is_insecure(), remote.json);
        let asked = kubernetes::Asked { spec: spec.as_deref(), resume, insecure, follow, json };
        return kubernetes::submit(asked, job, &place).await;
    }
    let spec = match spec {
        Some(place) => {
            let spec = Typed::read(&place).await?.spec;
            if !no_check {
                typed::check_local(&spec).await?;
            }
            spec.resolved_yaml()
        }
        None => String::new(),
    };
    let submitted = match resume {
        Some(run) => resumed(&remote, run, spec).await?,
        None => queued(&remote, spec, idempotency_key).await?,
    };
    let wire::SubmitReply { run, attempt } = submitted;
    if follow {
        return Following::new(&remote, &run, give_up_after).submitted().until_the_end().await;
    }
    if remote.json {
        print::line(serde_json::json!({ "run": run, "attempt": json::known(attempt) }))?;
    } else {
        print::line(visible(&run))?;
        if attempt > 1 {
            print::note(format_args!("attempt {attempt}"));
        }
    }
    Ok(Exit::Done)
}

async fn queued(
    remote: &Remote,
    spec_yaml: String,
    key: Option<String>,
) -> Result<wire::SubmitReply, Refusal> {
    let idempotency_key = key.unwrap_or_else(proto::id::unique);
    let request = wire::SubmitRequest { spec_yaml, idempotency_key: idempotency_key.clone() };
    let queued = remote.ask(async |client| client.submit(request.clone()).await).await;
    queued.map_err(|Refusal { exit, error }| {
        if !error.is::<Unanswered>() {
            return Refusal { exit, error };
        }
        let context = format!(
            "it is unknown whether the run was queued\n\
             hint: the same command with `--idempotency-key {idempotency_key}` queues it at most once"
        );
        Refusal { exit, error: error.context(context) }
    })
}

async fn resumed(
    remote: &Remote,
    run: String,
    spec_yaml: String,
) -> Result<wire::SubmitReply, Refusal> {
    let request = wire::ResumeRequest { run, spec_yaml };
    let resumed = remote.ask(async |client| client.resume(request.clone()).await).await;
    resumed.map_err(|Refusal { exit, error }| {
        if !error.is::<Unanswered>() {
            return Refusal { exit, error };
        }
        let context = "it is unknown whether the run was resumed\n\
                       hint: `coordinator status RUN` shows its attempt";
        Refusal { exit, error: error.context(context) }
    })
}

pub(super) async fn list(arguments: List) -> Outcome {
    let List { runs: only_runs, workers: only_workers, remote, place } = arguments;
    if place.is_cluster() {
        return kubernetes::list(&place, remote.json, width()).await;
    }
    let answer = remote.ask(async |client| client.list(wire::ListRequest {}).await).await?;
    let wire::ListReply { mut runs, mut workers } = answer;
    if only_workers {
        runs.clear();
    } else if only_runs {
        workers.clear();
    }
    if remote.json {
        for object in runs.iter().map(json::run).chain(workers.iter().map(json::worker)) {
            print::line(object)?;
        }
        return Ok(Exit::Done);
    }
    if runs.is_empty() && !only_workers {
        print::note("no runs");
    }
    if workers.is_empty() && only_workers {
        print::note("no workers");
    }
    let now = now_ms();
    let tables = [
        (!runs.is_empty()).then(|| tables::runs(&runs, now, width())),
        (!workers.is_empty()).then(|| tables::workers(&workers, width())),
    ];
    print::text(tables.into_iter().flatten().collect::<Vec<_>>().join("\n"))?;
    Ok(Exit::Done)
}

pub(super) async fn status(arguments: Status) -> Outcome {
    let Status { run, remote, place } = arguments;
    if place.is_cluster() {
        return kubernetes::status(&run, &place, remote.json).await;
    }
    let request = wire::StatusRequest { run };
    let status = remote.ask(async |client| client.status(request.clone()).await).await?;
    if remote.json {
        print::line(json::run(&status))?;
    } else {
        print::text(visible(&tables::status(&status, now_ms())))?;
    }
    Ok(Exit::Done)
}

pub(super) async fn watch(arguments: Watch) -> Outcome {
    let Watch { run, give_up_after, remote, place } = arguments;
    if place.is_cluster() {
        return kubernetes::watch(&run, &place, remote.json).await;
    }
    Following::new(&remote, &run, give_up_after).until_the_end().await
}

pub(super) async fn cancel(arguments: Cancel) -> Outcome {
    let Cancel { run, remote, place } = arguments;
    if place.is_cluster() {
        return kubernetes::cancel(&run, &place, remote.json).await;
    }
    let request = wire::CancelRequest { run: run.clone() };
    let answer = remote.ask(async |client| client.cancel(request.clone()).await).await?;
    let wire::CancelReply { phase } = answer;
    if remote.json {
        print::line(serde_json::json!({ "run": run, "phase": phase }))?;
    } else if phase.is_empty() || phase == "cancelled" {
        print::note(format_args!("run {run} was cancelled"));
    } else {
        print::note(format_args!("run {run} had already ended: {}", visible(&phase)));
    }
    Ok(Exit::Done)
}

/// The width of the terminal; `None` if standard output is not a terminal, in which case nothing is cut.
fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}
