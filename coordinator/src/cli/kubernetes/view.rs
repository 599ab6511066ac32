//! `list`, `status` and `cancel` of Jobs, in Kubernetes' words.

use super::follow::newest;
use super::place::{Place, refused};
use crate::cli::remote::tables::table;
use crate::cli::{Exit, Outcome};
use ::kubernetes::Overview;
use proto::print;
use proto::text::visible;
use serde_json::{Value, json};
use std::time::SystemTime;

/// The width of the labels of `status`.
const LABEL: usize = 12;

pub(in crate::cli) async fn list(place: &Place, as_json: bool, width: Option<usize>) -> Outcome {
    let cluster = place.connect().await?;
    let jobs = cluster.jobs().await.map_err(refused)?;
    if as_json {
        for job in &jobs {
            print::line(object(job))?;
        }
        return Ok(Exit::Done);
    }
    if jobs.is_empty() {
        print::note(format_args!("no Jobs in namespace {}", cluster.namespace()));
        return Ok(Exit::Done);
    }
    let row = |job: &Overview| {
        let first = job.trouble.first().map(|trouble| trouble.text.clone()).unwrap_or_default();
        [
            job.run.clone(),
            job.job.clone(),
            job.state.to_string(),
            format!("{}/{}", job.counts.ready, job.counts.wanted),
            job.created.map(age).unwrap_or_default(),
            first.lines().next().unwrap_or_default().to_owned(),
        ]
    };
    let header = ["RUN", "JOB", "STATE", "READY", "AGE", "TROUBLE"];
    print::text(visible(&table(header, jobs.iter().map(row), width)))?;
    Ok(Exit::Done)
}

pub(in crate::cli) async fn status(run: &str, place: &Place, as_json: bool) -> Outcome {
    let cluster = place.connect().await?;
    let job = newest(&cluster, place, run).await?;
    if as_json {
        print::line(object(&job))?;
    } else {
        print::text(visible(&page(&job)))?;
    }
    Ok(Exit::Done)
}

/// Deletes the newest Job of a run. Its pods leave a checkpoint within their grace.
pub(in crate::cli) async fn cancel(run: &str, place: &Place, as_json: bool) -> Outcome {
    let cluster = place.connect().await?;
    let Overview { job, state, .. } = newest(&cluster, place, run).await?;
    let was_there = cluster.delete(&job).await.map_err(refused)?;
    if as_json {
        print::line(json!({ "run": run, "job": job, "deleted": was_there }))?;
    } else if !was_there {
        print::note(format_args!("Job {job} was gone already"));
    } else if state.is_final() {
        print::note(format_args!("Job {job} had ended ({state}), and is deleted"));
    } else {
        print::note(format_args!("Job {job} is deleted; pods that train leave a checkpoint first"));
    }
    Ok(Exit::Done)
}

/// The status of one Job.
fn page(job: &Overview) -> String {
    let mut out = String::new();
    let mut row = |label: &str, text: &str| {
        for (number, line) in text.lines().enumerate() {
            let label = if number == 0 { label } else { "" };
            out.push_str(&format!("{label:LABEL$}{line}\n"));
        }
    };
    row("run", &job.run);
    let attempt = job.attempt.map(|attempt| format!(" (attempt {attempt})")).unwrap_or_default();
    row("job", &format!("{}{attempt}", job.job));
    row("state", &job.state.to_string());
    let counts = &job.counts;
    row("pods", &format!("{} of {} ready", counts.ready, counts.wanted));
    for pod in job.pods.iter().filter(|pod| !is_replaced(job, &pod.name)) {
        let index = pod.index.map(|index| format!("index {index}")).unwrap_or_default();
        let node = pod.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
        row(&index, &format!("{}{node}: {}", pod.name, pod.state));
    }
    if let Some(created) = job.created {
        row("created", &format!("{} ago", age(created)));
    }
    for condition in &job.conditions {
        let message = format!("{}: {}", condition.reason, condition.message);
        row(&condition.kind.to_lowercase(), message.trim_end_matches([':', ' ']));
    }
    for trouble in &job.trouble {
        row("trouble", &trouble.text);
    }
    out
}

/// Whether a later pod of the Job has the same index.
fn is_replaced(job: &Overview, pod: &str) -> bool {
    let place = job.pods.iter().position(|other| other.name == pod);
    let later = place.map_or(&[][..], |place| &job.pods[place + 1..]);
    let index = place.and_then(|place| job.pods[place].index);
    index.is_some() && later.iter().any(|other| other.index == index)
}

fn object(job: &Overview) -> Value {
    let seconds = |time: Option<SystemTime>| {
        time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).map(|d| d.as_secs())
    };
    let counts = &job.counts;
    let pods = job.pods.iter().map(|pod| {
        json!({
            "name": pod.name,
            "index": pod.index,
            "node": pod.node,
            "state": pod.state,
            "exit_code": pod.exit_code,
        })
    });
    json!({
        "run": job.run,
        "job": job.job,
        "attempt": job.attempt,
        "state": job.state.to_string(),
        "wanted": counts.wanted,
        "ready": counts.ready,
        "failed": counts.failed,
        "created": seconds(job.created),
        "started": seconds(job.started),
        "ended": seconds(job.ended),
        "pods": pods.collect::<Vec<_>>(),
        "trouble": job.trouble.iter().map(|trouble| trouble.text.clone()).collect::<Vec<_>>(),
    })
}

/// How long ago something was, in one unit.
fn age(then: SystemTime) -> String {
    let seconds = then.elapsed().unwrap_or_default().as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
