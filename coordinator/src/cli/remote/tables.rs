//! Formats runs and workers for people. Unknown values are left out.

use crate::cli::outlook::duration;
use chrono::{DateTime, Local};
use proto::text::visible;
use std::time::Duration;
use wire::{RunStatus, WorkerStatus};

/// The width of the labels of `status`.
const LABEL: usize = 12;

/// The status of one run.
pub(super) fn status(run: &RunStatus, now_ms: u64) -> String {
    let mut out = String::new();
    let mut row = |label: &str, text: &str| {
        for (number, line) in text.lines().enumerate() {
            let label = if number == 0 { label } else { "" };
            out.push_str(&format!("{label:LABEL$}{line}\n"));
        }
    };
    row("run", &run.run);
    row("phase", &phase(run));
    row("", &run.detail);
    if run.steps > 0 {
        row("progress", &progress(run));
    }
    if let Some(loss) = run.loss {
        row("loss", &format!("{loss:.4}"));
    }
    for source in &run.sources {
        let (loss, tokens, name) = (source.loss, source.trained_tokens, &source.name);
        row("", &format!("{loss:.4} on {tokens} trained tokens of {name}"));
    }
    if let Some(submitted) = local(run.submitted_ms) {
        let age = ago(run.submitted_ms, now_ms);
        let by = match run.submitter.as_str() {
            "" => String::new(),
            submitter => format!(" by {}", visible(submitter)),
        };
        row("submitted", &format!("{} ({age}){by}", submitted.format("%Y-%m-%d %H:%M")));
    }
    if run.last_incident_ms > 0 {
        let age = ago(run.last_incident_ms, now_ms);
        row("incident", &format!("{age}: {}", run.last_incident));
    } else {
        row("incident", &run.last_incident);
    }
    if run.generation > 0 {
        row("generation", &format!("{} (lineage {})", run.generation, run.lineage));
    }
    for (rank, worker) in run.workers.iter().enumerate() {
        row(&format!("rank {rank}"), worker);
    }
    for worker in &run.troubled {
        row("cannot work", &format!("{}: {}", worker.worker, trouble(worker)));
    }
    if run.checkpoint_step > 0 {
        row("checkpoint", &format!("step {}", run.checkpoint_step));
    }
    row("model", &run.model);
    out
}

/// A table with a line for each run.
pub(super) fn runs(runs: &[RunStatus], now_ms: u64, width: Option<usize>) -> String {
    let row = |run: &RunStatus| {
        [
            run.run.clone(),
            phase(run),
            if run.steps > 0 { steps(run) } else { "-".into() },
            some(run.workers.len() as u64, |n| n.to_string()),
            some(run.submitted_ms, |submitted| span(submitted, now_ms)),
            run.detail.lines().next().unwrap_or_default().to_owned(),
        ]
    };
    let header = ["RUN", "PHASE", "PROGRESS", "WORKERS", "AGE", "DETAIL"];
    table(header, runs.iter().map(row), width)
}

/// A table with a line for each worker.
pub(super) fn workers(workers: &[WorkerStatus], width: Option<usize>) -> String {
    let row = |worker: &WorkerStatus| {
        let run = if worker.run.is_empty() { "-" } else { &worker.run };
        [
            worker.worker.clone(),
            worker.state.clone(),
            run.to_owned(),
            worker.rank.map_or_else(|| "-".into(), |rank| rank.to_string()),
            trouble(worker).lines().next().unwrap_or_default().to_owned(),
        ]
    };
    table(["WORKER", "STATE", "RUN", "RANK", "DETAIL"], workers.iter().map(row), width)
}

/// Formats a table. Columns are as wide as their longest cell, and lines are cut to the width of the terminal.
pub(in crate::cli) fn table<const N: usize>(
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    width: Option<usize>,
) -> String {
    let shown = |row: [String; N]| row.map(|cell| visible(&cell).into_owned());
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows.map(shown));
    let longest = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| longest(column).unwrap_or(0));
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(&cut(line.trim_end(), width));
        out.push('\n');
    }
    out
}

/// Cuts a line to the width.
fn cut(line: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if line.chars().count() > width => {
            let kept = line.chars().take(width.saturating_sub(1)).collect::<String>();
            format!("{}…", kept.trim_end())
        }
        Some(_) | None => line.to_owned(),
    }
}

fn phase(run: &RunStatus) -> String {
    match run.attempt {
        0 | 1 => run.phase.clone(),
        attempt => format!("{}, attempt {attempt}", run.phase),
    }
}

/// The progress in short, such as `120/160 75 %`.
fn steps(run: &RunStatus) -> String {
    format!("{}/{} {} %", run.step, run.steps, percent(run))
}

/// The progress, such as `step 120 of 160 (75 %), 5300 tokens/s, 3 min 20 s left`.
fn progress(run: &RunStatus) -> String {
    let mut words = format!("step {} of {} ({} %)", run.step, run.steps, percent(run));
    if run.tokens_per_second > 0.0 {
        words.push_str(&format!(", {:.0} tokens/s", run.tokens_per_second));
    }
    if run.eta_ms > 0 {
        let left = Duration::from_millis(run.eta_ms).as_secs_f64();
        words.push_str(&format!(", {} left", duration(left)));
    }
    words
}

/// The progress in percent, rounded down, so that 100 is only reached at the end.
fn percent(run: &RunStatus) -> u64 {
    run.step.saturating_mul(100) / run.steps.max(1)
}

/// Why a worker is not used at the moment. The first line says when it is tried again.
fn trouble(worker: &WorkerStatus) -> String {
    if worker.retry_in_ms == 0 {
        return worker.trouble.clone();
    }
    let wait = Duration::from_millis(worker.retry_in_ms).as_secs_f64().ceil();
    let again = format!("tried again in {}", duration(wait));
    match worker.trouble.split_once('\n') {
        Some((reason, more)) => format!("{reason} ({again})\n{more}"),
        None if worker.trouble.is_empty() => again,
        None => format!("{} ({again})", worker.trouble),
    }
}

fn some(count: u64, write: impl Fn(u64) -> String) -> String {
    if count > 0 { write(count) } else { "-".into() }
}

fn local(ms: u64) -> Option<DateTime<Local>> {
    let ms = i64::try_from(ms).ok().filter(|ms| *ms > 0)?;
    Some(DateTime::from_timestamp_millis(ms)?.with_timezone(&Local))
}

/// A time as `3 h ago`. A time that is slightly in the future, by another clock, is `just now`.
fn ago(then_ms: u64, now_ms: u64) -> String {
    if now_ms < then_ms + 1_000 {
        return "just now".into();
    }
    format!("{} ago", span(then_ms, now_ms))
}

/// The time between the two, in the largest unit that fits, such as `3 h`.
pub(in crate::cli) fn span(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    const UNITS: [(u64, &str); 3] = [(86_400, "d"), (3_600, "h"), (60, "min")];
    let unit = UNITS.iter().find(|(unit, _)| seconds >= *unit);
    unit.map_or_else(|| format!("{seconds} s"), |(unit, name)| format!("{} {name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn training() -> RunStatus {
        RunStatus {
            run: "small-1".into(),
            phase: "training".into(),
            step: 121,
            steps: 160,
            generation: 3,
            lineage: 2,
            workers: vec!["a-0".into(), "b-0".into()],
            ..RunStatus::default()
        }
    }

    fn troubled() -> WorkerStatus {
        WorkerStatus {
            worker: "c-0".into(),
            state: "waiting".into(),
            trouble: "it does not see `/base`\nhint: mount it".into(),
            retry_in_ms: 3_200,
            ..WorkerStatus::default()
        }
    }

    #[test]
    fn a_status_omits_what_is_unknown() {
        let wanted = "\
run         small-1
phase       training
progress    step 121 of 160 (75 %)
generation  3 (lineage 2)
rank 0      a-0
rank 1      b-0
";
        assert_eq!(status(&training(), NOW), wanted);
    }

    #[test]
    fn a_status_shows_everything_that_is_known() {
        let run = RunStatus {
            detail: "one\ntwo".into(),
            attempt: 2,
            tokens_per_second: 5_300.4,
            eta_ms: 200_000,
            loss: Some(1.25),
            submitted_ms: NOW - 3 * 3_600_000 - 5,
            last_incident: "worker b-0 was lost".into(),
            last_incident_ms: NOW - 61_000,
            troubled: vec![troubled()],
            checkpoint_step: 100,
            ..training()
        };
        let shown = status(&run, NOW);
        let submitted = local(run.submitted_ms).expect("a time").format("%Y-%m-%d %H:%M");
        let wanted = format!(
            "\
run         small-1
phase       training, attempt 2
            one
            two
progress    step 121 of 160 (75 %), 5300 tokens/s, 3 min 20 s left
loss        1.2500
submitted   {submitted} (3 h ago)
incident    1 min ago: worker b-0 was lost
generation  3 (lineage 2)
rank 0      a-0
rank 1      b-0
cannot work c-0: it does not see `/base` (tried again in 4 s)
            hint: mount it
checkpoint  step 100
"
        );
        assert_eq!(shown, wanted);
    }

    #[test]
    fn runs_and_workers_are_tables_as_wide_as_the_terminal() {
        let queued = RunStatus {
            run: "large-2".into(),
            phase: "queued".into(),
            detail: "behind small-1\nmore".into(),
            submitted_ms: NOW - 59_000,
            ..RunStatus::default()
        };
        let both = [training(), queued];
        let wanted = "\
RUN      PHASE     PROGRESS      WORKERS  AGE   DETAIL
small-1  training  121/160 75 %  2        -
large-2  queued    -             -        59 s  behind small-1
";
        assert_eq!(runs(&both, NOW, None), wanted);
        assert_eq!(runs(&both, NOW, Some(80)), wanted);
        let narrow = runs(&both, NOW, Some(54));
        assert!(narrow.ends_with("queued    -             -        59 s  behin…\n"), "{narrow}");

        let at_work = WorkerStatus {
            worker: "a-0".into(),
            state: "training".into(),
            run: "small-1".into(),
            rank: Some(0),
            ..WorkerStatus::default()
        };
        let wanted = "\
WORKER  STATE     RUN      RANK  DETAIL
a-0     training  small-1  0
c-0     waiting   -        -     it does not see `/base` (tried again in 4 s)
";
        assert_eq!(workers(&[at_work, troubled()], None), wanted);
    }

    #[test]
    fn ages_have_one_unit() {
        let age = |seconds: u64| span(NOW - seconds * 1000, NOW);
        let wanted = ["0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d"];
        assert_eq!([0, 59, 60, 3_599, 3_600, 86_399, 86_400].map(age), wanted);
        assert_eq!([ago(NOW + 9, NOW), ago(NOW - 5_000, NOW)], ["just now", "5 s ago"]);
    }
}
