//! A run that this process coordinates itself, to its end: with local workers beside it.

use super::embedded::Embedded;
use super::{Blame, Exit, Outcome, Refusal};
use crate::core::Notice;
use crate::launch::{self, Launched};
use anyhow::anyhow;
use std::path::PathBuf;

/// Does `work` with `count` local workers, which are dismissed after it, and waits until they have gone and until what
/// was to be done in storage is done.
///
/// # Errors
/// The work's own, the coordinator's if it stops, the workers' if they leave before the work is done.
pub(super) async fn with_workers<T>(
    coordinator: &mut Embedded,
    program: PathBuf,
    count: usize,
    say: impl FnMut(&str),
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let launched = Launched::locally(program, coordinator.url.clone(), count);
    let mut workers = launched.blame(Exit::Infrastructure)?;
    let done = coordinator.work(async {
        tokio::select! {
            outcome = work => outcome,
            ended = workers.watch(say) => Err(deserted(ended)),
        }
    });
    let outcome = done.await;
    coordinator.close().await;
    tokio::join!(workers.end(), coordinator.settled());
    outcome
}

/// Workers that went before they were dismissed.
fn deserted(ended: Result<(), launch::Error>) -> Refusal {
    let error = match ended {
        Ok(()) => anyhow!("the workers left before the run was over"),
        Err(error) => error.into(),
    };
    Refusal { exit: Exit::Infrastructure, error }
}

/// How a command ends that followed a run to its end.
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
