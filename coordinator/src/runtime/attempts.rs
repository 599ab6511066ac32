//! Another attempt of a run that has ended without success: its history is read anew beside the queue, and it goes on
//! from its newest checkpoint.

use super::claims::{last_lineage, last_spec};
use super::works::Work;
use super::{Run, Runtime, settings};
use crate::core::attempts;
use crate::feed::{self, Feed};
use crate::finish;
use crate::handle::{Found, Input};
use crate::journal::Journal;
use proto::event::Event as History;
use proto::id::RunId;
use proto::spec::{Spec, compatible_for_resume};
use proto::storage::Storage;
use std::sync::Arc;
use tokio::sync::oneshot;

impl Runtime {
    /// Whether another attempt of the run may begin: not before the end of the last one is durable.
    fn may_resume(&self, run: &RunId) -> Result<(), String> {
        self.core.may_resume(run)?;
        if self.runs.contains_key(run) {
            return Err(format!("the end of run `{run}` is still being written; try again later"));
        }
        Ok(())
    }

    /// Reads, beside the queue, what a user wants to go on with.
    pub(super) fn look_up(
        &self,
        run: RunId,
        spec_yaml: Option<String>,
        answer: oneshot::Sender<Result<(RunId, u64), String>>,
    ) {
        if let Err(refusal) = self.may_resume(&run) {
            // Whoever asked may be gone.
            let _ = answer.send(Err(refusal));
            return;
        }
        let (storage, handle) = (self.storage.clone(), self.handle.clone());
        tokio::spawn(async move {
            let found = match find(&storage, run, spec_yaml).await {
                Ok(found) => handle.check_output(&found.spec).await.map(|()| found),
                Err(refusal) => Err(refusal),
            };
            match found {
                Ok(found) => {
                    // The coordinator may have stopped meanwhile.
                    let _ = handle.send(Input::Found { found: Box::new(found), answer }).await;
                }
                Err(refusal) => drop(answer.send(Err(refusal))),
            }
        });
    }

    /// Begins another attempt of a run.
    pub(super) async fn begin_attempt(
        &mut self,
        found: Found,
        answer: oneshot::Sender<Result<(RunId, u64), String>>,
    ) {
        let Found { run, journal, history, spec, recorded } = found;
        if let Err(refusal) = self.may_resume(&run) {
            // Whoever asked may be gone.
            let _ = answer.send(Err(refusal));
            return;
        }
        let (sender, answered) = oneshot::channel();
        let ticket = self.ticket(sender);
        let attempt = attempts(&history) + 1;
        tokio::spawn(async move {
            if let Ok(outcome) = answered.await {
                let _ = answer.send(outcome.map(|run| (run, attempt)));
            }
        });
        let settings = settings(&spec, self.goal);
        let (now, yaml) = (self.now(), spec.resolved_yaml());
        let commands = self.core.resume(now, ticket, run.clone(), settings, history, yaml.clone());
        let submitted_ms = self.ended.remove(&run).map_or(0, |ended| ended.submitted_ms);
        let journal = Some(journal.patient(self.patience));
        let begun =
            Run { journal, feed: Feed::new(recorded.last_ms), spec: Arc::new(spec), submitted_ms };
        self.runs.insert(run.clone(), begun);
        self.in_turn(Work::Begin { run: run.clone(), chunk: recorded.chunks }).await;
        self.in_turn(Work::Spec { run, yaml }).await;
        self.outbox.extend(commands);
    }
}

/// A run that has ended, under the spec that it is to go on with.
async fn find(storage: &Storage, run: RunId, spec_yaml: Option<String>) -> Result<Found, String> {
    fn told(error: &(dyn std::error::Error + 'static)) -> String {
        proto::error::chain(error)
    }
    let folder = proto::key::journal(&run);
    let (journal, mut history) =
        Journal::open::<History>(storage, folder).await.map_err(|e| told(&e))?;
    let yaml = last_spec(&history).ok_or("its journal has no spec")?;
    let old = Spec::from_resolved(yaml).map_err(|e| told(&e))?;
    let spec = match spec_yaml {
        None => old,
        Some(yaml) => {
            let new = Spec::from_resolved(&yaml).map_err(|e| told(&e))?;
            let new = new.dated(old.data().date).pinned_as(&old);
            compatible_for_resume(&old, &new).map_err(|e| told(&e))?;
            new
        }
    };
    // Of a run that is over nothing would be looked for.
    let yaml = spec.resolved_yaml();
    let resumed = History::Resumed { attempt: attempts(&history) + 1, spec_yaml: yaml };
    let going_on = [&history[..], &[resumed]].concat();
    history.extend(finish::replaced(storage, &run, &going_on).await.map_err(|e| told(&e))?);
    let lineage = last_lineage(&history);
    let recorded = feed::recorded(storage, &run, lineage).await.map_err(|e| told(&e))?;
    Ok(Found { run, journal, history, spec, recorded })
}
