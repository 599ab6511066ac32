//! `coordinator checkpoint`: lists, verifies, exports and prunes the checkpoints of a run in storage.

use super::{Blame, Exit, Outcome, Refusal};
use crate::checkpoints::tools::{Error, Found, Run};
use crate::runtime::journal;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use proto::id::{CheckpointId, RunId};
use proto::key;
use proto::manifest::Checkpoint;
use proto::print;
use serde_json::json;
use storage::Storage;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List a run's checkpoints
    Ls(Ls),
    /// Verify every byte of a run's checkpoints; the exit code is 3 if anything is damaged
    Verify(Verify),
    /// Copy a checkpoint's model to a folder that `transformers` loads
    Export(Export),
    /// Delete old checkpoints of a run that has ended, and unfinished ones
    Prune(Prune),
}

#[derive(Args)]
pub(super) struct Ls {
    #[command(flatten)]
    run: RunFolder,
    /// Print one JSON object per line on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Verify {
    #[command(flatten)]
    run: RunFolder,
    /// Verify only this checkpoint: a name, `latest`, or `best`, which has the lowest held-out loss
    #[arg(long, value_name = "NAME")]
    checkpoint: Option<String>,
    /// Print one JSON object per line on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Export {
    #[command(flatten)]
    run: RunFolder,
    /// The target: a new folder, or an empty prefix of a store
    to: String,
    /// Checkpoint to export: a name, `latest` or `best`
    #[arg(long, value_name = "NAME", default_value = "latest")]
    checkpoint: String,
}

#[derive(Args)]
pub(super) struct Prune {
    #[command(flatten)]
    run: RunFolder,
    /// Number of newest checkpoints to keep; the best one is kept as well
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: u32,
    /// Only print what would be deleted
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
struct RunFolder {
    /// A run's folder, such as ./runs/NAME-20261121-093000-1f2e or s3://bucket/runs/NAME-...; credentials come from the
    /// environment
    run: String,
}

impl RunFolder {
    async fn open(&self) -> Result<Run, Refusal> {
        let here = std::fs::canonicalize(&self.run).ok();
        let here = here.as_deref().and_then(|path| path.to_str());
        let run = here.unwrap_or(&self.run).trim_end_matches('/');
        let (output, id) = match run.rsplit_once('/') {
            Some((output, id)) => (output, id),
            None => (".", run),
        };
        if output.ends_with(":/") {
            return Err(refusal(Error::NoRun(run.to_owned())));
        }
        let output = if output.is_empty() { "/" } else { output };
        let storage = Storage::open_existing(output).blame(Exit::User)?;
        Run::open(storage, RunId::new(id)).await.map_err(refusal)
    }
}

pub(super) async fn checkpoint(command: Command) -> Outcome {
    match command {
        Command::Ls(arguments) => ls(arguments).await,
        Command::Verify(arguments) => verify(arguments).await,
        Command::Export(arguments) => export(arguments).await,
        Command::Prune(arguments) => prune(arguments).await,
    }
}

async fn ls(arguments: Ls) -> Outcome {
    let run = arguments.run.open().await?;
    let latest = run.latest().map(|c| c.id);
    let best = run.best().map(|c| c.id);
    if !arguments.json && run.committed.is_empty() && run.lost.is_none() {
        print::note("no checkpoints");
    }
    for checkpoint in &run.committed {
        let manifest = run.manifest(checkpoint).await;
        let bytes = manifest.as_ref().map(bytes).ok();
        let marks: Vec<_> = [("latest", latest), ("best", best)]
            .into_iter()
            .filter(|(_, id)| *id == Some(checkpoint.id))
            .map(|(mark, _)| mark)
            .chain(manifest.is_err().then_some("damaged"))
            .collect();
        let CheckpointId { lineage, step } = checkpoint.id;
        let (name, loss) = (checkpoint.name(), checkpoint.loss);
        if arguments.json {
            print::line(json!({"checkpoint": name, "lineage": lineage.0, "step": step,
                               "bytes": bytes, "held_out_loss": loss, "marks": marks}))?;
        } else {
            let loss = loss.map_or("-".into(), |loss| format!("{loss:.4}"));
            let size = bytes.map_or("-".into(), |b| indicatif::DecimalBytes(b).to_string());
            let marks = marks.join(", ");
            print::line(format_args!("{name}  {size:>10}  held-out loss {loss:<8}  {marks}"))?;
        }
    }
    if let Some(CheckpointId { lineage, step }) = run.lost {
        let name = key::checkpoint_name(lineage, step);
        if arguments.json {
            print::line(json!({"checkpoint": name, "step": step, "marks": ["gone"]}))?;
        } else {
            print::line(format_args!("{name}  gone, though it is the last one"))?;
        }
    }
    if !arguments.json && !run.others.is_empty() {
        let others = run.others.len();
        print::line(format_args!("and {others} uncommitted or replaced"))?;
    }
    Ok(Exit::Done)
}

async fn verify(arguments: Verify) -> Outcome {
    let run = arguments.run.open().await?;
    let chosen: Vec<_> = match &arguments.checkpoint {
        Some(name) => vec![run.find(name).map_err(refusal)?],
        None => run.committed.iter().collect(),
    };
    let mut exit = Exit::Done;
    for checkpoint in chosen {
        let name = checkpoint.name();
        let bar = match run.manifest(checkpoint).await {
            Ok(manifest) => progress(bytes(&manifest), &name),
            Err(_) => ProgressBar::hidden(),
        };
        let outcome = run.verify(checkpoint, &|read| bar.inc(read)).await;
        bar.finish_and_clear();
        let damage = match outcome.map_err(refusal)? {
            Found::Whole => None,
            Found::Damaged(error) => Some(proto::error::chain(&error)),
            Found::Replaced => continue,
        };
        verified(&name, damage.as_deref(), arguments.json)?;
        if damage.is_some() {
            exit = Exit::Data;
        }
    }
    let lost = run.lost.filter(|_| arguments.checkpoint.is_none());
    if let Some(CheckpointId { lineage, step }) = lost {
        verified(&key::checkpoint_name(lineage, step), Some("it is gone"), arguments.json)?;
        exit = Exit::Data;
    }
    Ok(exit)
}

fn verified(name: &str, damage: Option<&str>, json: bool) -> Result<(), print::Error> {
    if json {
        print::line(json!({"checkpoint": name, "whole": damage.is_none(), "damage": damage}))
    } else if let Some(damage) = damage {
        print::line(format_args!("{name}: damaged: {damage}"))
    } else {
        print::line(format_args!("{name}: whole"))
    }
}

async fn export(arguments: Export) -> Outcome {
    let run = arguments.run.open().await?;
    let checkpoint = run.find(&arguments.checkpoint).map_err(refusal)?;
    let to = Storage::open(&arguments.to).blame(Exit::User)?;
    super::probe(&to, "the folder to export to").await?;
    if !to.list("").await.blame(Exit::Infrastructure)?.is_empty() {
        let error = anyhow::anyhow!(
            "`{}` is not empty\nhint: name a folder that does not exist yet",
            arguments.to
        );
        return Err(Refusal { exit: Exit::User, error });
    }
    let manifest = run.manifest(checkpoint).await.map_err(refusal)?;
    let bar = progress(manifest.model.iter().map(|f| f.bytes).sum(), &checkpoint.name());
    let outcome = run.export(checkpoint, &to, &|copied| bar.inc(copied)).await;
    bar.finish_and_clear();
    if let Err(error) = outcome {
        // The target was empty before, so everything in it is of this export.
        for object in to.list("").await.blame(Exit::Infrastructure)? {
            to.delete(&object.key).await.blame(Exit::Infrastructure)?;
        }
        if let Some(folder) = to.local_path("") {
            // The folder stays if something else was put into it meanwhile.
            let _ = std::fs::remove_dir(folder);
        }
        return Err(refusal(error));
    }
    print::line(to.url().strip_prefix("file://").unwrap_or(to.url()))?;
    Ok(Exit::Done)
}

async fn prune(arguments: Prune) -> Outcome {
    let run = arguments.run.open().await?;
    run.has_ended().map_err(refusal)?;
    let superfluous = run.superfluous(arguments.keep as usize).await.map_err(refusal)?;
    let (verb, uploads) = match arguments.dry_run {
        true => ("would delete", run.unfinished().await),
        false => ("deleted", run.delete(&superfluous).await),
    };
    let uploads = uploads.map_err(refusal)?;
    for CheckpointId { lineage, step } in superfluous {
        print::line(format_args!("{verb} {}", key::checkpoint_name(lineage, step)))?;
    }
    for key in uploads {
        print::line(format_args!("{verb} an unfinished upload to {key}"))?;
    }
    Ok(Exit::Done)
}

fn bytes(manifest: &Checkpoint) -> u64 {
    manifest.files().map(|f| f.bytes).sum()
}

fn progress(bytes: u64, name: &str) -> ProgressBar {
    let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
    let style = ProgressStyle::with_template(style).expect("a fixed template");
    ProgressBar::new(bytes).with_style(style).with_message(name.to_owned())
}

fn refusal(error: Error) -> Refusal {
    let exit = match &error {
        Error::NoRun(_) | Error::Unknown { .. } | Error::Live => Exit::User,
        Error::Damaged { .. } => Exit::Data,
        Error::Storage(e) if e.is_users() => Exit::User,
        Error::Journal(e) if matches!(&**e, journal::Error::Storage(e) if e.is_users()) => {
            Exit::User
        }
        Error::Journal(_) | Error::Storage(_) => Exit::Infrastructure,
    };
    Refusal { exit, error: error.into() }
}
