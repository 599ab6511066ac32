//! Another attempt of a run that has ended without success. A spawned task reads the run's history again, and the run
//! continues from its newest checkpoint.

use super::claims::{last_lineage, last_prepared, last_spec};
use super::feed::{self, Feed};
use super::handle::{Found, Input};
use super::journal::Journal;
use super::works::{Task, Work};
use super::{Run, Runtime, settings};
use crate::checkpoints;
use crate::core::{Past, attempts};
use proto::event::{Action, Fact};
use proto::id::RunId;
use proto::spec::{Spec, compatible_for_resume};
use std::sync::Arc;
use storage::Storage;
use tokio::sync::oneshot;

impl Runtime {
    /// Refuses another attempt of the run while the end of the last one is not durable, or if the core refuses it.
    fn may_resume(&self, run: &RunId) -> Result<(), String> {
        self.core.may_resume(run)?;
        if self.runs.contains_key(run) {
            return Err(format!("the end of run `{run}` is still being written; try again later"));
        }
        Ok(())
    }

    /// Spawns a task that reads the run to be resumed and checks the spec for it.
    pub(super) fn look_up(
        &self,
        run: RunId,
        spec_yaml: Option<String>,
        by: Option<String>,
        answer: oneshot::Sender<Result<(RunId, u64), String>>,
    ) {
        if let Err(refusal) = self.may_resume(&run) {
            // The caller may be gone.
            let _ = answer.send(Err(refusal));
            return;
        }
        let (storage, handle) = (self.storage.clone(), self.handle.clone());
        tokio::spawn(async move {
            let found = match find(&storage, run, spec_yaml, by).await {
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

    /// Begins another attempt of a run that [`Self::look_up`] has read.
    pub(super) async fn begin_attempt(
        &mut self,
        found: Found,
        answer: oneshot::Sender<Result<(RunId, u64), String>>,
    ) {
        let Found { run, journal, history, beginning, spec, recorded } = found;
        let attempt = attempts(&beginning);
        let is_next = self.core.status(&run).is_some_and(|status| status.attempt + 1 == attempt);
        let refusal = match self.may_resume(&run) {
            Err(refusal) => Some(refusal),
            Ok(()) if is_next => None,
            Ok(()) => Some(format!("another attempt of run `{run}` ended meanwhile; try again")),
        };
        if let Some(refusal) = refusal {
            // The caller may be gone.
            let _ = answer.send(Err(refusal));
            return;
        }
        let (sender, answered) = oneshot::channel();
        let ticket = self.ticket(sender);
        tokio::spawn(async move {
            if let Ok(outcome) = answered.await {
                let _ = answer.send(outcome.map(|run| (run, attempt)));
            }
        });
        let settings = settings(&spec, self.goal);
        let spec = Arc::new(spec);
        if let Some(fingerprint) = last_prepared(&history) {
            self.compare(&run, spec.clone(), fingerprint.to_owned());
        }
        let (now, yaml) = (self.now(), spec.resolved_yaml());
        let past = Past { run: run.clone(), settings, history };
        let commands = self.core.resume(now, ticket, past, beginning);
        let submitted_ms = self.ended.remove(&run).map_or(0, |ended| ended.submitted_ms);
        let journal = Some(journal.patient(self.patience));
        let begun = Run { journal, feed: Feed::new(recorded.last_ms), spec, submitted_ms };
        self.runs.insert(run.clone(), begun);
        self.enqueue(Work::Begin { run: run.clone(), chunk: recorded.chunks }).await;
        self.enqueue(Work::Task(run, Task::Spec(yaml))).await;
        self.outbox.extend(commands);
    }
}

/// Reads an ended run, and checks that it can continue with the given spec.
async fn find(
    storage: &Storage,
    run: RunId,
    spec_yaml: Option<String>,
    by: Option<String>,
) -> Result<Found, String> {
    fn text(error: &(dyn std::error::Error + 'static)) -> String {
        proto::error::chain(error)
    }
    let folder = proto::key::journal(&run);
    let (journal, mut history) =
        Journal::open::<Fact>(storage, folder).await.map_err(|e| text(&e))?;
    let yaml = last_spec(&history).ok_or("its journal has no spec")?;
    let old = Spec::from_resolved(yaml).map_err(|e| text(&e))?;
    let spec = match spec_yaml {
        None => old,
        Some(yaml) => {
            let new = Spec::from_resolved(&yaml).map_err(|e| text(&e))?;
            let new = new.dated(old.data().date).pinned_as(&old);
            compatible_for_resume(&old, &new).map_err(|e| text(&e))?;
            new
        }
    };
    let attempt = attempts(&history) + 1;
    let mut beginning = vec![Fact::Resumed { attempt, spec_yaml: spec.resolved_yaml() }];
    beginning.extend(by.map(|by| Fact::Requested { action: Action::Resume, by }));
    // With the resumption, the history does not count as over: for one that is over, the two functions below look for
    // nothing.
    let going_on = [&history[..], &beginning].concat();
    beginning
        .extend(checkpoints::uncommitted(storage, &run, &going_on).await.map_err(|e| text(&e))?);
    history.extend(checkpoints::replaced(storage, &run, &going_on).await.map_err(|e| text(&e))?);
    let lineage = last_lineage(&history);
    let recorded = feed::recorded(storage, &run, lineage).await.map_err(|e| text(&e))?;
    Ok(Found { run, journal, history, beginning, spec, recorded })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{Generation, Lineage};
    use proto::key;

    #[tokio::test]
    async fn another_attempt_begins_with_the_stored_checkpoint_that_was_not_committed() {
        let output = tempfile::tempdir().unwrap();
        let storage = Storage::open(&output.path().to_string_lossy()).unwrap();
        let yaml = format!(
            "name: a\nmodel: {{base: m}}\ndata: {{train: [{{source: d}}]}}\noutput: {}\n",
            output.path().display()
        );
        let spec = proto::spec::parse(&yaml, output.path()).unwrap();
        let spec_yaml = spec.resolved_yaml();
        let run = RunId::new("a-20261120-034500-1f2e");
        let lineage = Lineage(1);
        let (mut journal, _) = Journal::open::<Fact>(&storage, key::journal(&run)).await.unwrap();
        let generation =
            Fact::Generation { generation: Generation(1), lineage, step: 0, members: vec![] };
        let submitted = Fact::Submitted { spec_yaml: spec_yaml.clone() };
        journal.append(vec![submitted, generation, Fact::Cancelled]).await.unwrap();
        storage.put(&key::manifest(&run, lineage, 8), "a manifest").await.unwrap();
        let found = find(&storage, run, None, None).await.unwrap();
        let manifest_sha256 = proto::manifest::sha256(b"a manifest");
        let beginning = [
            Fact::Resumed { attempt: 2, spec_yaml },
            Fact::Checkpointed { lineage, step: 8, manifest_sha256 },
        ];
        assert_eq!(found.beginning, beginning);
    }
}
