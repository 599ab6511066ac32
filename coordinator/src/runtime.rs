//! Owns the core, the clock and the queue; executes commands in order.
//!
//! Journal entries are awaited: a command behind one is begun only when it is durable. Long work (listing, planning,
//! storing manifests) runs beside and comes back as an event.

mod claims;

pub use claims::Vacancy;

use crate::core::{Command, Core, Event, Goal, Notice, Settings, Stream, Ticket, Timing};
use crate::feed::Feed;
use crate::handle::{Handle, Input};
use crate::journal::{self, Journal};
use crate::{finish, holder, naming, planning, survey};
use futures::FutureExt;
use futures::future::BoxFuture;
use proto::event::{Event as History, Holder};
use proto::id::{self, Epoch, RunId};
use proto::protocol::Directive;
use proto::spec::{EvalOn, Source, Spec};
use proto::storage::{self, Storage};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

/// Inputs that can wait for the core.
const QUEUE: usize = 1024;

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

struct Run {
    journal: Journal,
    feed: Feed,
    spec: Arc<Spec>,
}

/// A coordinator that is not yet running, or is.
pub struct Runtime {
    core: Core,
    /// Everything that belongs to a run.
    storage: Storage,
    /// Prepared data sets, which runs share.
    prepared: Storage,
    pool: Option<Journal>,
    /// Of every run.
    goal: Goal,
    runs: BTreeMap<RunId, Run>,
    streams: BTreeMap<Stream, mpsc::Sender<Directive>>,
    answers: BTreeMap<u64, oneshot::Sender<Result<RunId, String>>>,
    tickets: u64,
    inputs: mpsc::Receiver<Input>,
    handle: Handle,
    works: mpsc::UnboundedSender<BoxFuture<'static, ()>>,
    began: Instant,
}

impl Runtime {
    /// A coordinator of its own runs only, without a pool: what `coordinator run` embeds.
    pub fn alone(storage: Storage, timing: Timing, holder: Holder) -> (Self, Handle) {
        let (runtime, handle) = Self::new(storage.clone(), storage, timing, epoch_of_now(), None);
        (runtime.known_as(holder), handle)
    }

    /// A coordinator whose runs end with their plan and leave nothing in `output` but the prepared data set: for
    /// looking before running.
    pub fn preview(scratch: Storage, output: Storage, timing: Timing) -> (Self, Handle) {
        let (runtime, handle) = Self::new(scratch, output, timing, epoch_of_now(), None);
        (Self { goal: Goal::Plan, ..runtime }, handle)
    }

    fn new(
        storage: Storage,
        prepared: Storage,
        timing: Timing,
        epoch: Epoch,
        pool: Option<Journal>,
    ) -> (Self, Handle) {
        let (sender, inputs) = mpsc::channel(QUEUE);
        let handle = Handle::new(sender);
        let secret = format!("{}{}", id::unique(), id::unique());
        let (works, in_turn) = mpsc::unbounded_channel();
        tokio::spawn(one_by_one(in_turn));
        let runtime = Self {
            core: Core::new(timing, epoch, proto::manifest::sha256_bytes(secret.as_bytes())),
            storage,
            prepared,
            pool,
            goal: Goal::Model,
            runs: BTreeMap::new(),
            streams: BTreeMap::new(),
            answers: BTreeMap::new(),
            tickets: 0,
            inputs,
            handle: handle.clone(),
            works,
            began: Instant::now(),
        };
        (runtime, handle)
    }

    fn known_as(self, holder: Holder) -> Self {
        Self { core: self.core.known_as(holder), ..self }
    }

    fn now(&self) -> std::time::Duration {
        self.began.elapsed()
    }

    /// Runs until every handle is dropped or the pool is lost.
    ///
    /// # Errors
    /// [`Error::Replaced`] when another coordinator has taken over, [`Error::Journal`] when storage is gone.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut looks = tokio::time::interval(claims::LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.core.next_deadline().map(|d| self.began + d);
            let tick = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let input = tokio::select! {
                biased;
                input = self.inputs.recv() => match input {
                    Some(input) => input,
                    None => return Ok(()),
                },
                () = tick => Input::Core(Event::Tick),
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
                event
            }
            Input::Attach { stream, directives } => {
                self.streams.insert(stream, directives);
                return Ok(());
            }
            Input::Submit { spec, key, answer } => return self.submit(*spec, key, answer).await,
            Input::Cancel { run, answer } => Event::Cancel { ticket: self.ticket(answer), run },
            Input::Watch { run, answer } => {
                let _ = answer.send(self.runs.get(&run).map(|r| r.feed.watch()));
                return Ok(());
            }
            Input::Status { answer } => {
                let _ = answer.send(self.core.statuses());
                return Ok(());
            }
            Input::Holds { run, answer } => {
                let holds = self.holds(run).await?;
                let token = self.core.holder().filter(|_| holds).map(|h| h.token.clone());
                let _ = answer.send(token);
                return Ok(());
            }
            Input::Settled { answer } => {
                self.in_turn(async move {
                    // Who asked may not have had the patience.
                    let _ = answer.send(());
                });
                return Ok(());
            }
        };
        self.step(event).await
    }

    async fn step(&mut self, event: Event) -> Result<(), Error> {
        let now = self.now();
        let commands = self.core.handle(now, event);
        self.execute(commands).await
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
    ) -> Result<(), Error> {
        if let Err(refusal) = self.check_output(&spec) {
            // Whoever asked may be gone.
            let _ = answer.send(Err(refusal));
            return Ok(());
        }
        let spec = spec.dated(Some(chrono::Local::now().date_naive()));
        let run = naming::fresh(&spec);
        let spec_yaml = spec.resolved_yaml();
        let (journal, _) =
            Journal::open::<History>(&self.storage, proto::key::journal(&run)).await?;
        let feed = Feed::new(run.clone(), 0);
        let event = Event::Submit {
            ticket: self.ticket(answer),
            run: run.clone(),
            idempotency_key: key,
            spec_yaml: spec_yaml.clone(),
            settings: settings(&spec, self.goal),
        };
        self.runs.insert(run.clone(), Run { journal, feed, spec: Arc::new(spec) });
        self.step(event).await?;
        // The key was known: the name was not needed.
        if self.core.status(&run).is_none() {
            self.runs.remove(&run);
        } else {
            self.storage.put(&proto::key::resolved_spec(&run), spec_yaml).await?;
        }
        Ok(())
    }

    /// Workers take the output from the spec: a run whose spec names another would be split between two.
    fn check_output(&self, spec: &Spec) -> Result<(), String> {
        let own = self.prepared.url();
        let wanted = spec.output().to_string();
        if storage::url(&wanted).is_ok_and(|wanted| wanted == own) {
            return Ok(());
        }
        let path = own.strip_prefix("file://").unwrap_or(own);
        Err(format!(
            "output: this coordinator keeps everything under `{path}`, not `{wanted}`\n\
             hint: write `output: {path}`"
        ))
    }

    async fn execute(&mut self, commands: Vec<Command>) -> Result<(), Error> {
        let mut commands = VecDeque::from(commands);
        while let Some(command) = commands.pop_front() {
            match command {
                Command::Journal { run: id, events } => {
                    let run = self.runs.get_mut(&id).expect("the core knows only runs taken in");
                    if let Err(error) = run.journal.append(events).await {
                        self.lose(id, error, &mut commands).await?;
                    }
                }
                Command::JournalPool(event) => {
                    if let Some(pool) = &mut self.pool
                        && let Err(error) = pool.append(vec![event]).await
                    {
                        return Err(self.replaced(error));
                    }
                }
                Command::Answer { ticket, answer } => {
                    if let Some(waiting) = self.answers.remove(&ticket.0) {
                        // Whoever asked may be gone.
                        let _ = waiting.send(answer);
                    }
                }
                Command::Direct { stream, directive } => {
                    // A stream whose queue is full is not being read: its worker is told again on the next.
                    if let Some(directives) = self.streams.get(&stream)
                        && directives.try_send(directive).is_err()
                    {
                        self.streams.remove(&stream);
                    }
                }
                Command::Close { stream } => drop(self.streams.remove(&stream)),
                Command::Notify { run, notice } => self.notify(run, notice).await?,
                Command::Survey { run } => {
                    let (storage, spec) = (self.prepared.clone(), self.spec(&run));
                    self.beside(async move {
                        let outcome = survey::survey(&storage, &spec).await;
                        Event::Surveyed { run, outcome }
                    });
                }
                Command::Plan { run, fingerprint, prepared } => {
                    let storage = planning::Places {
                        run: self.storage.clone(),
                        prepared: self.prepared.clone(),
                    };
                    let spec = self.spec(&run);
                    self.beside(async move {
                        let outcome =
                            planning::plan(&storage, &run, &spec, &fingerprint, prepared).await;
                        Event::Planned { run, outcome }
                    });
                }
                Command::Receipt { run, skipped } => {
                    if let Err(error) = finish::receipt(&self.storage, &run, skipped).await {
                        // The journal has it, and the next checkpoint's receipt.
                        tracing::warn!(%run, error, "the receipt lacks what was skipped last");
                    }
                }
                Command::Seal { checkpoint, skipped } => {
                    let storage = self.storage.clone();
                    self.beside(async move {
                        let outcome = finish::seal(&storage, &checkpoint, skipped).await;
                        let proto::manifest::Checkpoint { run, lineage, step, .. } = checkpoint;
                        Event::Sealed { run, lineage, step, outcome }
                    });
                }
                Command::Publish { run, lineage, step, losses } => {
                    let (storage, handle) = (self.storage.clone(), self.handle.clone());
                    let spec = self.spec(&run);
                    self.in_turn(async move {
                        let id = run.clone();
                        let finished = finish::Finished { run: id, spec, lineage, step, losses };
                        let outcome = finish::publish(&storage, finished).await;
                        // The coordinator may have stopped meanwhile.
                        let _ = handle.event(Event::Published { run, outcome }).await;
                    });
                }
                Command::Discard { run, lineage, step } => {
                    let storage = self.storage.clone();
                    self.in_turn(async move {
                        if let Err(error) = finish::delete(&storage, &run, (lineage, step)).await {
                            tracing::warn!(%run, %error, "a checkpoint that was given up stays behind");
                        }
                    });
                }
                Command::Retain { run, retained } => {
                    let storage = self.storage.clone();
                    self.in_turn(async move {
                        if let Err(error) = finish::retain(&storage, &run, &retained).await {
                            tracing::warn!(%run, %error, "an old checkpoint stays behind");
                        }
                    });
                }
            }
        }
        Ok(())
    }

    async fn notify(&mut self, run: RunId, notice: Notice) -> Result<(), Error> {
        let run = self.runs.get_mut(&run).expect("the core knows only runs taken in");
        if run.feed.say(notice) {
            run.feed.store(&self.storage).await?;
        }
        Ok(())
    }

    fn spec(&self, run: &RunId) -> Arc<Spec> {
        self.runs[run].spec.clone()
    }

    /// Runs work on a run's folder beside the queue, after all such work before it: what was to be kept then says
    /// nothing of what is to be kept now.
    fn in_turn(&self, work: impl Future<Output = ()> + Send + 'static) {
        // The task that takes it ends with this coordinator only.
        let _ = self.works.send(work.boxed());
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

/// Does one piece of work after the other.
async fn one_by_one(mut works: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>) {
    while let Some(work) = works.recv().await {
        work.await;
    }
}

/// Rises with time, so that a later claim of the same run stands above an earlier one's.
fn epoch_of_now() -> Epoch {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Epoch(since.unwrap_or_default().as_millis().try_into().unwrap_or(1))
}

fn settings(spec: &Spec, goal: Goal) -> Settings {
    let eval = &spec.data().eval;
    let names = |sources: &[Source]| sources.iter().map(|s| s.location.to_string()).collect();
    Settings {
        name: spec.name().to_owned(),
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
