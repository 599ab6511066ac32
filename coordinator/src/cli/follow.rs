//! Work with an embedded coordinator and local workers, and the exit code that a run's end stands for.

use super::embedded::Embedded;
use super::{Blame, Exit, Outcome, Refusal};
use crate::core::Notice;
use crate::launch::{self, Launched, Node};
use anyhow::anyhow;
use std::path::PathBuf;

/// Does `work` with the workers of a node on this host and dismisses them, then waits until they have ended and
/// background work in storage is done.
///
/// # Errors
/// The error of the work, of a coordinator that stops, or of workers that leave before the work is done.
pub(super) async fn with_workers<T>(
    coordinator: &mut Embedded,
    node: Node,
    say: impl FnMut(&str),
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let mut workers = Launched::locally(node).blame(Exit::Infrastructure)?;
    let done = coordinator.work(async {
        tokio::select! {
            outcome = work => outcome,
            ended = workers.watch(say) => Err(left_early(ended)),
        }
    });
    let outcome = done.await;
    coordinator.close().await;
    tokio::join!(workers.end(), coordinator.settled());
    outcome
}

/// The workers of a command that does everything on this host.
pub(super) fn local(program: PathBuf, coordinator: &Embedded, devices: String) -> Node {
    let coordinator = coordinator.url.clone();
    // The command itself shows what a worker logs by default.
    Node { program, coordinator, devices, name: "local".into(), arguments: Vec::new(), log: "warn" }
}

/// The error if workers leave before they are dismissed.
fn left_early(ended: Result<(), launch::Error>) -> Refusal {
    let error = match ended {
        Ok(()) => anyhow!("the workers left before the run was over"),
        Err(error) => error.into(),
    };
    Refusal { exit: Exit::Infrastructure, error }
}

/// The outcome of a command that follows a run, if the notice ends the run.
pub(super) fn end(notice: &Notice) -> Option<Outcome> {
    match notice {
        Notice::Finished { .. } => Some(Ok(Exit::Done)),
        Notice::Paused { .. } => Some(Ok(Exit::Paused)),
        Notice::Cancelled => Some(Ok(Exit::Cancelled)),
        Notice::Failed { kind, message } => {
            Some(Err(Refusal { exit: (*kind).into(), error: anyhow!(message.clone()) }))
        }
        Notice::Lost { message } => {
            let error = anyhow!(message.clone());
            Some(Err(Refusal { exit: Exit::Infrastructure, error }))
        }
        Notice::Prepared { .. }
        | Notice::Preparing { .. }
        | Notice::Planned { .. }
        | Notice::Waiting { .. }
        | Notice::Generation { .. }
        | Notice::Step { .. }
        | Notice::Eval { .. }
        | Notice::Checkpoint { .. }
        | Notice::Incident { .. } => None,
    }
}
