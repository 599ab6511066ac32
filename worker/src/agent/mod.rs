//! The async side of a worker: the stream to the coordinator, beats and uploads. It starts and aborts the training
//! thread.
//!
//! ```text
//! coordinator <--gRPC--> agent --commands of the session--> loader, preparer, training thread, uploads
//!                          ^-------------- events ---------------------------------'
//! ```
//!
//! All decisions are the session's. Beats come from here, never from the computing thread, so that a long step is not
//! mistaken for a dead worker.

mod connect;
pub mod upload;

use crate::collective::{AbortHandle, Listener};
use crate::controls::{Controls, Gauge, Gauges, ThreadReport};
use crate::device::cuda;
use crate::job::{Job, Restorable};
use crate::kernels::Kernels;
use crate::prepare;
use crate::replica::Room;
use crate::run::{self, Broken, Outside};
use crate::session::{Command, End, Event, Exit, Identity, Session, Trouble};
use connect::Connection;
pub(crate) use connect::pause;
use proto::id::{RunId, WorkerId};
use proto::print;
use proto::protocol::{Cause, Directive, Duty, Place, Report, Train};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use upload::Leaving;
use wire::credentials::Credentials;

/// Number of reports that can be queued for the network.
const REPORTS: usize = 1024;
/// Number of the session's reports that are queued at once. Room for as many others stays free in the queue: those
/// are lost if the queue is full, since the session does not keep them.
const BATCH: usize = 256;
/// Number of events that can be queued for the session. When the queue is full, the training thread blocks.
const EVENTS: usize = 64;
/// How long a worker may take to leave after it was asked to terminate, unless it is started with another time.
pub const GRACE: Duration = Duration::from_secs(20);
/// How long sending the last reports may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A worker process.
pub struct Agent {
    slot: WorkerId,
    coordinator: String,
    credentials: Credentials,
    kernels: Arc<dyn Kernels>,
    session: Session,
    listener: Arc<Listener>,
    gauges: Arc<Gauges>,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    stream: Option<mpsc::Sender<wire::Report>>,
    beat: Duration,
    grace: Duration,
    memory: Arc<Mutex<Option<Arc<Job>>>>,
    training: Option<(Place, Controls)>,
    /// The run whose data this worker prepares, once it has checked that it can reach the sources.
    preparing: Option<RunId>,
    room: Room,
    leaving: watch::Sender<Option<Instant>>,
    moved: watch::Sender<String>,
}

impl Agent {
    /// A worker that will connect to `coordinator` (`https://host:port`), and compute with `kernels`.
    pub fn new(
        (coordinator, credentials): (String, Credentials),
        identity: Identity,
        listener: Listener,
        kernels: Arc<dyn Kernels>,
    ) -> Self {
        let (events, inbox) = mpsc::channel(EVENTS);
        Self {
            slot: identity.worker.clone(),
            coordinator,
            credentials,
            kernels,
            session: Session::new(identity),
            listener: Arc::new(listener),
            gauges: Arc::default(),
            events,
            inbox,
            stream: None,
            beat: Duration::from_millis(500),
            grace: GRACE,
            memory: Arc::default(),
            training: None,
            preparing: None,
            room: Room::default(),
            leaving: watch::Sender::new(None),
            moved: watch::Sender::new(String::new()),
        }
    }

    /// Sets how long it may take to leave after it was asked to terminate.
    #[must_use]
    pub fn with_grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// Reports the URL of each coordinator that replaces the previous one.
    pub fn moved(&self) -> watch::Receiver<String> {
        self.moved.subscribe()
    }

    /// Works until the coordinator dismisses or refuses this worker, or until it has stopped gracefully after
    /// `terminate` resolved.
    ///
    /// # Errors
    /// The error after which this process can no longer use its device.
    pub async fn work(
        mut self,
        terminate: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Exit, cuda::Error> {
        tokio::spawn({
            let (events, leaving) = (self.events.clone(), self.leaving.clone());
            let grace = self.grace;
            async move {
                terminate.await;
                leaving.send_replace(Some(Instant::now() + grace));
                // The agent may have ended meanwhile.
                let _ = events.send(Event::Terminate { deadline: grace }).await;
            }
        });
        // The drain has not ended by its deadline. The extra time lets uploads that were given up abort in the store.
        let mut overdue =
            std::pin::pin!(upload::after_deadline(self.leaving.subscribe(), FLUSH_TIMEOUT));
        let (connected, mut connections) = mpsc::channel(1);
        let connection = Connection {
            slot: self.slot.clone(),
            coordinator: self.coordinator.clone(),
            credentials: self.credentials.clone(),
            connected,
            events: self.events.clone(),
            moved: self.moved.clone(),
        };
        tokio::spawn(connection.keep_open());
        let mut beats = tokio::time::interval(self.beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                Some(event) = self.inbox.recv() => event,
                Some(stream) = connections.recv() => {
                    self.stream = Some(stream);
                    Event::Connected
                }
                () = room(self.stream.as_ref()), if self.session.has_more() => {
                    self.fill();
                    continue;
                }
                () = &mut overdue => return Ok(Exit::Drained),
                _ = beats.tick() => {
                    self.send(beat(&self.gauges));
                    continue;
                }
            };
            if matches!(event, Event::Disconnected) {
                self.stream = None;
            }
            self.log(&event);
            let used_device = matches!(event, Event::Ended(..) | Event::Loaded { .. });
            let before = self.beat;
            let commands = self.session.handle(event);
            self.fill();
            for command in commands {
                if let Some(exit) = self.execute(command).await {
                    return Ok(exit);
                }
            }
            if let Some(error) = self.kernels.device().lost().filter(|_| used_device) {
                // If this times out, the supervisor's report of this process's end must do.
                let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.finish()).await;
                return Err(error);
            }
            if self.beat != before {
                beats = tokio::time::interval(self.beat);
                beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            }
        }
    }

    async fn execute(&mut self, command: Command) -> Option<Exit> {
        match command {
            Command::Send(report) => self.send(report),
            Command::Beat(interval) => self.beat = interval,
            Command::Prepare { run, spec_yaml, fingerprint, shard } => {
                let first = self.preparing.replace(run.clone()).as_ref() != Some(&run);
                if first {
                    tracing::info!(slot = %self.slot, %run, "preparing data");
                }
                let events = self.events.clone();
                tokio::spawn(async move {
                    let index = shard.index;
                    let checked =
                        if first { prepare::check_sources(&spec_yaml).await } else { Ok(()) };
                    let outcome = match checked {
                        Ok(()) => prepare::prepare(&spec_yaml, &fingerprint, shard).await,
                        Err(trouble) => Err(trouble),
                    };
                    // The agent may have ended meanwhile.
                    let _ = events.send(Event::Prepared { run, shard: index, outcome }).await;
                });
            }
            Command::Load(load) => {
                tracing::info!(slot = %self.slot, run = %load.run, "loading the base and the data");
                self.preparing = None;
                let run = Some(load.run.to_string());
                print::move_to(|place| *place = print::Place { run, ..print::Place::default() });
                let (memory, events) = (self.memory.clone(), self.events.clone());
                let kernels = self.kernels.clone();
                // Frees the memory of the previous run first.
                *memory.lock().expect("held only to swap") = None;
                tokio::spawn(async move {
                    let outcome = Job::load(load.clone(), kernels).await.map(|job| {
                        let digest = job.base_digest().to_owned();
                        *memory.lock().expect("held only to swap") = Some(Arc::new(job));
                        digest
                    });
                    // The agent may have ended meanwhile.
                    let _ = events.send(Event::Loaded { load, outcome }).await;
                });
            }
            Command::Train(train) => self.train(train),
            Command::Stop => {
                if let Some((_, training)) = &self.training {
                    training.stop.store(true, Ordering::Relaxed);
                }
            }
            Command::Abort => {
                if let Some((_, training)) = &self.training {
                    training.abort.abort();
                }
            }
            Command::Exit(exit) => {
                // If this times out, no coordinator is there to receive the reports.
                let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.finish()).await;
                return Some(exit);
            }
        }
        None
    }

    fn send(&self, report: Report) {
        if let Some(stream) = &self.stream {
            // A full queue means that the network has stalled; the stream will break.
            let _ = stream.try_send(report.into());
        }
    }

    /// Queues a batch of the session's reports for the stream, if the queue has room.
    fn fill(&mut self) {
        let Some(stream) = &self.stream else { return };
        let Ok(batch) = stream.try_reserve_many(2 * BATCH) else { return };
        for permit in batch.take(BATCH) {
            let Some(report) = self.session.next_report() else { return };
            permit.send(report.into());
        }
    }

    /// Sends the session's remaining reports, and waits until the network has taken all of them.
    async fn finish(&mut self) {
        while self.session.has_more() {
            room(self.stream.as_ref()).await;
            self.fill();
        }
        if let Some(stream) = self.stream.take() {
            // If the stream has broken, nothing more can be sent.
            let _ = stream.reserve_many(stream.max_capacity()).await;
        }
    }

    /// Logs what happens to this worker.
    fn log(&mut self, event: &Event) {
        let slot = &self.slot;
        match event {
            Event::Terminate { deadline } => {
                tracing::info!(%slot, ?deadline, "asked to terminate");
            }
            Event::Directed(Directive { duty: Duty::Dismissed { reason, .. }, .. }) => {
                tracing::info!(%slot, reason, "dismissed");
            }
            Event::Prepared { run, shard, outcome: Err(trouble) } => {
                let why = &trouble.message;
                tracing::warn!(%slot, %run, shard, why, "cannot prepare data");
                self.preparing = None;
            }
            Event::Loaded { load, outcome: Err(trouble) } => {
                let (run, why) = (&load.run, &trouble.message);
                tracing::warn!(%slot, %run, why, "cannot load the base and the data");
            }
            Event::Ended(generation, end) => {
                let why = match end {
                    End::Stopped { step } => format!("it stopped after step {step}"),
                    End::Aborted => "it was aborted".to_owned(),
                    End::Failed { step, trouble } => {
                        format!("it failed after step {step}: {}", trouble.message)
                    }
                };
                let run = self.training.as_ref().map(|(place, _)| place.run.as_str());
                tracing::info!(%slot, run, %generation, why, "left the membership");
                print::move_to(|place| (place.generation, place.rank) = (None, None));
            }
            Event::Stepped(_, done) => print::move_to(|place| place.step = Some(done.step + 1)),
            Event::Connected
            | Event::Disconnected
            | Event::Directed(_)
            | Event::Prepared { .. }
            | Event::Loaded { .. }
            | Event::Skipped(..)
            | Event::Evaluated(..)
            | Event::PartBegun(..)
            | Event::PartSaved(..) => {}
        }
    }

    fn train(&mut self, train: Train) {
        print::move_to(|place| {
            let (run, generation) = (train.load.run.to_string(), train.generation.0);
            let (rank, step) = (Some(train.rank), None);
            *place = print::Place { run: Some(run), generation: Some(generation), rank, step };
        });
        tracing::info!(
            slot = %self.slot,
            run = %train.load.run,
            generation = %train.generation,
            rank = train.rank,
            of = train.members.len(),
            "training"
        );
        let job = self
            .memory
            .lock()
            .expect("held only to swap")
            .clone()
            .expect("the session trains only what it has loaded");
        let controls = Controls {
            abort: AbortHandle::new(),
            stop: Arc::new(AtomicBool::new(train.stop)),
            gauges: self.gauges.clone(),
            room: self.room.clone(),
        };
        self.training = Some((train.place(), controls.clone()));
        let (events, listener) = (self.events.clone(), self.listener.clone());
        let trusts_network = self.credentials.trust_network();
        let (runtime, leaving) = (tokio::runtime::Handle::current(), self.leaving.subscribe());
        let begin = async move {
            let from = match job.restorable(&train).await {
                Ok(from) => from,
                Err(trouble) => {
                    let end = End::Failed { step: 0, trouble };
                    let _ = events.send(Event::Ended(train.generation, end)).await;
                    return;
                }
            };
            let spawned = std::thread::Builder::new().name("train".into()).spawn({
                let events = events.clone();
                let train = train.clone();
                move || {
                    let listener = &*listener;
                    let process = Process { listener, trusts_network, leaving, events, runtime };
                    training_thread(&train, &job, from, &controls, &process);
                }
            });
            if let Err(error) = spawned {
                let message = format!("the training thread cannot be started: {error}");
                let trouble = Trouble::new(Cause::Internal, message);
                let end = End::Failed { step: 0, trouble };
                let _ = events.send(Event::Ended(train.generation, end)).await;
            }
        };
        tokio::spawn(begin);
    }
}

/// The parts of the process that a training thread uses.
struct Process<'a> {
    listener: &'a Listener,
    trusts_network: bool,
    leaving: Leaving,
    events: mpsc::Sender<Event>,
    runtime: tokio::runtime::Handle,
}

fn training_thread(
    train: &Train,
    job: &Arc<Job>,
    from: Option<Restorable>,
    controls: &Controls,
    process: &Process<'_>,
) {
    let Process { listener, trusts_network, leaving, events, runtime } = process;
    let place = train.place();
    let mut report = |report| {
        let event = match report {
            ThreadReport::Stepped(done) => Event::Stepped(place.clone(), done),
            ThreadReport::Skipped(skipped) => Event::Skipped(place.clone(), skipped),
            ThreadReport::Evaluated(step, sums) => Event::Evaluated(place.clone(), step, sums),
            ThreadReport::Snapshot(snapshot) => {
                let (storage, place) = (job.storage().clone(), place.clone());
                let (events, leaving) = (events.clone(), leaving.clone());
                let patience = job.storage_patience();
                let begun = Event::PartBegun(place.clone(), snapshot.step);
                // The agent may have ended meanwhile.
                let _ = events.blocking_send(begun);
                // The upload outlives this membership: a checkpoint belongs to its lineage and step.
                runtime.spawn(async move {
                    let step = snapshot.step;
                    let stored = upload::store(&storage, &place, snapshot, patience);
                    let outcome = upload::before_deadline(stored, leaving).await;
                    // The agent may have ended meanwhile.
                    let _ = events.send(Event::PartSaved(place, step, outcome)).await;
                });
                return;
            }
        };
        // The agent may have ended meanwhile.
        let _ = events.blocking_send(event);
    };
    let trusts_network = *trusts_network;
    let outside = Outside { listener, controls, report: &mut report, trusts_network };
    let attempt = std::panic::AssertUnwindSafe(|| run::run(train, job, from, outside));
    let end = match std::panic::catch_unwind(attempt) {
        Ok(Ok(step)) => End::Stopped { step },
        Ok(Err(Broken::Aborted)) => End::Aborted,
        Ok(Err(Broken::Failed(step, trouble))) => End::Failed { step, trouble },
        Err(_) => {
            let message = "the training thread panicked; the log says where";
            End::Failed { step: 0, trouble: Trouble::new(Cause::Internal, message) }
        }
    };
    let _ = events.blocking_send(Event::Ended(train.generation, end));
}

/// Resolves when the stream's queue has room for a batch; never, if the stream is broken or missing.
async fn room(stream: Option<&mpsc::Sender<wire::Report>>) {
    let reserved = match stream {
        Some(stream) => stream.reserve_many(2 * BATCH).await.is_ok(),
        None => false,
    };
    if !reserved {
        std::future::pending().await
    }
}

fn beat(gauges: &Gauges) -> Report {
    let Gauge { step, phase, collective } = gauges.read();
    Report::Beat { step, phase, collective }
}
