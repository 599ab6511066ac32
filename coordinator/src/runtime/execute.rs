//! Executes commands in order up to the next journal entry. A spawned task writes the entry.

use super::journal::{self, Journal, Trouble};
use super::works::{Task, Work};
use super::{Ended, Error, Runtime, dial, feed, log};
use crate::checkpoints::{self, Unpublished};
use crate::core::{Command, Event, Stream};
use crate::data::{planning, survey};
use proto::error::chain;
use proto::event::{Fact, Failure, PoolEvent};
use proto::id::{CheckpointId, RunId};
use proto::manifest::{Checkpoint, Prepared};
use proto::protocol::Directive;
use proto::receipt::Skipped;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Pause after an operation that the store has refused.
const PAUSE: Duration = Duration::from_secs(3);

/// A journal entry that is being written.
pub(super) struct Writing {
    writing: JoinHandle<Done>,
    since: Instant,
    trouble: Trouble,
    reported: bool,
}

/// The outcome of writing an entry.
pub(super) struct Done {
    /// The run whose entry it is; `None` for the pool's.
    of: Option<RunId>,
    journal: Option<Journal>,
    outcome: Result<(), journal::Error>,
}

impl Writing {
    pub(super) async fn done(&mut self) -> Done {
        (&mut self.writing).await.expect("writing an entry does not panic")
    }

    /// How long the entry has taken until now.
    pub(super) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// When to report that the entry takes long; `None` if that has been reported.
    pub(super) fn slow_at(&self) -> Option<Instant> {
        (!self.reported).then(|| self.since + super::SLOW)
    }

    /// A report for watchers that the entry takes long.
    pub(super) fn report(&mut self) -> Option<String> {
        self.reported = true;
        self.waiting(Duration::ZERO)
    }

    /// A text that says how long the entry has taken and why, if longer than `slow`.
    pub(super) fn waiting(&self, slow: Duration) -> Option<String> {
        let waited = self.since.elapsed();
        let why = self.trouble.last().map(|why| format!(": {why}")).unwrap_or_default();
        let seconds = waited.as_secs();
        (waited >= slow).then(|| {
            format!("waiting for the storage to accept a journal entry, for {seconds} s now{why}")
        })
    }
}

impl Runtime {
    /// Executes commands up to the next journal entry, which must be durable before the command behind it begins.
    pub(super) async fn execute(&mut self) {
        while self.writing.is_none()
            && let Some(command) = self.outbox.pop_front()
        {
            self.command(command).await;
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Journal { run, events } => self.write(run, events),
            Command::JournalPool(event) => self.write_pool(event),
            Command::Answer { ticket, answer } => {
                if let Some(waiting) = self.answers.remove(&ticket.0) {
                    // The caller may be gone.
                    let _ = waiting.send(answer);
                }
            }
            Command::Direct { stream, directive } => self.direct(stream, directive),
            Command::Close { stream } => drop(self.streams.remove(&stream)),
            Command::Notify { run, notice } => self.notify(run, notice).await,
            Command::Dial { worker, incarnation, ring } => {
                self.spawn(async move {
                    let outcome = dial::dial(&ring).await;
                    Event::Dialled { worker, incarnation, outcome }
                });
            }
            Command::Survey { run } => self.survey(run),
            Command::FindPrepared { run, fingerprint } => self.find_prepared(run, fingerprint),
            Command::Plan { run, fingerprint, prepared } => self.plan(run, fingerprint, prepared),
            Command::Seal { checkpoint, skipped } => {
                let files = checkpoint.model.iter().chain(&checkpoint.state);
                let bytes = files.map(|file| file.bytes).sum();
                self.handle.metrics().sealing(&checkpoint.run, bytes);
                self.seal(checkpoint, skipped);
            }
            Command::Receipt { run, skipped } => {
                self.enqueue(Work::Task(run, Task::Receipt(skipped))).await;
            }
            Command::Publish { run, lineage, step, losses } => {
                let Some(spec) = self.spec(&run) else { return };
                let checkpoint = CheckpointId { lineage, step };
                let finished = checkpoints::Finished { run: run.clone(), spec, checkpoint, losses };
                self.enqueue(Work::Task(run, Task::Publish(Box::new(finished)))).await;
            }
            Command::Discard { run, lineage, step } => {
                self.enqueue(Work::Task(run, Task::Discard(CheckpointId { lineage, step }))).await;
            }
            Command::Retain { run, retained } => {
                self.enqueue(Work::Task(run, Task::Retain(retained))).await;
            }
        }
    }

    /// Sends a directive to a worker. A full queue means that the stream is not being read: it is dropped, and the
    /// worker gets its directive on its next stream.
    fn direct(&mut self, stream: Stream, directive: Directive) {
        if let Some(directives) = self.streams.get(&stream)
            && directives.try_send(directive).is_err()
        {
            self.streams.remove(&stream);
        }
    }

    fn survey(&self, run: RunId) {
        let Some(spec) = self.spec(&run) else { return };
        let storage = self.prepared.clone();
        self.spawn(async move {
            let outcome = survey::survey(&storage, &spec).await;
            Event::Surveyed { run, outcome }
        });
    }

    fn find_prepared(&self, run: RunId, fingerprint: String) {
        let storage = self.prepared.clone();
        self.spawn(async move {
            let found = survey::is_prepared(&storage, &fingerprint).await;
            let found = found.unwrap_or_else(|error| {
                let error = chain(&error);
                tracing::warn!(%run, error, "whether the data is prepared is unknown");
                false
            });
            Event::FoundPrepared { run, found }
        });
    }

    fn plan(&self, run: RunId, fingerprint: String, prepared: Option<Prepared>) {
        let places =
            planning::Places { run: self.storage.clone(), prepared: self.prepared.clone() };
        let Some(spec) = self.spec(&run) else { return };
        let patience = self.patience;
        self.spawn(async move {
            let began = Instant::now();
            let outcome = loop {
                let prepared = prepared.clone();
                match planning::plan(&places, &run, &spec, &fingerprint, prepared).await {
                    Err(fault)
                        if fault.kind == Failure::Infrastructure && began.elapsed() < patience =>
                    {
                        tracing::warn!(%run, error = fault.message, "planning again");
                        tokio::time::sleep(PAUSE).await;
                    }
                    outcome => break outcome,
                }
            };
            Event::Planned { run, outcome }
        });
    }

    fn seal(&self, checkpoint: Checkpoint, skipped: Vec<Skipped>) {
        let Some(spec) = self.spec(&checkpoint.run) else { return };
        let storage = self.storage.clone();
        let patience = spec.checkpoint().storage_patience;
        self.spawn(async move {
            let began = Instant::now();
            let outcome = loop {
                match checkpoints::seal(&storage, &checkpoint, skipped.clone()).await {
                    Err(Unpublished::Store(error))
                        if error.can_be_mended() && began.elapsed() < patience =>
                    {
                        let (error, step) = (chain(&error), checkpoint.step);
                        tracing::warn!(step, error, "a manifest waits for the store");
                        tokio::time::sleep(PAUSE).await;
                    }
                    outcome => break outcome.map_err(|error| chain(&error)),
                }
            };
            let Checkpoint { run, lineage, step, .. } = checkpoint;
            Event::Sealed { run, lineage, step, outcome }
        });
    }

    /// Starts to write an entry of a run's journal.
    fn write(&mut self, id: RunId, events: Vec<Fact>) {
        let journal = self.runs.get_mut(&id).and_then(|run| run.journal.take());
        let trouble = journal.as_ref().map(Journal::trouble).unwrap_or_default();
        let noted = trouble.clone();
        let (storage, patience) = (self.storage.clone(), self.patience);
        let writing = async move {
            let opened = match journal {
                Some(journal) => Ok(journal),
                // The run has ended.
                None => {
                    let folder = proto::key::journal(&id);
                    Journal::reopen::<Fact>(&storage, folder, patience, &noted).await
                }
            };
            match opened {
                Ok(mut journal) => {
                    let outcome = journal.append(events).await;
                    Done { of: Some(id), journal: Some(journal), outcome }
                }
                Err(error) => Done { of: Some(id), journal: None, outcome: Err(error) },
            }
        };
        self.begin(trouble, tokio::spawn(writing));
    }

    /// Starts to write an entry of the pool's journal, if there is a pool.
    fn write_pool(&mut self, event: PoolEvent) {
        let Some(mut journal) = self.pool.take() else { return };
        let trouble = journal.trouble();
        let writing = async move {
            let outcome = journal.append(vec![event]).await;
            Done { of: None, journal: Some(journal), outcome }
        };
        self.begin(trouble, tokio::spawn(writing));
    }

    fn begin(&mut self, trouble: Trouble, writing: JoinHandle<Done>) {
        let since = Instant::now();
        self.writing = Some(Writing { writing, since, trouble, reported: false });
    }

    /// Handles the outcome of writing an entry.
    ///
    /// # Errors
    /// If the outcome ends this coordinator.
    pub(super) async fn written(&mut self, done: Done) -> Result<(), Error> {
        if let Some(writing) = self.writing.take()
            && writing.reported
        {
            let seconds = writing.since.elapsed().as_secs();
            tracing::warn!(seconds, "the storage answers again");
        }
        let Done { of, journal, outcome } = done;
        let Some(id) = of else {
            self.pool = journal;
            return outcome.map_err(|error| self.replaced(error));
        };
        let Some(run) = self.runs.get_mut(&id) else {
            // The run had already ended. That an entry behind its end is lost does not end this coordinator.
            return match outcome {
                Err(error @ journal::Error::Deposed { .. }) => self.lose(id, error).await,
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(run = %id, error, "the journal of an ended run lacks its last entry");
                    Ok(())
                }
                Ok(()) => Ok(()),
            };
        };
        run.journal = journal;
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => self.lose(id, error).await,
        }
    }

    pub(super) async fn notify(&mut self, id: RunId, notice: crate::core::Notice) {
        let ends = notice.last();
        log::notice(&id, &notice);
        self.handle.metrics().notice(&id, &notice);
        let Some(run) = self.runs.get_mut(&id) else {
            // The run had already ended; the next request to watch it gets this notice.
            if let Some(ended) = self.ended.get_mut(&id) {
                let at_ms = feed::now_ms();
                ended.last = Some(std::sync::Arc::new(feed::Stamped { at_ms, notice }));
            }
            return;
        };
        if run.feed.publish(notice) {
            let lines = run.feed.take_unstored();
            self.enqueue(Work::Task(id.clone(), Task::Metrics(lines))).await;
        }
        if ends && let Some(run) = self.runs.remove(&id) {
            let (submitted_ms, last) = (run.submitted_ms, run.feed.last());
            self.ended.insert(id, Ended { submitted_ms, last });
        }
    }
}
