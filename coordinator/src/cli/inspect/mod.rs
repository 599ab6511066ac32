//! `coordinator inspect`: a run's data as the model will see it, before any accelerator is taken.
//!
//! ```text
//! preview --receipt, plan--> Inspection --> text, JSON lines, a page
//! prepared shards --samples--^
//! ```
//!
//! All three say the same.

mod fate;
mod page;
mod samples;
mod text;

use super::outlook::Outlook;
use super::preview::preview;
use super::{Blame, Exit, Outcome};
use anyhow::Context;
use clap::Args;
use proto::print;
use proto::receipt::Receipt;
use samples::{Choice, Shown};
use std::io::IsTerminal;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct Arguments {
    /// The run spec, a YAML file or an object such as s3://bucket/run.yaml
    spec: PathBuf,
    /// Number of samples to show, drawn evenly from the sources
    #[arg(long, default_value_t = 5)]
    samples: usize,
    /// Show these records instead: FILE:LINE, the file's name or the end of its path
    #[arg(long, value_name = "FILE:LINE")]
    record: Vec<samples::Record>,
    /// Seed by which the samples are drawn
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Print one JSON object a line on standard output
    #[arg(long)]
    json: bool,
    /// Write everything to FILE as one self-contained page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Everything there is to see.
struct Inspection {
    name: String,
    receipt: Receipt,
    plan: Outlook,
    /// So many samples there were to choose from.
    of: u64,
    samples: Vec<Shown>,
}

pub(super) async fn inspect(arguments: Arguments) -> Outcome {
    let preview = preview(&arguments.spec).await?;
    let choice = if arguments.record.is_empty() {
        Choice::Drawn { count: arguments.samples, seed: arguments.seed }
    } else {
        Choice::Records(arguments.record)
    };
    let (samples, of) = samples::choose(&preview, &choice).await?;
    let (plan, name) = (Outlook::new(&preview), preview.spec.name().to_owned());
    let inspection = Inspection { name, receipt: preview.receipt, plan, of, samples };
    if arguments.json {
        print::text(text::lines(&inspection))?;
    } else {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        print::text(text::text(&inspection, colour))?;
    }
    if let Some(path) = &arguments.html {
        let page = page::render(&inspection).blame(Exit::Infrastructure)?;
        std::fs::write(path, page)
            .with_context(|| format!("--html: {} cannot be written", path.display()))
            .blame(Exit::User)?;
        print::note(format_args!("wrote {}", path.display()));
    }
    Ok(Exit::Done)
}
