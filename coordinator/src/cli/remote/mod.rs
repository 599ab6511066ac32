//! Commands that talk to a standing coordinator.

use super::show::{Show, Style};
use super::typed::Typed;
use super::{Blame, Exit, Outcome, Refusal, run};
use crate::core::{BySource, Notice, SourceFigures};
use anyhow::{Context, anyhow};
use clap::Args;
use proto::print;
use proto::wire::runs_client::RunsClient;
use proto::wire::{self};
use std::path::PathBuf;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

#[derive(Args)]
struct Remote {
    /// Where the coordinator is
    #[arg(
        long,
        env = "MUSTER_COORDINATOR",
        default_value = "http://127.0.0.1:7070",
        value_parser = proto::address::parse
    )]
    coordinator: String,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Submit {
    /// The run spec, a YAML file or an object such as s3://bucket/run.yaml
    spec: PathBuf,
    /// Follow the run until it ends
    #[arg(long)]
    follow: bool,
    /// The same key always gives the same run [default: a fresh one]
    #[arg(long)]
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
    /// The run
    run: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args)]
pub(super) struct Watch {
    /// The run
    run: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args)]
pub(super) struct Cancel {
    /// The run
    run: String,
    #[command(flatten)]
    remote: Remote,
}

impl Remote {
    async fn connect(&self) -> Result<RunsClient<Channel>, Refusal> {
        let endpoint = Endpoint::from_shared(self.coordinator.clone())
            .with_context(|| format!("`{}` is not http://host:port", self.coordinator))
            .blame(Exit::User)?;
        let channel = endpoint.connect_timeout(Duration::from_secs(5)).connect().await;
        let channel = channel
            .with_context(|| {
                let hint =
                    "hint: start one with `coordinator serve`, or name it with --coordinator";
                format!("no coordinator answers at `{}`\n{hint}", self.coordinator)
            })
            .blame(Exit::Infrastructure)?;
        Ok(RunsClient::new(channel))
    }
}

/// What a coordinator answered, as an error of whoever's fault it is.
fn refused(status: tonic::Status) -> Refusal {
    let exit = match status.code() {
        tonic::Code::InvalidArgument | tonic::Code::NotFound | tonic::Code::FailedPrecondition => {
            Exit::User
        }
        _ => Exit::Infrastructure,
    };
    Refusal { exit, error: anyhow!(status.message().to_owned()) }
}

pub(super) async fn submit(arguments: Submit) -> Outcome {
    let Typed { spec, .. } = Typed::read(&arguments.spec).await?;
    let mut client = arguments.remote.connect().await?;
    let request = wire::SubmitRequest {
        spec_yaml: spec.resolved_yaml(),
        idempotency_key: arguments.idempotency_key.unwrap_or_else(proto::id::unique),
    };
    let run = client.submit(request).await.map_err(refused)?.into_inner().run;
    if arguments.follow {
        return follow(client, run, &arguments.remote).await;
    }
    if arguments.remote.json {
        print::line(serde_json::json!({ "run": run }))?;
    } else {
        print::line(run)?;
    }
    Ok(Exit::Done)
}

pub(super) async fn list(arguments: List) -> Outcome {
    let mut client = arguments.remote.connect().await?;
    let runs = client.list(wire::ListRequest {}).await.map_err(refused)?.into_inner().runs;
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
    let mut client = arguments.remote.connect().await?;
    let request = wire::StatusRequest { run: arguments.run };
    let status = client.status(request).await.map_err(refused)?.into_inner();
    if arguments.remote.json {
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
    let client = arguments.remote.connect().await?;
    follow(client, arguments.run, &arguments.remote).await
}

pub(super) async fn cancel(arguments: Cancel) -> Outcome {
    let mut client = arguments.remote.connect().await?;
    let run = arguments.run.clone();
    client.cancel(wire::CancelRequest { run: arguments.run }).await.map_err(refused)?;
    if !arguments.remote.json {
        print::note(format_args!("run {run} will end"));
    }
    Ok(Exit::Done)
}

async fn follow(mut client: RunsClient<Channel>, run: String, remote: &Remote) -> Outcome {
    let Remote { coordinator, json } = remote;
    let style = if *json { Style::Json } else { Style::People };
    let request = wire::WatchRequest { run: run.clone(), after_ms: 0 };
    let mut notices = client.watch(request).await.map_err(refused)?.into_inner();
    let show = Show::new(style, &format!("run {run} at {coordinator}"));
    // The coordinator sends no errors here: one is the connection's end.
    while let Ok(Some(notice)) = notices.message().await {
        let parsed: Notice = serde_json::from_str(&notice.json)
            .with_context(|| "the coordinator is of another version")
            .blame(Exit::Infrastructure)?;
        show.notice(&parsed, 0, 0)?;
        if let Some(outcome) = run::end(&parsed) {
            return outcome;
        }
    }
    Err(anyhow!("the coordinator went away\nhint: the run goes on; `watch` it again"))
        .blame(Exit::Infrastructure)
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
