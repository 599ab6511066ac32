//! Follows a Job: what Kubernetes does with it, and what its first pod prints.

use super::place::{Place, refused};
use crate::cli::{Blame, Exit, Outcome, Refusal};
use ::kubernetes::{Class, Cluster, End, Overview, Seen};
use anyhow::anyhow;
use futures::StreamExt;
use proto::print;
use proto::text::visible;
use serde_json::{Value, json};
use std::pin::pin;

/// Fields of a log line that are not repeated for people.
const KNOWN: [&str; 7] = ["timestamp", "level", "target", "message", "run", "generation", "rank"];

/// Follows the newest Job of a run.
pub(in crate::cli) async fn watch(run: &str, place: &Place, json: bool) -> Outcome {
    let cluster = place.connect().await?;
    let newest = newest(&cluster, place, run).await?;
    follow((&cluster, place), run, &newest.job, json).await
}

/// The newest Job of a run.
pub(super) async fn newest(
    cluster: &Cluster,
    place: &Place,
    run: &str,
) -> Result<Overview, Refusal> {
    let jobs = cluster.job(run).await.map_err(refused)?;
    let newest = jobs.into_iter().max_by_key(|job| (job.attempt, job.created));
    let unknown = || {
        let (namespace, place) = (cluster.namespace(), place.arguments());
        anyhow!(
            "no Job of run `{run}` in namespace `{namespace}`\n\
             hint: `coordinator list {place}` lists what exists"
        )
    };
    newest.ok_or_else(unknown).blame(Exit::User)
}

/// Follows a Job until it ends, or until the user interrupts, which leaves the Job alone.
pub(super) async fn follow(
    (cluster, place): (&Cluster, &Place),
    run: &str,
    job: &str,
    json: bool,
) -> Outcome {
    let mut seen = pin!(cluster.follow(job));
    loop {
        let next = tokio::select! {
            next = seen.next() => next,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.blame(Exit::Infrastructure)?;
                print::note(format_args!(
                    "Job {job} goes on; `coordinator watch {run} {}` follows it again",
                    place.arguments()
                ));
                return Ok(Exit::Done);
            }
        };
        let Some(seen) = next else {
            let error = anyhow!("the Job can no longer be followed");
            return Err(error).blame(Exit::Infrastructure);
        };
        match seen.map_err(refused)? {
            Seen::Note(text) if json => print::line(json!({ "note": text }))?,
            Seen::Note(text) => print::note(visible(&text)),
            Seen::Log { pod, line } if json => print::line(json!({ "pod": pod, "line": line }))?,
            Seen::Log { line, .. } => print::line(visible(&readable(&line)))?,
            Seen::End(end) => return ended(end, job, json),
        }
    }
}

fn ended(end: End, job: &str, json: bool) -> Outcome {
    let how = match &end {
        End::Succeeded => "succeeded",
        End::Failed { .. } => "failed",
        End::Deleted => "deleted",
    };
    if json {
        print::line(json!({ "end": how }))?;
    }
    let exit = match end {
        End::Succeeded => return Ok(Exit::Done),
        End::Deleted => {
            return Err(anyhow!("Job {job} was deleted")).blame(Exit::Cancelled);
        }
        End::Failed { class, message } => {
            let exit = match class {
                Class::User => Exit::User,
                Class::Data => Exit::Data,
                Class::Cancelled => Exit::Cancelled,
                Class::Infrastructure | Class::Deadline | Class::Other => Exit::Infrastructure,
            };
            (exit, anyhow!("Job {job} has failed: {class}\n{message}"))
        }
    };
    Err(Refusal { exit: exit.0, error: exit.1 })
}

/// A line of a pod's log for people: the message of a JSON object, and its fields.
fn readable(line: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(line) else {
        return line.to_owned();
    };
    let Some(message) = fields.get("message").and_then(Value::as_str) else {
        return line.to_owned();
    };
    let level = match fields.get("level").and_then(Value::as_str) {
        Some(level @ ("WARN" | "ERROR")) => format!("{}: ", level.to_lowercase()),
        Some(_) | None => String::new(),
    };
    let others = fields.iter().filter(|(name, _)| !KNOWN.contains(&name.as_str()));
    let others: String = others.map(|(name, value)| format!(" {name}={value}")).collect();
    format!("{level}{message}{others}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_of_pods_are_shown_as_text() {
        let line = concat!(
            r#"{"timestamp":"2026-11-30T12:00:00Z","level":"WARN","message":"slow store","#,
            r#""run":"r","seconds":9}"#,
        );
        assert_eq!(readable(line), "warn: slow store seconds=9");
        for line in ["run r  step 3/40  loss 2.5", "{\"a\": 1}", "{broken"] {
            assert_eq!(readable(line), line);
        }
    }
}
