//! Owns the core, the clock and the queue; executes commands in order.
//!
//! ```text
//! inputs --> core --> outbox --> executed in order, but never waited for: while a journal entry is being written
//!              ^                 the commands behind it wait, and inputs are still taken in and answered
//!              '---- events of long work (listing, planning, storing manifests), which runs beside
//! ```
//!
//! A command behind a journal entry is begun only when the entry is durable. A store that is away holds up these
//! commands and nobody else: leases go on, questions are answered from memory, and the answers say what is waited for.
//!
//! ```text
//! claims     taking the pool and its runs          execute   commands, one after another
//! attempts   a run that is begun again             works     long work beside the queue
//! journal    history on object storage             feed      what watchers are told, kept as metrics
//! handle     the queue, from outside               dial      whether peers reach a worker
//! naming     what a run is called                  log       what is logged of what happens
//! ```

mod attempts;
mod claims;
mod dial;
mod execute;
pub mod feed;
pub mod handle;
pub mod journal;
mod log;
mod naming;
mod works;

pub use claims::Vacancy;

use crate::core::{Command, Core, Event, Goal, Notice, Settings, Stream, Ticket, Timing};
use crate::data::planning;
use crate::takeover::holder;
use execute::{Done, Writing};
use feed::{Feed, Stamped, Watch};
use handle::{Beats, Handle, Input, Overview, Seen};
use journal::Journal;
use proto::event::Holder;
use proto::id::{self, Epoch, RunId};
use proto::protocol::Directive;
use proto::spec::{EvalOn, Source, Spec};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use storage::Storage;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use works::{Task, Work};

/// Inputs that can wait for the core.
const QUEUE: usize = 1024;
/// Commands that can wait for a journal entry. Of what workers report most follows nothing that has to wait, so that
/// this many are reached only by an outage of days; then no more is taken in until the store is back.
const OUTBOX: usize = 100_000;
/// How long whoever watches a run that has ended waits for the last of what was said to be stored.
const STORED_WITHIN: Duration = Duration::from_secs(6);
/// An entry that takes longer than this to write is told to whoever watches or asks.
const SLOW: Duration = Duration::from_secs(2);

/// Why a coordinator cannot start, or must stop.
#[derive(Debug, Error)]
pub enum Error {
    /// A journal cannot be read or written, or belongs to another now.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The store refused or broke.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A stored spec is not one.
    #[error("the spec of run `{run}` cannot be read back: {reason}")]
    Spec {
        /// The run.
        run: RunId,
        /// Why.
        reason: String,
    },
    /// Another coordinator answers for the pool.
    #[error(transparent)]
    Held(#[from] holder::Held),
    /// Another coordinator has taken this one's pool over.
    #[error("this coordinator has ended, its workers go over to the one in its place")]
    Replaced(#[source] journal::Error),
}

/// A run that has not ended, or whose end is not yet said.
struct Run {
    /// Away while an entry of it is being written.
    journal: Option<Journal>,
    feed: Feed,
    spec: Arc<Spec>,
    submitted_ms: u64,
}

/// What stays in memory of a run that has ended.
struct Ended {
    submitted_ms: u64,
    /// The last thing that was said about it; none of a run whose journal cannot be read.
    last: Option<Arc<Stamped>>,
}

/// A coordinator that is not yet running, or is.
pub struct Runtime {
    core: Core,
    /// Everything that belongs to a run.
    storage: Storage,
    /// Prepared data sets, which runs share.
    prepared: Storage,
    /// Away while an entry of it is being written.
    pool: Option<Journal>,
    is_pool: bool,
    /// Of every run.
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
    /// How often a worker beats, and who has.
    beat: Duration,
    beats: Beats,
    /// How long the store may be away before this coordinator gives up.
    patience: Duration,
    /// None before it runs: however long it takes to read what it takes over, that is no time that passes for workers.
    began: Option<Instant>,
    began_ms: u64,
}

impl Runtime {
    /// A coordinator of its own runs only, without a pool: what `coordinator run` embeds. It ends once the store has
    /// been away for longer than its `patience`.
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

    /// A coordinator whose runs end with their plan and leave nothing in `output` but the prepared data set: for
    /// looking before running.
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
        let (place, told) = (storage.clone(), handle.clone());
        tokio::spawn(works::work(works::Worker { storage: place, handle: told, patience }, inbox));
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
    /// [`Error::Replaced`] when another coordinator has taken over, [`Error::Journal`] when storage has been away for
    /// longer than this coordinator's patience.
    pub async fn run(mut self) -> Result<(), Error> {
        let began = *self.began.insert(Instant::now());
        let mut looks = tokio::time::interval(claims::LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                () = at(deadline) => Input::Core(Event::Tick),
                () = at(slow) => {
                    self.say_waiting();
                    continue;
                }
                _ = looks.tick() => {
                    self.look();
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
                event
            }
            Input::Attach { stream, directives } => {
                self.streams.insert(stream, directives);
                return Ok(());
            }
            Input::Submit { spec, key, answer } => {
                self.submit(*spec, key, answer).await;
                return Ok(());
            }
            Input::Resume { run, spec_yaml, answer } => {
                self.look_up(run, spec_yaml, answer);
                return Ok(());
            }
            Input::Found { found, answer } => {
                self.begin_attempt(*found, answer).await;
                return Ok(());
            }
            Input::Cancel { run, answer } => Event::Cancel { ticket: self.ticket(answer), run },
            Input::Watch { run, after_ms, answer } => {
                self.watch(run, after_ms, answer);
                return Ok(());
            }
            Input::Status { answer } => {
                // Whoever asked may be gone.
                let _ = answer.send(self.overview());
                return Ok(());
            }
            Input::Holds { run, answer } => {
                self.ask_journal(run, Some(answer));
                return Ok(());
            }
            Input::Looked { run, found, answer } => {
                let holds = self.looked(run, found).await?;
                let token = self.core.holder().filter(|_| holds).map(|h| h.token.clone());
                if let Some(answer) = answer {
                    // Whoever asked may be gone.
                    let _ = answer.send(token);
                }
                return Ok(());
            }
            Input::Settled { answer } => {
                self.in_turn(Work::Settled(None, answer)).await;
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
                // Steps are what training says all the time, and nothing waits for them nor they for anything.
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
        spec: Spec,
        key: String,
        answer: oneshot::Sender<Result<RunId, String>>,
    ) {
        let settings = settings(&spec, self.goal);
        let known = self.core.known(&key, &settings.identity);
        if let Err(refusal) = known {
            // Whoever asked may be gone.
            let _ = answer.send(Err(refusal));
            return;
        }
        let spec = spec.dated(Some(chrono::Local::now().date_naive()));
        let run = self.fresh_name(&spec);
        let spec_yaml = spec.resolved_yaml();
        let event = Event::Submit {
            ticket: self.ticket(answer),
            run: run.clone(),
            idempotency_key: key,
            spec_yaml: spec_yaml.clone(),
            settings,
        };
        self.step(event).await;
        // If the key was known, the name was not needed.
        if self.core.holds(&run) {
            let journal = Journal::fresh(&self.storage, proto::key::journal(&run), self.patience);
            let (feed, submitted_ms) = (Feed::new(0), feed::now_ms());
            let spec = Arc::new(spec);
            let begun = Run { journal: Some(journal), feed, spec, submitted_ms };
            self.runs.insert(run.clone(), begun);
            self.in_turn(Work::Of(run, Task::Spec(spec_yaml))).await;
        }
    }

    /// A name that no run of this coordinator has: of many that are submitted within a second two can draw the same.
    fn fresh_name(&self, spec: &Spec) -> RunId {
        loop {
            let run = naming::fresh(spec);
            if self.core.status(&run).is_none() {
                return run;
            }
        }
    }

    /// Answers with what was said about a run, from memory while it goes on, else from what is stored.
    fn watch(
        &self,
        run: RunId,
        after_ms: u64,
        answer: oneshot::Sender<Result<Option<Watch>, String>>,
    ) {
        if let Some(live) = self.runs.get(&run) {
            // Whoever asked may be gone.
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
            // What was said last may still be on its way into the store.
            let (told, settled) = oneshot::channel();
            let asked = works.send(Work::Settled(Some(run.clone()), told)).await;
            if asked.is_ok() {
                // What is there by then has to do.
                let _ = tokio::time::timeout(STORED_WITHIN, settled).await;
            }
            let mut past = feed::stored(&storage, &run).await.unwrap_or_else(|error| {
                let error = proto::error::chain(&error);
                tracing::warn!(%run, error, "what was said about a run cannot be read");
                Vec::new()
            });
            if let Some(last) = last
                && past.last().is_none_or(|stored| stored.notice != last.notice)
            {
                past.push(last);
            }
            // The end is always told: nobody who has seen it asks again.
            let end = past.pop();
            // What an older version has stored has no time.
            past.retain(|stamped| after_ms == 0 || stamped.at_ms > after_ms);
            past.extend(end);
            let _ = answer.send(Ok(Some(Watch::over(past))));
        });
    }

    /// How everything is doing.
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
        }
    }

    /// Tells whoever watches that the store does not answer.
    fn say_waiting(&mut self) {
        let Some(writing) = &mut self.writing else { return };
        let Some(detail) = writing.told() else { return };
        for (id, run) in &mut self.runs {
            if self.core.holds(id) {
                // It is stored with what follows.
                run.feed.say(Notice::Waiting { detail: detail.clone() });
            }
        }
    }

    /// None where the run is gone by now: its commands then mean nothing any more.
    fn spec(&self, run: &RunId) -> Option<Arc<Spec>> {
        self.runs.get(run).map(|run| run.spec.clone())
    }

    /// Does work on a run's folder beside the queue, after all such work before it.
    async fn in_turn(&self, work: Work) {
        // Whoever does it takes it in at once, and ends with this coordinator only.
        let _ = self.works.send(work).await;
    }

    /// Runs long work beside the queue; its outcome comes back as an event.
    fn beside(&self, work: impl Future<Output = Event> + Send + 'static) {
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let event = work.await;
            // The coordinator may have stopped meanwhile.
            let _ = handle.event(event).await;
        });
    }
}

async fn at(time: Option<Instant>) {
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

/// Rises with time, so that a later claim of the same run stands above an earlier one's.
fn epoch_of_now() -> Epoch {
    Epoch(feed::now_ms().max(1))
}

fn settings(spec: &Spec, goal: Goal) -> Settings {
    let eval = &spec.data().eval;
    let names = |sources: &[Source]| sources.iter().map(|s| s.location.to_string()).collect();
    Settings {
        name: spec.name().to_owned(),
        identity: spec.identity(),
        goal,
        min_workers: spec.workers().min as usize,
        max_workers: spec.workers().max as usize,
        keep: spec.checkpoint().keep as usize,
        evaluates: !matches!(eval.on, EvalOn::Nothing),
        evaluate_at_start: eval.at_start,
        trained: names(&spec.data().train),
        evaluated: names(planning::held_out_sources(spec)),
    }
}
