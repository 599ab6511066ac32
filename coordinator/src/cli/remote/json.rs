//! Runs and workers as `--json` prints them: with all fields, which are `null` if unknown.

use crate::core::{BySource, SourceFigures};
use serde_json::{Value, json};

/// A count for which 0 means unknown.
pub(super) fn known(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}

/// A text, or `None` if it is empty.
fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn run(run: &wire::RunStatus) -> Value {
    let figures = |s: &wire::SourceLoss| {
        let figures = SourceFigures { loss: s.loss, trained_tokens: s.trained_tokens };
        (s.name.clone(), figures)
    };
    let sources: BySource = run.sources.iter().map(figures).collect();
    json!({
        "run": run.run,
        "name": run.name,
        "phase": run.phase,
        "detail": run.detail,
        "attempt": known(run.attempt),
        "submitted_ms": known(run.submitted_ms),
        "submitter": non_empty(&run.submitter),
        "generation": run.generation,
        "lineage": run.lineage,
        "step": run.step,
        "steps": run.steps,
        "tokens_per_second": (run.tokens_per_second > 0.0).then_some(run.tokens_per_second),
        "eta_ms": known(run.eta_ms),
        "workers": run.workers,
        "checkpoint_step": run.checkpoint_step,
        "model": run.model,
        "loss": run.loss,
        "sources": sources,
        "last_incident": non_empty(&run.last_incident),
        "last_incident_ms": known(run.last_incident_ms),
        "troubled": run.troubled.iter().map(worker).collect::<Vec<_>>(),
    })
}

pub(super) fn worker(worker: &wire::WorkerStatus) -> Value {
    json!({
        "worker": worker.worker,
        "state": worker.state,
        "run": non_empty(&worker.run),
        "rank": worker.rank,
        "trouble": non_empty(&worker.trouble),
        "retry_in_ms": known(worker.retry_in_ms),
        "ring": non_empty(&worker.ring),
    })
}
