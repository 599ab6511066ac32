//! Claims the pool and its runs through their journals, and handles the loss of a claim to another coordinator.
//!
//! Taking over means appending a claim. The previous holder may still be writing. If it took the entry's number first,
//! the journal has grown by an entry without a claim, and the claim is tried again behind it. If the number was taken
//! by another claim, another coordinator is taking over at the same time, and this one gives up.

use super::feed::{self, Feed, Stamped};
use super::handle::{Handle, Input};
use super::journal::{self, Journal};
use super::works::Work;
use super::{Ended, Error, Run, Runtime, settings};
use crate::checkpoints;
use crate::core::{Command, Event, Notice, Past, Timing};
use crate::data::survey;
use crate::takeover::holder;
use crate::takeover::resume::Resumable;
use proto::event::{Fact, Holder, Journaled, PoolEvent};
use proto::id::{Lineage, RunId};
use proto::spec::Spec;
use std::sync::Arc;
use std::time::Duration;
use storage::Storage;
use tokio::sync::oneshot;
use wire::credentials::Credentials;

/// Maximum number of attempts to claim a journal that is growing. A few are enough: the previous holder writes rarely,
/// and stops once it loses a number.
const CLAIMS: u32 = 8;
/// Interval of the checks whether another coordinator has taken over. Well below the time that a restarted
/// coordinator gives workers to reconnect.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// A pool that is free or to be taken over, but not yet claimed.
pub struct Vacancy {
    storage: Storage,
    pool: Journal,
    past: Vec<PoolEvent>,
    take_over: bool,
    credentials: Credentials,
}

impl Vacancy {
    /// Reads the pool under `storage`, and asks its previous coordinator with `credentials`. This coordinator must not
    /// listen yet: if it had the address of the previous one, it would ask itself.
    ///
    /// # Errors
    /// [`Error::Held`] if the previous coordinator may still be alive and `take_over` is false; [`Error::Journal`] if
    /// the pool's journal cannot be replayed.
    pub async fn find(
        storage: Storage,
        take_over: bool,
        credentials: Credentials,
    ) -> Result<Self, Error> {
        let (pool, past) = open_pool(&storage).await?;
        if !take_over && let Some(before) = last_claim(&past) {
            holder::leave_pool(before, storage.url(), &credentials).await?;
        }
        Ok(Self { storage, pool, past, take_over, credentials })
    }
}

/// A run that has been read and is about to be claimed.
struct Read {
    run: RunId,
    journal: Journal,
    spec: Spec,
    history: Vec<Fact>,
}

impl Runtime {
    /// A coordinator of the pool, which claims the pool and all of its runs.
    ///
    /// # Errors
    /// [`Error::Journal`] if a journal cannot be replayed, or if another coordinator claims the pool at the same time.
    pub async fn of_pool(
        vacancy: Vacancy,
        timing: Timing,
        holder: Holder,
    ) -> Result<(Self, Handle), Error> {
        let Vacancy { storage, pool, past, take_over, credentials } = vacancy;
        let before = last_claim(&past).cloned();
        let epoch = next_epoch(&past);
        let mut found = Some((pool, past));
        let (pool, past) = claim_behind_last(async || {
            let (mut pool, past) = match found.take() {
                Some(found) => found,
                None => open_pool(&storage).await?,
            };
            expect_claim(before.as_ref(), &past, &storage, proto::key::POOL_JOURNAL.into())?;
            pool.append(vec![PoolEvent::Opened { epoch, holder: Some(holder.clone()) }]).await?;
            Ok((pool, past))
        })
        .await?;
        if take_over && let Some(before) = before.filter(|before| before.url != holder.url) {
            // To answer, the previous coordinator checks its journal, finds the claim, and ends.
            holder::ask(&before, None, &credentials).await;
        }
        // A pool waits for its store however long an outage lasts.
        let pool = pool.patient(Duration::MAX);
        let places = (storage.clone(), storage);
        let (runtime, handle) = Self::new(places, timing, epoch, Some(pool), Duration::MAX);
        let mut runtime = runtime.known_as(holder);
        for (run, idempotency_key) in in_turn(past) {
            runtime.adopt(run, idempotency_key).await?;
        }
        Ok((runtime, handle))
    }

    /// Takes over a run of the pool. A run whose journal cannot be read is listed as unreadable, and the other runs
    /// continue.
    async fn adopt(&mut self, run: RunId, idempotency_key: String) -> Result<(), Error> {
        let claimed = claim_behind_last(async || {
            let folder = proto::key::journal(&run);
            let (mut journal, mut history) = Journal::open::<Fact>(&self.storage, folder).await?;
            self.commit_stored(&run, &mut journal, &mut history).await?;
            let unreadable = |reason: String| Error::Spec { run: run.clone(), reason };
            let spec = last_spec(&history)
                .ok_or_else(|| unreadable("the journal does not begin with one".into()))?;
            let spec = Spec::from_resolved(spec).map_err(|e| unreadable(e.to_string()))?;
            let key = Some(idempotency_key.clone());
            let read = Read { run: run.clone(), journal, spec, history };
            self.take(read, key, false).await
        });
        match claimed.await {
            Err(Error::Journal(error @ journal::Error::Deposed { .. })) => {
                self.lose(run, error).await
            }
            Err(
                error @ (Error::Spec { .. }
                | Error::Journal(
                    journal::Error::Unusable { .. } | journal::Error::Missing { .. },
                )),
            ) => {
                let error = proto::error::chain(&error);
                tracing::error!(%run, error, "the run cannot be read and is left out");
                self.core.unreadable(run, Some(idempotency_key), error);
                Ok(())
            }
            claimed => claimed,
        }
    }

    /// Takes over a run that was stopped or interrupted, with a spec whose `workers` or `checkpoint` the user may have
    /// changed.
    ///
    /// # Errors
    /// If the run's journal cannot be replayed or claimed.
    pub async fn resume(&mut self, found: Resumable) -> Result<(), Error> {
        let Resumable { run, spec, before, take_over, credentials } = found;
        claim_behind_last(async || {
            let folder = proto::key::journal(&run);
            let (mut journal, mut history) =
                Journal::open::<Fact>(&self.storage, folder.clone()).await?;
            expect_claim(before.as_ref(), &history, &self.storage, folder)?;
            self.commit_stored(&run, &mut journal, &mut history).await?;
            let spec_yaml = spec.resolved_yaml();
            let began = if has_ended(&history) {
                let attempt = crate::core::attempts(&history) + 1;
                Some(Fact::Resumed { attempt, spec_yaml })
            } else {
                let changed = last_spec(&history) != Some(spec_yaml.as_str());
                changed.then_some(Fact::Submitted { spec_yaml })
            };
            if let Some(began) = began {
                journal.append(vec![began.clone()]).await?;
                history.push(began);
            }
            let prepared = last_prepared(&history).map(str::to_owned);
            let read = Read { run: run.clone(), journal, spec: spec.clone(), history };
            self.take(read, None, true).await?;
            if let Some(fingerprint) = prepared {
                self.compare(&run, Arc::new(spec.clone()), fingerprint);
            }
            Ok(())
        })
        .await?;
        let own = self.core.holder().map(|own| own.url.clone());
        if take_over && let Some(before) = before.filter(|before| Some(&before.url) != own.as_ref())
        {
            // To answer, the previous coordinator checks the journal, finds the claim, and ends.
            holder::ask(&before, Some(&run), &credentials).await;
        }
        Ok(())
    }

    /// Spawns a check whether a run's data has changed since it was prepared. The data itself is not read again.
    pub(super) fn compare(&self, run: &RunId, spec: Arc<Spec>, fingerprint: String) {
        let (run, storage) = (run.clone(), self.prepared.clone());
        self.spawn(async move {
            let difference = survey::difference(&storage, &spec, &fingerprint).await;
            Event::Compared { run, difference }
        });
    }

    /// Journals the checkpoints that were stored but not journaled.
    async fn commit_stored(
        &self,
        run: &RunId,
        journal: &mut Journal,
        history: &mut Vec<Fact>,
    ) -> Result<(), Error> {
        let found = checkpoints::uncommitted(&self.storage, run, history).await?;
        if !found.is_empty() {
            journal.append(found.clone()).await?;
            history.extend(found);
        }
        Ok(())
    }

    async fn take(
        &mut self,
        read: Read,
        idempotency_key: Option<String>,
        resume: bool,
    ) -> Result<(), Error> {
        let Read { run: id, journal, spec, mut history } = read;
        // Only the core needs these facts; they are not journaled.
        history.extend(checkpoints::replaced(&self.storage, &id, &history).await?);
        let (lineage, last) = (last_lineage(&history), last_notice(&history));
        let settings = settings(&spec, self.goal);
        let now = self.now();
        let past = Past { run: id.clone(), settings, history };
        let commands = self.core.adopt(now, past, idempotency_key, resume);
        let (submitted_ms, journal) = (journal.began_ms(), journal.patient(self.patience));
        if !self.core.holds(&id) {
            self.outbox.extend(commands);
            let last = last.map(|notice| Arc::new(Stamped { at_ms: 0, notice }));
            self.ended.insert(id, Ended { submitted_ms, last });
            return Ok(());
        }
        let recorded = feed::recorded(&self.storage, &id, lineage).await?;
        self.core.recorded(&id, lineage, recorded.steps);
        self.enqueue(Work::Begin { run: id.clone(), chunk: recorded.chunks }).await;
        let (feed, spec) = (Feed::new(recorded.last_ms), Arc::new(spec));
        let mut run = Run { journal: None, feed, spec, submitted_ms };
        let (journal, claimed, rest) = claim(journal, commands, &id).await;
        run.journal = Some(journal);
        self.runs.insert(id, run);
        claimed?;
        self.outbox.extend(rest);
        Ok(())
    }

    /// Starts checks whether another coordinator has written to the journals that this one holds. Without them, a
    /// deposed coordinator with nothing to write would never notice, and would keep its workers.
    pub(super) fn check_journals(&self) {
        if self.is_pool {
            // A coordinator that takes over a pool's runs claims the pool first.
            return self.check_journal(None, None);
        }
        for id in self.runs.keys().filter(|id| self.core.holds(id)) {
            self.check_journal(Some(id.clone()), None);
        }
    }

    /// Spawns a check of the end of the run's journal, or of the pool's. The outcome comes back as an input.
    pub(super) fn check_journal(
        &self,
        run: Option<RunId>,
        answer: Option<oneshot::Sender<Option<String>>>,
    ) {
        let journal = match &run {
            None => self.pool.as_ref(),
            Some(id) => self.runs.get(id).and_then(|run| run.journal.as_ref()),
        };
        let handle = self.handle.clone();
        let end = journal.map(Journal::end);
        tokio::spawn(async move {
            let found = match end {
                Some(end) => match &run {
                    None => end.found::<PoolEvent>().await,
                    Some(_) => end.found::<Fact>().await,
                },
                // An entry is being written, which shows whether the journal is lost.
                None => None,
            };
            // The coordinator may have stopped meanwhile.
            let _ = handle.send(Input::Checked { run, found, answer }).await;
        });
    }

    /// Handles the outcome of [`Self::check_journal`]. Returns whether this coordinator still holds the run or pool.
    ///
    /// # Errors
    /// [`Error::Replaced`] if another coordinator holds the pool.
    pub(super) async fn checked(
        &mut self,
        run: Option<RunId>,
        found: Option<journal::Found>,
    ) -> Result<bool, Error> {
        let journal = match &run {
            None => self.pool.as_ref(),
            Some(id) => self.runs.get(id).and_then(|run| run.journal.as_ref()),
        };
        // An entry that this coordinator has written meanwhile, or is writing, does not count.
        let deposed = journal.zip(found).and_then(|(journal, found)| journal.is_lost(found));
        match (run, deposed) {
            (None, Some(error)) => Err(self.replaced(error)),
            (Some(id), Some(error)) => {
                self.lose(id, error).await?;
                Ok(false)
            }
            (None, None) => Ok(self.is_pool),
            (Some(id), None) => Ok(self.core.holds(&id)),
        }
    }

    /// Drops a run whose journal another coordinator has claimed. Its pending commands are discarded, and its workers
    /// and watchers are notified.
    ///
    /// # Errors
    /// [`Error::Replaced`] if the whole pool is lost. Workers then get no new directive, and move to the successor as
    /// they are. [`Error::Journal`] if the journal is broken instead of claimed.
    pub(super) async fn lose(&mut self, run: RunId, error: journal::Error) -> Result<(), Error> {
        let journal::Error::Deposed { .. } = &error else { return Err(error.into()) };
        if let Some(pool) = &self.pool
            && let Some(found) = pool.end().found::<PoolEvent>().await
            && let Some(error) = pool.is_lost(found)
        {
            return Err(self.replaced(error));
        }
        let message = proto::error::chain(&error);
        Command::take_back(&mut self.outbox, &run, &message);
        self.step(Event::RunLost { run, message }).await;
        Ok(())
    }

    /// Converts an error of the pool's journal. If another coordinator has claimed the pool, its address is noted for
    /// the workers.
    pub(super) fn replaced(&self, error: journal::Error) -> Error {
        let journal::Error::Deposed { by, .. } = &error else { return error.into() };
        if let Some(by) = by {
            self.handle.succeeded_by(by.url.clone());
        }
        Error::Replaced(error)
    }
}

/// Writes the claim, which is the first command if there is one, and returns the other commands.
async fn claim(
    mut journal: Journal,
    mut commands: Vec<Command>,
    id: &RunId,
) -> (Journal, Result<(), journal::Error>, Vec<Command>) {
    let mut claimed = Ok(());
    if let Some(Command::Journal { run: of, events }) = commands.first()
        && of == id
    {
        claimed = journal.append(events.clone()).await;
        commands.remove(0);
    }
    (journal, claimed, commands)
}

/// The runs of a pool in their order in the queue. A run that was resumed goes to the end.
fn in_turn(past: Vec<PoolEvent>) -> Vec<(RunId, String)> {
    let mut runs: Vec<(RunId, String)> = Vec::new();
    for event in past {
        match event {
            PoolEvent::Opened { .. } => {}
            PoolEvent::Submitted { run, idempotency_key } => runs.push((run, idempotency_key)),
            PoolEvent::Resumed { run } => {
                if let Some(at) = runs.iter().position(|(id, _)| *id == run) {
                    let resumed = runs.remove(at);
                    runs.push(resumed);
                }
            }
        }
    }
    runs
}

/// The spec in force at the end of a history.
pub(super) fn last_spec(history: &[Fact]) -> Option<&str> {
    history.iter().rev().find_map(|event| match event {
        Fact::Submitted { spec_yaml } | Fact::Resumed { spec_yaml, .. } => Some(spec_yaml.as_str()),
        _ => None,
    })
}

/// The fingerprint of the data set that a run was planned on.
pub(super) fn last_prepared(history: &[Fact]) -> Option<&str> {
    history.iter().rev().find_map(|event| match event {
        Fact::Prepared { fingerprint } => Some(fingerprint.as_str()),
        _ => None,
    })
}

/// The last notice of a run that has ended.
fn last_notice(history: &[Fact]) -> Option<Notice> {
    let planned = history.iter().rev().find_map(|event| match event {
        Fact::Planned { steps, .. } => Some(*steps),
        _ => None,
    });
    history.iter().rev().find_map(|event| match event {
        Fact::Paused { step } => Some(Notice::Paused { step: *step }),
        Fact::Cancelled => Some(Notice::Cancelled),
        Fact::Failed { kind, message } => {
            Some(Notice::Failed { kind: *kind, message: message.clone() })
        }
        Fact::Succeeded { model } => {
            Some(Notice::Finished { model: model.clone(), steps: planned.unwrap_or(0) })
        }
        _ => None,
    })
}

pub(super) fn last_lineage(history: &[Fact]) -> Lineage {
    let of = |event: &Fact| match event {
        Fact::Generation { lineage, .. } => Some(*lineage),
        _ => None,
    };
    history.iter().rev().find_map(of).unwrap_or_default()
}

/// Whether the run of a history has ended, in whatever way.
fn has_ended(history: &[Fact]) -> bool {
    let of = |event: &Fact| match event {
        Fact::Paused { .. } | Fact::Cancelled | Fact::Failed { .. } | Fact::Succeeded { .. } => {
            Some(true)
        }
        Fact::Resumed { .. } | Fact::Claimed { .. } => Some(false),
        _ => None,
    };
    history.iter().rev().find_map(of).unwrap_or(false)
}

/// Claims again if the previous holder has written meanwhile.
async fn claim_behind_last<T>(
    mut claim: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    for _ in 1..CLAIMS {
        match claim().await {
            Err(Error::Journal(journal::Error::Deposed { by: None, .. })) => {}
            outcome => return outcome,
        }
    }
    claim().await
}

async fn open_pool(storage: &Storage) -> Result<(Journal, Vec<PoolEvent>), journal::Error> {
    Journal::open(storage, proto::key::POOL_JOURNAL.into()).await
}

/// Checks that `before` still holds the last claim, as it did when it was asked.
fn expect_claim<E: Journaled>(
    before: Option<&Holder>,
    past: &[E],
    storage: &Storage,
    folder: String,
) -> Result<(), journal::Error> {
    let last = last_claim(past);
    if last == before {
        return Ok(());
    }
    let (url, key, by) = (storage.url().to_owned(), folder, last.cloned());
    Err(journal::Error::Deposed { url, key, by })
}

fn last_claim<E: Journaled>(past: &[E]) -> Option<&Holder> {
    past.iter().rev().find_map(Journaled::claimed_by)
}

fn next_epoch(past: &[PoolEvent]) -> proto::id::Epoch {
    let opened = |e: &PoolEvent| match e {
        PoolEvent::Opened { epoch, .. } => Some(*epoch),
        PoolEvent::Submitted { .. } | PoolEvent::Resumed { .. } => None,
    };
    past.iter().filter_map(opened).max().unwrap_or_default().next()
}
