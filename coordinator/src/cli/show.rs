//! How a run is shown: a progress bar for people, one object a line for programs.

use super::advice;
use super::mixture::{self, Mixed};
use crate::core::{BySource, Notice};
use crate::runtime::feed::Stamped;
use chrono::{DateTime, Local};
use indicatif::{ProgressBar, ProgressStyle};
use proto::print;
use proto::text::visible;
use serde::Deserialize;
use std::io::IsTerminal;
use std::time::Duration;

/// For whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// A bar where there is a terminal, lines where there is none.
    People,
    /// JSON on standard output, nothing but errors elsewhere.
    Json,
}

/// Shows one run.
pub(super) struct Show {
    style: Style,
    bar: ProgressBar,
    terminal: bool,
    go_on: String,
}

/// Lines about steps that a whole run prints where there is no terminal, roughly.
const STEP_LINES: u64 = 50;
/// How the time of day is written.
const CLOCK: &str = "%H:%M:%S";

impl Show {
    /// Says first what is shown: `run NAME in FOLDER`. `go_on` is what goes on with the run after a stop.
    pub(super) fn new(style: Style, heading: &str, go_on: String) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = match (style, terminal) {
            (Style::People, true) => ProgressBar::new_spinner(),
            (Style::People, false) | (Style::Json, _) => ProgressBar::hidden(),
        };
        bar.enable_steady_tick(Duration::from_millis(200));
        let show = Self { style, bar, terminal, go_on };
        if style == Style::People {
            show.say(heading);
        }
        show
    }

    /// A line beside the bar.
    pub(super) fn say(&self, line: &str) {
        let line = visible(line);
        if self.style == Style::People && self.terminal {
            self.bar.println(line);
        } else {
            print::note(line);
        }
    }

    /// What this command does or sees itself, with the time.
    pub(super) fn tell(&self, line: &str) {
        self.say(&format!("{} {line}", Local::now().format(CLOCK)));
    }

    /// Something that happened.
    ///
    /// # Errors
    /// If standard output takes it no more.
    pub(super) fn notice(&self, stamped: &Stamped) -> Result<(), print::Error> {
        if self.style == Style::Json {
            print::line(serde_json::to_string(stamped).expect("notices are JSON"))?;
        } else {
            self.people(stamped)?;
        }
        if stamped.notice.last() {
            self.bar.finish_and_clear();
        }
        Ok(())
    }

    fn people(&self, stamped: &Stamped) -> Result<(), print::Error> {
        let Stamped { at_ms, notice } = stamped;
        let say = |line: &str| self.say(&format!("{}{line}", clock(*at_ms)));
        // Another attempt.
        if self.bar.is_finished() {
            self.bar.reset();
        }
        match notice {
            Notice::Preparing { done, shards } => {
                self.bar.set_message(format!("preparing data: {done} of {shards} shards"));
            }
            Notice::Prepared { cached, receipt, .. } => {
                let how = if *cached { " (from an earlier run)" } else { "" };
                say(&format!("data prepared{how}\n{receipt}"));
            }
            Notice::Planned { steps, summary } => {
                say(&planned(*steps, summary));
                self.plan(*steps, summary);
            }
            Notice::Waiting { detail } if self.terminal => self.bar.set_message(detail.clone()),
            Notice::Waiting { detail } => say(detail),
            Notice::Generation { generation, world_size, step, redone, .. } => {
                say(&began(*generation, *world_size, *step, *redone));
                self.bar.set_position(*step);
            }
            Notice::Step { step, steps, loss, tokens_per_second, lr, sources, .. } => {
                let by_source = short(sources);
                // Every one of these may draw the bar, but for the position while it ticks.
                if self.bar.length() != Some(*steps) {
                    self.bar.set_length(*steps);
                }
                self.bar.set_position(*step);
                self.bar.set_message(format!(
                    "loss {loss:.4}{by_source}  {tokens_per_second:.0} tokens/s"
                ));
                let every = steps.div_ceil(STEP_LINES).max(1);
                if !self.terminal && (step.is_multiple_of(every) || step == steps) {
                    say(&format!(
                        "step {step}/{steps}  loss {loss:.4}{by_source}  lr {lr:.2e}  {tokens_per_second:.0} tokens/s"
                    ));
                }
            }
            Notice::Eval { step, loss, sources } => {
                let by_source = short(sources);
                say(&format!("step {step}: held-out loss {loss:.4}{by_source}"));
            }
            Notice::Checkpoint { step, path } => {
                say(&format!("step {step}: checkpoint {path}"));
            }
            Notice::Incident { message, .. } => say(&format!("incident: {message}")),
            Notice::Paused { step } => {
                say(&format!("stopped after step {step}; {} goes on", self.go_on));
            }
            Notice::Cancelled => say("cancelled"),
            // The command's own error says it.
            Notice::Failed { .. } | Notice::Lost { .. } => {}
            Notice::Finished { model, steps } => {
                self.bar.finish_and_clear();
                say(&format!("finished after {steps} steps"));
                print::line(model)?;
            }
        }
        Ok(())
    }

    /// The rest of the plan, and a bar as long as it.
    fn plan(&self, steps: u64, summary: &serde_json::Value) {
        if let Some(sources) = summary.get("sources") {
            let epochs = summary.get("epochs").and_then(serde_json::Value::as_array);
            self.mixture(sources, epochs.map_or(1, Vec::len));
        }
        for warning in mixture::warnings(summary) {
            self.say(&format!("warning: {warning}"));
        }
        if let Some(warning) = advice::few_steps(steps) {
            self.say(&format!("warning: {warning}"));
        }
        let template = "{bar:30} {pos}/{len}  {msg}  eta {eta}";
        let style = ProgressStyle::with_template(template).expect("the template is ours");
        self.bar.set_style(style);
        // Nothing spins any more, only the time left counts down.
        self.bar.enable_steady_tick(Duration::from_secs(1));
        self.bar.set_length(steps);
        self.bar.set_message("gathering workers");
    }

    /// The sources, where there is something to mix, and those of which a part is never seen.
    fn mixture(&self, sources: &serde_json::Value, epochs: usize) {
        // Of another version: the plan is as good without its table.
        let Ok(sources) = Vec::<Mixed>::deserialize(sources) else { return };
        mixture::table(&sources).iter().for_each(|line| self.say(line));
        let warnings = mixture::unseen(&sources, epochs);
        warnings.iter().for_each(|warning| self.say(&format!("warning: {warning}")));
    }
}

/// `15:04:05 `, on this machine's clock; nothing where the time is unknown.
fn clock(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().filter(|ms| *ms > 0);
    let at = at.and_then(DateTime::from_timestamp_millis);
    at.map_or_else(String::new, |at| format!("{} ", at.with_timezone(&Local).format(CLOCK)))
}

/// The plan in one line.
fn planned(steps: u64, summary: &serde_json::Value) -> String {
    let number = |key: &str| summary.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    format!(
        "planned: {steps} steps of {} packs of up to {} tokens; {} packs an epoch, {} samples held out",
        number("global_batch"),
        number("max_tokens"),
        number("packs_per_epoch"),
        number("held_out"),
    )
}

/// A generation in one line, and what it costs.
fn began(generation: u64, world_size: usize, step: u64, redone: u64) -> String {
    let workers = if world_size == 1 { "worker" } else { "workers" };
    let began = format!("generation {generation}: {world_size} {workers}, from step {step}");
    match redone {
        0 => began,
        1 => format!("{began} (1 step is done again)"),
        steps => format!("{began} ({steps} steps are done again)"),
    }
}

/// Sources whose losses have room beside the loss of all.
const SHORT: usize = 3;

/// Losses by source as a few words: `  (alpaca 1.10, code 0.84)`.
fn short(sources: &BySource) -> String {
    if sources.is_empty() || sources.len() > SHORT {
        return String::new();
    }
    let stem = |name: &str| {
        let file = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
        file.split('.').next().unwrap_or(file).to_owned()
    };
    let words = sources.iter().map(|(name, s)| format!("{} {:.2}", stem(name), s.loss));
    format!("  ({})", words.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::SourceFigures;

    #[test]
    fn a_generation_says_what_it_costs() {
        let wanted = "generation 3: 2 workers, from step 50";
        assert_eq!(began(3, 2, 50, 0), wanted);
        assert_eq!(began(3, 2, 50, 1), format!("{wanted} (1 step is done again)"));
        assert_eq!(began(3, 2, 50, 29), format!("{wanted} (29 steps are done again)"));
    }

    #[test]
    fn lines_begin_with_the_time_where_it_is_known() {
        assert_eq!(clock(0), "");
        let said = clock(1_800_000_000_000);
        // The minutes and seconds are the same almost everywhere on earth.
        assert!(said.ends_with(":00 ") && said.len() == "15:04:05 ".len(), "{said}");
    }

    #[test]
    fn a_few_sources_have_room_and_many_have_not() {
        let figures = SourceFigures { loss: 1.104, trained_tokens: 3 };
        let of = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), figures)).collect();
        assert_eq!(short(&of(&["/d/a.jsonl", "s3://b/code/"])), "  (a 1.10, code 1.10)");
        assert_eq!(short(&of(&[])), "");
        assert_eq!(short(&of(&["a", "b", "c", "d"])), "");
    }
}
