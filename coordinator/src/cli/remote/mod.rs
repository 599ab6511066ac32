//! Commands that talk to a standing coordinator.
//!
//! ```text
//! connect   where it is, its timeouts, what its errors mean
//! follow    a run's notices until it ends, across restarts and moves
//! ```

mod connect;
mod follow;

use super::typed::Typed;
use super::{Exit, Outcome, Refusal};
use crate::core::{BySource, SourceFigures};
use clap::Args;
use connect::{Remote, Unanswered};
use follow::Following;
use proto::print;
use proto::spec::duration;
use proto::text::visible;
use proto::wire;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub(super) struct Submit {
    /// The run spec, a YAML file or an object such as s3://bucket/run.yaml
    spec: PathBuf,
    /// Follow the run until it ends
    #[arg(long)]
    follow: bool,
    /// End with an error once the coordinator has been away this long, such as 30s or 10m [default: wait for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, requires = "follow")]
    give_up_after: Option<Duration>,
    /// Queue the run once, however often this key is used with its spec [default: a new key]
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args)]
pub(super) struct Status {
    /// The run's name, as `list` shows it
    run: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args)]
pub(super) struct Watch {
    /// The run's name, as `list` shows it
    run: String,
    /// End with an error once the coordinator has been away this long, such as 30s or 10m [default: wait for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    give_up_after: Option<Duration>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args)]
pub(super) struct Cancel {
    /// The run's name, as `list` shows it
    run: String,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn submit(arguments: Submit) -> Outcome {
    let Submit { spec, follow, give_up_after, idempotency_key, remote } = arguments;
    let spec = Typed::read(&spec).await?.spec.resolved_yaml();
    let submitted = queued(&remote, spec, idempotency_key).await?;
    let run = submitted.run;
    if follow {
        return Following::new(&remote, &run, give_up_after).submitted().until_the_end().await;
    }
    if remote.json {
        print::line(serde_json::json!({ "run": run }))?;
    } else {
        print::line(visible(&run))?;
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
             hint: the same command with `--idempotency-key {idempotency_key}` queues it once at most"
        );
        Refusal { exit, error: error.context(context) }
    })
}

pub(super) async fn list(arguments: List) -> Outcome {
    let answer = arguments.remote.ask(async |client| client.list(wire::ListRequest {}).await);
    let runs = answer.await?.runs;
    if !arguments.remote.json && runs.is_empty() {
        print::note("no runs");
    }
    for status in runs {
        if arguments.remote.json {
            print::line(to_json(&status))?;
        } else {
            print::line(format_args!(
                "{:<48} {:<10} {}",
                status.run,
                status.phase,
                progress(&status)
            ))?;
        }
    }
    Ok(Exit::Done)
}

pub(super) async fn status(arguments: Status) -> Outcome {
    let Status { run, remote } = arguments;
    let request = wire::StatusRequest { run };
    let status = remote.ask(async |client| client.status(request.clone()).await).await?;
    if remote.json {
        print::line(to_json(&status))?;
        return Ok(Exit::Done);
    }
    print::line(format_args!("run         {}", status.run))?;
    print::line(format_args!("phase       {}", status.phase))?;
    if !status.detail.is_empty() {
        print::line(format_args!("            {}", status.detail))?;
    }
    print::line(format_args!("progress    {}", progress(&status)))?;
    for source in &status.sources {
        let (loss, tokens) = (source.loss, source.trained_tokens);
        print::line(format_args!(
            "            loss {loss:.4} on {tokens} trained tokens of {}",
            source.name
        ))?;
    }
    print::line(format_args!("generation  {} (lineage {})", status.generation, status.lineage))?;
    for (rank, worker) in status.workers.iter().enumerate() {
        print::line(format_args!("rank {rank:<6} {worker}"))?;
    }
    if status.checkpoint_step > 0 {
        print::line(format_args!("checkpoint  step {}", status.checkpoint_step))?;
    }
    if !status.model.is_empty() {
        print::line(format_args!("model       {}", status.model))?;
    }
    Ok(Exit::Done)
}

pub(super) async fn watch(arguments: Watch) -> Outcome {
    let Watch { run, give_up_after, remote } = arguments;
    Following::new(&remote, &run, give_up_after).until_the_end().await
}

pub(super) async fn cancel(arguments: Cancel) -> Outcome {
    let Cancel { run, remote } = arguments;
    let request = wire::CancelRequest { run: run.clone() };
    remote.ask(async |client| client.cancel(request.clone()).await).await?;
    if !remote.json {
        print::note(format_args!("run {run} will end"));
    }
    Ok(Exit::Done)
}

fn progress(status: &wire::RunStatus) -> String {
    if status.steps == 0 {
        return status.detail.lines().next().unwrap_or_default().to_owned();
    }
    let loss = status.loss.map(|loss| format!("  loss {loss:.4}")).unwrap_or_default();
    format!("{}/{}{loss}", status.step, status.steps)
}

fn to_json(s: &wire::RunStatus) -> serde_json::Value {
    let figures = |s: &wire::SourceLoss| {
        let figures = SourceFigures { loss: s.loss, trained_tokens: s.trained_tokens };
        (s.name.clone(), figures)
    };
    let sources: BySource = s.sources.iter().map(figures).collect();
    serde_json::json!({
        "run": s.run,
        "name": s.name,
        "phase": s.phase,
        "detail": s.detail,
        "generation": s.generation,
        "lineage": s.lineage,
        "step": s.step,
        "steps": s.steps,
        "workers": s.workers,
        "checkpoint_step": s.checkpoint_step,
        "model": s.model,
        "loss": s.loss,
        "sources": sources,
    })
}
