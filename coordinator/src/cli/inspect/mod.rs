//! `coordinator inspect`: a run's data as the model will see it, before any accelerator is taken.

mod page;
mod samples;

use super::preview::preview;
use super::{Blame, Exit, Outcome};
use anyhow::Context;
use clap::Args;
use proto::plan::Summary;
use proto::receipt::Receipt;
use samples::{Choice, Shown};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct Arguments {
    /// The run spec, a YAML file
    spec: PathBuf,
    /// Samples to show, drawn evenly from the sources
    #[arg(long, default_value_t = 5)]
    samples: usize,
    /// Show these records instead: FILE:LINE, the file's name or the end of its path
    #[arg(long, value_name = "FILE:LINE")]
    record: Vec<samples::Record>,
    /// Of the drawing
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Print one JSON object a line on standard output
    #[arg(long)]
    json: bool,
    /// Write it all to FILE, one self-contained page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Everything there is to see.
#[derive(Serialize)]
struct Inspection {
    name: String,
    receipt: Receipt,
    plan: Summary,
    samples: Vec<Shown>,
}

pub(super) async fn inspect(arguments: Arguments) -> Outcome {
    let preview = preview(&arguments.spec).await?;
    let choice = if arguments.record.is_empty() {
        Choice::Drawn { count: arguments.samples, seed: arguments.seed }
    } else {
        Choice::Records(arguments.record)
    };
    let samples = samples::choose(&preview, &choice).await?;
    let name = preview.spec.name().to_owned();
    let inspection = Inspection { name, receipt: preview.receipt, plan: preview.plan, samples };
    if arguments.json {
        print!("{}", lines(&inspection));
    } else {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        print!("{}", text(&inspection, colour));
    }
    if let Some(path) = &arguments.html {
        let page = page::render(&inspection).blame(Exit::Infrastructure)?;
        std::fs::write(path, page)
            .with_context(|| format!("--html: {} cannot be written", path.display()))
            .blame(Exit::User)?;
        eprintln!("wrote {}", path.display());
    }
    Ok(Exit::Done)
}

/// What happened to the records, what the plan is, then every sample: one object a line.
fn lines(inspection: &Inspection) -> String {
    let Inspection { name, receipt, plan, samples } = inspection;
    let mut objects = vec![
        serde_json::json!({"event": "receipt", "name": name, "receipt": receipt}),
        serde_json::json!({"event": "plan", "plan": plan}),
    ];
    objects.extend(samples.iter().map(|s| serde_json::json!({"event": "sample", "sample": s})));
    objects.iter().map(|object| format!("{object}\n")).collect()
}

/// For a terminal: trained text in green, the rest dimmed; without colour, trained text in brackets.
fn text(inspection: &Inspection, colour: bool) -> String {
    let mut out = format!("{}\n\n{}\n", inspection.name, inspection.receipt);
    for sample in &inspection.samples {
        let Shown { origin, tokens, trained_tokens, .. } = sample;
        // Writing to a String cannot fail.
        let _ = writeln!(out, "── {origin}: {tokens} tokens, {trained_tokens} trained");
        for piece in &sample.pieces {
            let _ = match (colour, piece.weight) {
                (true, 0.0) => write!(out, "\u{1b}[2m{}\u{1b}[0m", visible(&piece.text)),
                (true, 1.0) => write!(out, "\u{1b}[32m{}\u{1b}[0m", visible(&piece.text)),
                (true, w) => {
                    write!(out, "\u{1b}[33m{}\u{1b}[2m×{w}\u{1b}[0m", visible(&piece.text))
                }
                (false, 0.0) => write!(out, "{}", visible(&piece.text)),
                (false, 1.0) => write!(out, "⟦{}⟧", visible(&piece.text)),
                (false, w) => write!(out, "⟦{w}|{}⟧", visible(&piece.text)),
            };
        }
        out.push_str("\n\n");
    }
    out
}

/// The text without what would change the terminal: a data set is not to be trusted with it.
fn visible(text: &str) -> String {
    let show = |c: char| match c {
        '\n' | '\t' => c.to_string(),
        c if c.is_control() => c.escape_unicode().to_string(),
        c => c.to_string(),
    };
    text.chars().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::Piece;

    #[test]
    fn trained_text_is_told_apart_with_and_without_colour() {
        let piece = |text: &str, weight| Piece { text: text.into(), weight };
        let sample = Shown {
            source: "a".into(),
            origin: "a.jsonl, line 3".into(),
            tokens: 4,
            trained_tokens: 2,
            pieces: vec![piece("Q\u{1b}[0m", 0.0), piece("A", 1.0), piece("B", 0.5)],
        };
        let plan = Summary::default();
        let inspection = Inspection {
            name: "n".into(),
            receipt: Receipt::default(),
            plan,
            samples: vec![sample],
        };
        let plain = text(&inspection, false);
        assert!(plain.contains("── a.jsonl, line 3: 4 tokens, 2 trained\n"), "{plain}");
        assert!(plain.contains("Q\\u{1b}[0m⟦A⟧⟦0.5|B⟧"), "{plain}");
        assert!(text(&inspection, true).contains("\u{1b}[32mA\u{1b}[0m"));
    }
}
