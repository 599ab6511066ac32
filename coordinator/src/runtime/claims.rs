//! What a coordinator takes over: the pool from its journal, runs from theirs. And what is taken from it.
//!
//! Taking over is appending a claim. Whoever held the journal before may still be writing: where it got the number
//! first, the journal has grown by an entry that claims nothing, and the claim is tried again behind it. Where another
//! claim got it, there is another heir.

use super::{Error, Run, Runtime, settings};
use crate::core::{Command, Event, Timing};
use crate::feed::Feed;
use crate::handle::Handle;
use crate::journal::{self, Journal};
use crate::resume::Resumable;
use crate::{finish, holder};
use proto::event::{Event as History, Fact, Holder, PoolEvent};
use proto::id::RunId;
use proto::spec::Spec;
use proto::storage::Storage;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Claims of a journal that grows meanwhile. Whoever held it writes seldom, and ends once it loses a number itself.
const CLAIMS: u32 = 8;
/// Between two looks at whether another has taken over: well within the time that a restarted coordinator gives
/// workers to come back to it.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// A pool whose place is free, or is to be taken; nothing is claimed yet.
pub struct Vacancy {
    storage: Storage,
    pool: Journal,
    past: Vec<PoolEvent>,
    take_over: bool,
}

impl Vacancy {
    /// The pool under `storage`. This coordinator must not listen yet: at the address of the one before, it would ask
    /// itself.
    ///
    /// # Errors
    /// [`Error::Held`] if the one before answers, unless this one is to `take_over`; [`Error::Journal`] if the pool's
    /// journal cannot be replayed.
    pub async fn find(storage: Storage, take_over: bool) -> Result<Self, Error> {
        let (pool, past) = open_pool(&storage).await?;
        if !take_over && let Some(before) = last_claim(&past) {
            holder::leave_pool(before, storage.url()).await?;
        }
        Ok(Self { storage, pool, past, take_over })
    }
}

impl Runtime {
    /// A coordinator of the pool, with everything that the pool has seen.
    ///
    /// # Errors
    /// [`Error::Journal`] if a journal cannot be replayed, or another coordinator begins at the same time.
    pub async fn of_pool(
        vacancy: Vacancy,
        timing: Timing,
        holder: Holder,
    ) -> Result<(Self, Handle), Error> {
        let Vacancy { storage, pool, past, take_over } = vacancy;
        let before = last_claim(&past).cloned();
        let epoch = next_epoch(&past);
        let mut found = Some((pool, past));
        let (pool, past) = behind_the_last(async || {
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
            // It looks at its journal before it answers: that ends it.
            holder::ask(&before, None).await;
        }
        let (runtime, handle) = Self::new(storage.clone(), storage, timing, epoch, Some(pool));
        let mut runtime = runtime.known_as(holder);
        for event in past {
            if let PoolEvent::Submitted { run, idempotency_key } = event {
                runtime.adopt(run, idempotency_key).await?;
            }
        }
        Ok((runtime, handle))
    }

    /// Takes over a run of the pool.
    async fn adopt(&mut self, run: RunId, idempotency_key: String) -> Result<(), Error> {
        let claimed = behind_the_last(async || {
            let folder = proto::key::journal(&run);
            let (mut journal, mut history) =
                Journal::open::<History>(&self.storage, folder).await?;
            self.commit_stored(&run, &mut journal, &mut history).await?;
            let unreadable = |reason: String| Error::Spec { run: run.clone(), reason };
            let Some(History::Submitted { spec_yaml }) = history.first() else {
                return Err(unreadable("the journal does not begin with one".into()));
            };
            let spec = Spec::from_resolved(spec_yaml).map_err(|e| unreadable(e.to_string()))?;
            let key = Some(idempotency_key.clone());
            self.take(run.clone(), journal, spec, key, history, false).await
        });
        match claimed.await {
            Err(Error::Journal(error @ journal::Error::Deposed { .. })) => {
                let mut lost = VecDeque::new();
                self.lose(run, error, &mut lost).await?;
                self.execute(lost.into()).await
            }
            claimed => claimed,
        }
    }

    /// Takes over a run that was stopped or broken off, under a spec whose workers or checkpoints a user may have
    /// changed.
    ///
    /// # Errors
    /// If its journal cannot be replayed or claimed.
    pub async fn resume(&mut self, found: Resumable) -> Result<(), Error> {
        let Resumable { run, spec, before, take_over } = found;
        behind_the_last(async || {
            let folder = proto::key::journal(&run);
            let (mut journal, mut history) =
                Journal::open::<History>(&self.storage, folder.clone()).await?;
            expect_claim(before.as_ref(), &history, &self.storage, folder)?;
            self.commit_stored(&run, &mut journal, &mut history).await?;
            let submitted = History::Submitted { spec_yaml: spec.resolved_yaml() };
            if history.first() != Some(&submitted) {
                journal.append(vec![submitted.clone()]).await?;
                history.push(submitted);
            }
            self.take(run.clone(), journal, spec.clone(), None, history, true).await
        })
        .await?;
        let own = self.core.holder().map(|own| own.url.clone());
        if take_over && let Some(before) = before.filter(|before| Some(&before.url) != own.as_ref())
        {
            // It looks at the journal before it answers: that ends it.
            holder::ask(&before, Some(&run)).await;
        }
        Ok(())
    }

    /// Commits the checkpoints that were stored and not journaled.
    async fn commit_stored(
        &self,
        run: &RunId,
        journal: &mut Journal,
        history: &mut Vec<History>,
    ) -> Result<(), Error> {
        let found = finish::uncommitted(&self.storage, run, history).await?;
        if !found.is_empty() {
            journal.append(found.clone()).await?;
            history.extend(found);
        }
        Ok(())
    }

    async fn take(
        &mut self,
        id: RunId,
        journal: Journal,
        spec: Spec,
        idempotency_key: Option<String>,
        mut history: Vec<History>,
        resume: bool,
    ) -> Result<(), Error> {
        // What the core is told, and nobody needs to be told again.
        history.extend(finish::replaced(&self.storage, &id, &history).await?);
        let chunk = self.storage.list(&proto::key::all_metrics(&id)).await?.len();
        let feed = Feed::new(id.clone(), chunk.try_into().unwrap_or(0));
        let settings = settings(&spec, self.goal);
        let mut run = Run { journal, feed, spec: Arc::new(spec) };
        let now = self.now();
        let commands = self.core.adopt(now, id.clone(), idempotency_key, settings, history, resume);
        let mut commands = VecDeque::from(commands);
        let mut claimed = Ok(());
        // The claim comes first, where there is one; one that comes too late is made anew.
        if let Some(Command::Journal { run: of, events }) = commands.front()
            && *of == id
        {
            claimed = run.journal.append(events.clone()).await;
            commands.pop_front();
        }
        self.runs.insert(id, run);
        claimed?;
        self.execute(commands.into()).await
    }

    /// Looks, beside the queue, whether another has written to what this coordinator holds; where it seems so, it asks
    /// itself the question in order. Without it a deposed coordinator that has nothing to write would never know, and
    /// hold on to workers that no longer listen to it.
    pub(super) fn look(&self) {
        let ends: Vec<_> = match &self.pool {
            // Who takes a pool's runs takes the pool first.
            Some(pool) => vec![(None, pool.end())],
            None => {
                let held = self.runs.iter().filter(|(id, _)| self.core.holds(id));
                held.map(|(id, run)| (Some(id.clone()), run.journal.end())).collect()
            }
        };
        let handle = self.handle.clone();
        tokio::spawn(async move {
            for (run, end) in ends {
                // What takes longer than until the next look is left to that.
                if tokio::time::timeout(LOOK, end.is_taken()).await.unwrap_or(false) {
                    // The coordinator may have stopped meanwhile.
                    let _ = handle.holds(run).await;
                }
            }
        });
    }

    /// Whether nobody has taken the run, or the pool, from this coordinator: it looks before it says so.
    pub(super) async fn holds(&mut self, run: Option<RunId>) -> Result<bool, Error> {
        let Some(id) = run else {
            self.check_pool().await?;
            return Ok(self.pool.is_some());
        };
        if !self.core.holds(&id) {
            return Ok(false);
        }
        match self.runs[&id].journal.check::<History>().await {
            Err(error @ journal::Error::Deposed { .. }) => {
                let mut lost = VecDeque::new();
                self.lose(id, error, &mut lost).await?;
                self.execute(lost.into()).await?;
                Ok(false)
            }
            Ok(()) => Ok(true),
            Err(error) => {
                let error = proto::error::chain(&error);
                tracing::warn!(run = %id, error, "the run's journal cannot be looked at");
                Ok(true)
            }
        }
    }

    /// Drops a run whose journal another has. `commands`, which were to follow, lose what acts for it, and gain what
    /// becomes of its workers and watchers.
    ///
    /// # Errors
    /// [`Error::Replaced`] if the whole pool is lost, which says nothing to its workers: they go over as they are.
    /// [`Error::Journal`] if the journal is not another's, but broken.
    pub(super) async fn lose(
        &mut self,
        run: RunId,
        error: journal::Error,
        commands: &mut VecDeque<Command>,
    ) -> Result<(), Error> {
        let journal::Error::Deposed { .. } = &error else { return Err(error.into()) };
        self.check_pool().await?;
        let message = proto::error::chain(&error);
        Command::take_back(commands, &run, &message);
        let now = self.now();
        commands.extend(self.core.handle(now, Event::RunLost { run, message }));
        Ok(())
    }

    /// Ends this coordinator if another has its pool.
    async fn check_pool(&self) -> Result<(), Error> {
        let Some(pool) = &self.pool else { return Ok(()) };
        match pool.check::<PoolEvent>().await {
            Err(error @ journal::Error::Deposed { .. }) => Err(self.replaced(error)),
            Ok(()) => Ok(()),
            Err(error) => {
                let error = proto::error::chain(&error);
                tracing::warn!(error, "the pool's journal cannot be looked at");
                Ok(())
            }
        }
    }

    /// What an error of the pool's journal comes to. Workers are told where to go.
    pub(super) fn replaced(&self, error: journal::Error) -> Error {
        let journal::Error::Deposed { by, .. } = &error else { return error.into() };
        if let Some(by) = by {
            self.handle.succeeded_by(by.url.clone());
        }
        Error::Replaced(error)
    }
}

/// Claims again where the one before has written meanwhile.
async fn behind_the_last<T>(mut claim: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
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

/// Makes sure that the journal still is as it was when `before` was asked.
fn expect_claim<E: Fact>(
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

fn last_claim<E: Fact>(past: &[E]) -> Option<&Holder> {
    past.iter().rev().find_map(Fact::claimed_by)
}

fn next_epoch(past: &[PoolEvent]) -> proto::id::Epoch {
    let opened = |e: &PoolEvent| match e {
        PoolEvent::Opened { epoch, .. } => Some(*epoch),
        PoolEvent::Submitted { .. } | PoolEvent::Resumed { .. } => None,
    };
    past.iter().filter_map(opened).max().unwrap_or_default().next()
}
