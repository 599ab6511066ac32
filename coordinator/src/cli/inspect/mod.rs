//! `coordinator inspect`: shows a run's data as the model will see it, without an accelerator.
//!
//! ```text
//! preview --receipt, plan--> Inspection --> text, JSON lines, a page
//! prepared shards --samples--^
//! ```
//!
//! All three outputs have the same content.

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
    /// Show this record instead, where FILE is the file's name or the end of its path; may be repeated
    #[arg(long, value_name = "FILE:LINE")]
    record: Vec<samples::Record>,
    /// Seed for drawing the samples
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Print one JSON object per line on standard output
    #[arg(long)]
    json: bool,
    /// Write everything to FILE as a self-contained HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// The content of all outputs.
struct Inspection {
    name: String,
    receipt: Receipt,
    plan: Outlook,
    /// Number of samples to choose from.
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
