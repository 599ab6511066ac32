//! Owns the core, the clock and the queue; executes commands in order.
//!
//! ```text
//! inputs --> core --> outbox --> executed in order. While a journal entry is being written, the commands behind
//!              ^                 it wait, but the core still handles inputs and answers requests
//!              '---- events of long work (listing, planning, storing manifests) in tasks of the async runtime
//! ```
//!
//! A command behind a journal entry starts only when the entry is durable. If the store is unreachable, only these
//! commands wait: leases are still renewed, and requests are answered from memory with the reason for the wait.
//!
//! ```text
//! claims     claiming the pool and its runs        execute   executes commands one after another
//! attempts   another attempt of an ended run       works     background work in storage
//! journal    history in object storage             feed      notices for watchers, stored as metrics
//! handle     sends inputs to the queue             dial      checks that peers can connect to a worker
//! naming     names of runs                         log       the log lines of events and notices
//! settings   the part of a spec for the core
//! ```

mod attempts;
mod claims;
mod dial;
mod execute;
pub mod feed;
pub mod handle;
pub mod journal;
mod log;
pub(crate) mod naming;
mod settings;
mod works;

pub use claims::Vacancy;

use crate::core::{Command, Core, Event, Goal, Notice, Stream, Ticket, Timing};
use crate::takeover::holder;
use execute::{Done, Writing};
use feed::{Feed, Stamped, Watch};
use handle::{Beats, Handle, Input, Overview, Seen, Submission};
use journal::Journal;
use proto::event::Holder;
use proto::id::{self, Epoch, RunId};
use proto::protocol::Directive;
use proto::spec::Spec;
use settings::settings;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use storage::Storage;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use works::{Task, Work};

/// Maximum number of inputs that wait for the core.
const QUEUE: usize = 1024;
/// Maximum number of commands that wait for a journal entry. Most reports cause no command that has to wait, so only
/// an outage of days fills the outbox. The runtime then handles no input until the store is back.
const OUTBOX: usize = 100_000;
/// How long a request to watch an ended run waits for the run's last notices to be stored.
const STORED_WITHIN: Duration = Duration::from_secs(6);
/// When an entry takes longer than this to write, watchers and status replies say so.
const SLOW: Duration = Duration::from_secs(2);

/// Why a coordinator cannot start, or must stop.
#[derive(Debug, Error)]
pub enum Error {
    /// A journal cannot be read or written, or another coordinator has claimed it.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// A storage operation failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The spec in a run's journal is missing or invalid.
    #[error("the spec of run `{run}` cannot be read back: {reason}")]
    Spec {
        /// The run.
        run: RunId,
        /// Why.
        reason: String,
    },
    /// Another coordinator is alive and holds the pool.
    #[error(transparent)]
    Held(#[from] holder::Held),
    /// Another coordinator has taken over this one's pool.
    #[error("this coordinator was replaced, and its workers move to the one that replaced it")]
    Replaced(#[source] journal::Error),
}

/// A run that has not ended, or whose end has not been announced yet.
struct Run {
    /// `None` while an entry is being written.
    journal: Option<Journal>,
    feed: Feed,
    spec: Arc<Spec>,
    submitted_ms: u64,
}

/// The part of an ended run that stays in memory.
struct Ended {
    submitted_ms: u64,
    /// The run's last notice, if it has one.
    last: Option<Arc<Stamped>>,
}

/// A coordinator: the core with its inputs, its journals and the tasks that execute its commands.
pub struct Runtime {
    core: Core,
    /// The storage of everything that belongs to a run.
    storage: Storage,
    /// The storage of prepared data sets, which runs share.
    prepared: Storage,
    /// The pool's journal; `None` without a pool, and while an entry is being written.
    pool: Option<Journal>,
    is_pool: bool,
    /// The goal of all runs.
    goal: Goal,
    runs: BTreeMap<RunId, Run>,
    ended: BTreeMap<RunId, Ended>,
    streams: BTreeMap<Stream, mpsc::Sender<Directive>>,
    answers: BTreeMap<u64, oneshot::Sender<Result<RunId, String>>>,
    tickets: u64,
    inputs: mpsc::Receiver<Input>,
    handle: Handle,
    outbox: VecDeque<Command>,
    writing: Option<Writing>,
    works: mpsc::Sender<Work>,
    /// The interval between beats of a worker.
    beat: Duration,
    beats: Beats,
    /// How long the store may be unreachable before this coordinator gives up.
    patience: Duration,
    /// When `run` began. `None` before, so that the time spent reading journals does not count against leases.
    began: Option<Instant>,
    began_ms: u64,
}

impl Runtime {
    /// A coordinator without a pool, as `coordinator run` embeds it. It ends once the store has been unreachable for
    /// longer than `patience`.
    pub fn alone(
        storage: Storage,
        timing: Timing,
        holder: Holder,
        patience: Duration,
    ) -> (Self, Handle) {
        let places = (storage.clone(), storage);
        let (runtime, handle) = Self::new(places, timing, epoch_of_now(), None, patience);
        (runtime.known_as(holder), handle)
    }

    /// A coordinator whose runs end once they are planned, and which writes only the prepared data set to `output`.
    pub fn preview(scratch: Storage, output: Storage, timing: Timing) -> (Self, Handle) {
        let places = (scratch, output);
        let (runtime, handle) = Self::new(places, timing, epoch_of_now(), None, Duration::ZERO);
        (Self { goal: Goal::Plan, ..runtime }, handle)
    }

    fn new(
        (storage, prepared): (Storage, Storage),
        timing: Timing,
        epoch: Epoch,
        pool: Option<Journal>,
        patience: Duration,
    ) -> (Self, Handle) {
        let (sender, inputs) = mpsc::channel(QUEUE);
        let handle = Handle::new(sender, prepared.url().to_owned());
        let secret = format!("{}{}", id::unique(), id::unique());
        let (works, inbox) = mpsc::channel(works::QUEUE);
        let executor =
            works::Executor { storage: storage.clone(), handle: handle.clone(), patience };
        tokio::spawn(works::work(executor, inbox));
        let runtime = Self {
            core: Core::new(timing, epoch, proto::manifest::sha256_bytes(secret.as_bytes())),
            storage,
            prepared,
            is_pool: pool.is_some(),
            pool,
            goal: Goal::Model,
            runs: BTreeMap::new(),
            ended: BTreeMap::new(),
            streams: BTreeMap::new(),
            answers: BTreeMap::new(),
            tickets: 0,
            inputs,
            handle: handle.clone(),
            outbox: VecDeque::new(),
            writing: None,
            works,
            beat: timing.beat,
            beats: handle.beats(),
            patience,
            began: None,
            began_ms: feed::now_ms(),
        };
        (runtime, handle)
    }

    fn known_as(self, holder: Holder) -> Self {
        Self { core: self.core.known_as(holder), ..self }
    }

    fn now(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Runs until every handle is dropped or the pool is lost.
    ///
    /// # Errors
    /// [`Error::Replaced`] when another coordinator has taken over, [`Error::Journal`] when the store has been
    /// unreachable for longer than this coordinator's patience.
    pub async fn run(mut self) -> Result<(), Error> {
        let began = *self.began.insert(Instant::now());
        let mut checks = tokio::time::interval(claims::CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = tokio::time::interval(self.beat / 2);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.execute().await;
            let deadline = self.core.next_deadline().map(|d| began + d);
            let slow = self.writing.as_ref().and_then(Writing::slow_at);
            let input = tokio::select! {
                biased;
                done = written(&mut self.writing) => {
                    self.written(done).await?;
                    continue;
                }
                _ = beats.tick() => Input::Core(Event::Beats { streams: self.beats.take() }),
                input = self.inputs.recv(), if self.outbox.len() < OUTBOX => match input {
                    Some(input) => input,
                    None => return Ok(()),
                },
                () = sleep_until(deadline) => Input::Core(Event::Tick),
                () = sleep_until(slow) => {
                    self.report_waiting();
                    continue;
                }
                _ = checks.tick() => {
                    self.check_journals();
                    continue;
                }
            };
            self.take_in(input).await?;
        }
    }

    async fn take_in(&mut self, input: Input) -> Result<(), Error> {
        let event = match input {
            Input::Core(event) => {
                if let Event::Hangup { stream } = &event {
                    self.streams.remove(stream);
                }
                log::event(&event);
                self.handle.metrics().event(&event);
                event
            }
            Input::Attach { stream, directives } => {
                self.streams.insert(stream, directives);
                return Ok(());
            }
            Input::Submit { submission, answer } => {
                self.submit(*submission, answer).await;
                return Ok(());
            }
            Input::Resume { run, spec_yaml, by, answer } => {
                self.look_up(run, spec_yaml, by, answer);
                return Ok(());
            }
            Input::Found { found, answer } => {
                self.begin_attempt(*found, answer).await;
                return Ok(());
            }
            Input::Cancel { run, by, answer } => {
                Event::Cancel { ticket: self.ticket(answer), run, by }
            }
            Input::Watch { run, after_ms, answer } => {
                self.watch(run, after_ms, answer);
                return Ok(());
            }
            Input::Status { answer } => {
                // The caller may be gone.
                let _ = answer.send(self.overview());
                return Ok(());
            }
            Input::Holds { run, answer } => {
                self.check_journal(run, Some(answer));
                return Ok(());
            }
            Input::Checked { run, found, answer } => {
                let holds = self.checked(run, found).await?;
                let token = self.core.holder().filter(|_| holds).map(|h| h.token.clone());
                if let Some(answer) = answer {
                    // The caller may be gone.
                    let _ = answer.send(token);
                }
                return Ok(());
            }
            Input::Settled { answer } => {
                self.enqueue(Work::Settled(None, answer)).await;
                return Ok(());
            }
        };
        self.step(event).await;
        Ok(())
    }

    async fn step(&mut self, event: Event) {
        let now = self.now();
        for command in self.core.handle(now, event) {
            match command {
                // Steps are frequent, and their order relative to other commands does not matter.
                Command::Notify { run, notice: notice @ Notice::Step { .. } } => {
                    self.notify(run, notice).await;
                }
                command => self.outbox.push_back(command),
            }
        }
    }

    fn ticket(&mut self, answer: oneshot::Sender<Result<RunId, String>>) -> Ticket {
        self.tickets += 1;
        self.answers.insert(self.tickets, answer);
        Ticket(self.tickets)
    }

    async fn submit(
        &mut self,
        submission: Submission,
        answer: oneshot::Sender<Result<RunId, String>>,
    ) {
        let Submission { spec, key, by, run } = submission;
        let settings = settings(&spec, self.goal);
        let known = self.core.known(&key, &settings.identity);
        if let Err(refusal) = known {
            // The caller may be gone.
            let _ = answer.send(Err(refusal));
            return;
        }
        let spec = spec.dated(Some(chrono::Local::now().date_naive()));
        let run = run.unwrap_or_else(|| self.fresh_name(&spec));
        let spec_yaml = spec.resolved_yaml();
        let event = Event::Submit {
            ticket: self.ticket(answer),
            run: run.clone(),
            idempotency_key: key,
            spec_yaml: spec_yaml.clone(),
            settings,
            by,
        };
        self.step(event).await;
        // If the core already knew the key, it did not use this name.
        if self.core.holds(&run) {
            let journal = Journal::fresh(&self.storage, proto::key::journal(&run), self.patience);
            let (feed, submitted_ms) = (Feed::new(0), feed::now_ms());
            let spec = Arc::new(spec);
            let begun = Run { journal: Some(journal), feed, spec, submitted_ms };
            self.runs.insert(run.clone(), begun);
            self.enqueue(Work::Task(run, Task::Spec(spec_yaml))).await;
        }
    }

    /// A name that no run of this coordinator has. Two runs submitted within the same second can draw the same name.
    fn fresh_name(&self, spec: &Spec) -> RunId {
        loop {
            let run = naming::fresh(spec);
            if self.core.status(&run).is_none() {
                return run;
            }
        }
    }

    /// Answers with a run's notices, from memory until the run has ended and from storage afterwards.
    fn watch(
        &self,
        run: RunId,
        after_ms: u64,
        answer: oneshot::Sender<Result<Option<Watch>, String>>,
    ) {
        if let Some(live) = self.runs.get(&run) {
            // The caller may be gone.
            let _ = answer.send(Ok(Some(live.feed.watch(after_ms))));
            return;
        }
        let Some(ended) = self.ended.get(&run) else {
            let unreadable = self.core.status(&run).map(|status| status.detail);
            let _ = answer.send(unreadable.map_or(Ok(None), Err));
            return;
        };
        let (storage, last, works) = (self.storage.clone(), ended.last.clone(), self.works.clone());
        tokio::spawn(async move {
            // The last notices may not be stored yet.
            let (sender, settled) = oneshot::channel();
            let asked = works.send(Work::Settled(Some(run.clone()), sender)).await;
            if asked.is_ok() {
                // After a timeout, answer with the notices that are stored by then.
                let _ = tokio::time::timeout(STORED_WITHIN, settled).await;
            }
            let mut past = feed::stored(&storage, &run).await.unwrap_or_else(|error| {
                let error = proto::error::chain(&error);
                tracing::warn!(%run, error, "the notices of a run cannot be read");
                Vec::new()
            });
            if let Some(last) = last
                && past.last().is_none_or(|stored| stored.notice != last.notice)
            {
                past.push(last);
            }
            // The end is always sent: a watcher that has seen it does not ask again.
            let end = past.pop();
            // Notices that an older version has stored have the time 0.
            past.retain(|stamped| after_ms == 0 || stamped.at_ms > after_ms);
            past.extend(end);
            let _ = answer.send(Ok(Some(Watch::ended(past))));
        });
    }

    fn overview(&self) -> Overview {
        let waiting = self.writing.as_ref().and_then(|writing| writing.waiting(SLOW));
        let submitted = |run: &RunId| {
            let live = self.runs.get(run).map(|run| run.submitted_ms);
            live.or_else(|| self.ended.get(run).map(|run| run.submitted_ms)).unwrap_or(0)
        };
        let seen = |mut status: crate::core::Status| {
            if let Some(waiting) = waiting.as_ref().filter(|_| self.core.holds(&status.run)) {
                status.detail.clone_from(waiting);
            }
            Seen { submitted_ms: submitted(&status.run), status }
        };
        Overview {
            runs: self.core.statuses().into_iter().map(seen).collect(),
            workers: self.core.worker_statuses(),
            now: self.now(),
            began_ms: self.began_ms,
            losses: self.core.losses().clone(),
            storage_wait: self.writing.as_ref().map_or(Duration::ZERO, Writing::elapsed),
        }
    }

    /// Notifies watchers that the store does not answer.
    fn report_waiting(&mut self) {
        let Some(writing) = &mut self.writing else { return };
        let Some(detail) = writing.report() else { return };
        for (id, run) in &mut self.runs {
            if self.core.holds(id) {
                // It is stored together with later notices.
                run.feed.publish(Notice::Waiting { detail: detail.clone() });
            }
        }
    }

    /// The spec of a run; `None` if the run is gone, in which case its commands can be dropped.
    fn spec(&self, run: &RunId) -> Option<Arc<Spec>> {
        self.runs.get(run).map(|run| run.spec.clone())
    }

    /// Hands work in storage to the background task, which does a run's work one piece at a time.
    async fn enqueue(&self, work: Work) {
        // The task receives at once, and ends only with this coordinator.
        let _ = self.works.send(work).await;
    }

    /// Spawns long work; its outcome comes back as an event.
    fn spawn(&self, work: impl Future<Output = Event> + Send + 'static) {
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let event = work.await;
            // The coordinator may have stopped meanwhile.
            let _ = handle.event(event).await;
        });
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn written(writing: &mut Option<Writing>) -> Done {
    match writing {
        Some(writing) => writing.done().await,
        None => std::future::pending().await,
    }
}

/// An epoch that rises with time, so that a later claim of a run has a higher epoch than an earlier one.
fn epoch_of_now() -> Epoch {
    Epoch(feed::now_ms().max(1))
}
