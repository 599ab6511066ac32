//! The coordinator's log: one line for each transition of a run or a worker. Watchers get the transitions of runs as
//! well, and `run`, which shows them, does not log them a second time.

use crate::core::{Event, Notice};
use proto::id::RunId;
use proto::print;
use proto::protocol::Report;

/// Logs an event that is a transition of a worker.
pub(super) fn event(event: &Event) {
    match event {
        Event::Reported { report: Report::Hello(hello), .. } => {
            tracing::info!(worker = %hello.worker, ring = hello.ring, "a worker has connected");
        }
        Event::Reported { stream, report: Report::Leaving { .. } } => {
            tracing::info!(stream = stream.0, "a worker is leaving");
        }
        Event::Dialled { worker, outcome: Err(error), .. } => {
            tracing::warn!(%worker, error, "a worker's ring address does not answer");
        }
        Event::Hangup { stream } => {
            tracing::info!(stream = stream.0, "a worker's stream has ended");
        }
        Event::Submit { .. }
        | Event::Cancel { .. }
        | Event::Close
        | Event::Reported { .. }
        | Event::Beats { .. }
        | Event::Dialled { .. }
        | Event::Surveyed { .. }
        | Event::FoundPrepared { .. }
        | Event::Compared { .. }
        | Event::Planned { .. }
        | Event::Sealed { .. }
        | Event::Published { .. }
        | Event::RunLost { .. }
        | Event::Tick => {}
    }
}

/// Logs a notice about a run, unless it is about a step or the progress of preparation.
pub(super) fn notice(run: &RunId, notice: &Notice) {
    place(run, notice);
    match notice {
        Notice::Step { .. } | Notice::Preparing { .. } => {}
        Notice::Prepared { cached, .. } => tracing::info!(%run, cached, "the data is prepared"),
        Notice::Planned { steps, .. } => tracing::info!(%run, steps, "the run is planned"),
        Notice::Waiting { detail } => tracing::info!(%run, detail, "the run waits"),
        Notice::Generation { generation, world_size, step, redone, .. } => {
            tracing::info!(%run, generation, world_size, step, redone, "a generation begins");
        }
        Notice::Eval { step, loss, .. } => tracing::info!(%run, step, loss, "held-out loss"),
        Notice::Checkpoint { step, .. } => tracing::info!(%run, step, "a checkpoint is committed"),
        Notice::Incident { message, .. } => tracing::info!(%run, message, "an incident"),
        Notice::Paused { step } => tracing::info!(%run, step, "the run has stopped"),
        Notice::Cancelled => tracing::info!(%run, "the run is cancelled"),
        Notice::Failed { message, .. } => tracing::info!(%run, message, "the run has failed"),
        Notice::Lost { message } => tracing::info!(%run, message, "the run is lost"),
        Notice::Finished { model, .. } => tracing::info!(%run, model, "the run is finished"),
    }
    if notice.last() {
        print::forget_run(run.as_str());
    }
}

/// Notes where the run is, for the lines of a log in JSON.
fn place(run: &RunId, notice: &Notice) {
    match notice {
        Notice::Generation { generation, step, .. } => print::move_run(run.as_str(), |place| {
            (place.generation, place.step) = (Some(*generation), Some(*step));
        }),
        Notice::Step { step, .. } => {
            print::move_run(run.as_str(), |place| place.step = Some(*step));
        }
        _ => {}
    }
}
