//! Shows a run's notices: as lines and a progress bar for people, or as JSON lines for programs.

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

/// The format of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// A progress bar on a terminal, otherwise lines.
    Human,
    /// JSON on standard output, and only errors on standard error.
    Json,
}

/// The output for one run.
pub(super) struct Show {
    style: Style,
    bar: ProgressBar,
    terminal: bool,
    resume_command: String,
}

/// Approximate number of lines about steps that a run prints without a terminal.
const STEP_LINES: u64 = 50;
/// The format of the time of day.
const CLOCK: &str = "%H:%M:%S";

impl Show {
    /// Prints the heading, such as `run NAME in FOLDER`. `resume_command` continues the run after a stop.
    pub(super) fn new(style: Style, heading: &str, resume_command: String) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = match (style, terminal) {
            (Style::Human, true) => ProgressBar::new_spinner(),
            (Style::Human, false) | (Style::Json, _) => ProgressBar::hidden(),
        };
        bar.enable_steady_tick(Duration::from_millis(200));
        let show = Self { style, bar, terminal, resume_command };
        if style == Style::Human {
            show.say(heading);
        }
        show
    }

    /// Prints a line above the progress bar.
    pub(super) fn say(&self, line: &str) {
        let line = visible(line);
        if self.style == Style::Human && self.terminal {
            self.bar.println(line);
        } else {
            print::note(line);
        }
    }

    /// Prints a line with the current time, about something that this command does or observes itself.
    pub(super) fn log(&self, line: &str) {
        self.say(&format!("{} {line}", Local::now().format(CLOCK)));
    }

    /// Shows a notice.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub(super) fn notice(&self, stamped: &Stamped) -> Result<(), print::Error> {
        if self.style == Style::Json {
            print::line(serde_json::to_string(stamped).expect("notices are JSON"))?;
        } else {
            self.show_human(stamped)?;
        }
        if stamped.notice.last() {
            self.bar.finish_and_clear();
        }
        Ok(())
    }

    fn show_human(&self, stamped: &Stamped) -> Result<(), print::Error> {
        let Stamped { at_ms, notice } = stamped;
        let say = |line: &str| self.say(&format!("{}{line}", clock(*at_ms)));
        // The notice is of another attempt.
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
                say(&generation_line(*generation, *world_size, *step, *redone));
                self.bar.set_position(*step);
            }
            Notice::Step { step, steps, loss, tokens_per_second, lr, sources, .. } => {
                let by_source = short(sources);
                // Each of these calls may redraw the bar, except setting the position while the bar ticks.
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
                say(&format!(
                    "stopped after step {step}; {} continues the run",
                    self.resume_command
                ));
            }
            Notice::Cancelled => say("cancelled"),
            // The command prints these as its own error.
            Notice::Failed { .. } | Notice::Lost { .. } => {}
            Notice::Finished { model, steps } => {
                self.bar.finish_and_clear();
                say(&format!("finished after {steps} steps"));
                print::line(model)?;
            }
        }
        Ok(())
    }

    /// Prints the plan's mixture and warnings, and starts the bar for its steps.
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
        // There is no spinner any more, so the bar only needs a tick to count down the time left.
        self.bar.enable_steady_tick(Duration::from_secs(1));
        self.bar.set_length(steps);
        self.bar.set_message("gathering workers");
    }

    /// Prints the table of sources, and a warning for each one that is not seen completely.
    fn mixture(&self, sources: &serde_json::Value, epochs: usize) {
        // A coordinator of another version may have another format. The table is not essential.
        let Ok(sources) = Vec::<Mixed>::deserialize(sources) else { return };
        mixture::table(&sources).iter().for_each(|line| self.say(line));
        let warnings = mixture::unseen(&sources, epochs);
        warnings.iter().for_each(|warning| self.say(&format!("warning: {warning}")));
    }
}

/// The time of day, such as `15:04:05 `, on this machine's clock. Empty if the time is unknown.
fn clock(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().filter(|ms| *ms > 0);
    let at = at.and_then(DateTime::from_timestamp_millis);
    at.map_or_else(String::new, |at| format!("{} ", at.with_timezone(&Local).format(CLOCK)))
}

/// The plan in one line.
fn planned(steps: u64, summary: &serde_json::Value) -> String {
    let number = |key: &str| summary.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    format!(
        "planned: {steps} steps of {} packs of up to {} tokens; {} packs per epoch, {} samples held out",
        number("global_batch"),
        number("max_tokens"),
        number("packs_per_epoch"),
        number("held_out"),
    )
}

/// A generation in one line, with the number of steps that it repeats.
fn generation_line(generation: u64, world_size: usize, step: u64, redone: u64) -> String {
    let workers = if world_size == 1 { "worker" } else { "workers" };
    let line = format!("generation {generation}: {world_size} {workers}, from step {step}");
    match redone {
        0 => line,
        1 => format!("{line} (1 step is repeated)"),
        steps => format!("{line} ({steps} steps are repeated)"),
    }
}

/// Maximum number of sources whose losses are shown beside the total loss.
const SHORT: usize = 3;

/// The losses by source, such as `  (alpaca 1.10, code 0.84)`. Empty if there are too many.
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
    fn a_generation_line_shows_how_many_steps_are_repeated() {
        let wanted = "generation 3: 2 workers, from step 50";
        assert_eq!(generation_line(3, 2, 50, 0), wanted);
        assert_eq!(generation_line(3, 2, 50, 1), format!("{wanted} (1 step is repeated)"));
        assert_eq!(generation_line(3, 2, 50, 29), format!("{wanted} (29 steps are repeated)"));
    }

    #[test]
    fn lines_begin_with_the_time_if_it_is_known() {
        assert_eq!(clock(0), "");
        let time = clock(1_800_000_000_000);
        // The seconds are the same in every time zone.
        assert!(time.ends_with(":00 ") && time.len() == "15:04:05 ".len(), "{time}");
    }

    #[test]
    fn losses_by_source_are_shown_for_a_few_sources_only() {
        let figures = SourceFigures { loss: 1.104, trained_tokens: 3 };
        let of = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), figures)).collect();
        assert_eq!(short(&of(&["/d/a.jsonl", "s3://b/code/"])), "  (a 1.10, code 1.10)");
        assert_eq!(short(&of(&[])), "");
        assert_eq!(short(&of(&["a", "b", "c", "d"])), "");
    }
}
