//! The async side of a worker: the stream to the coordinator, beats, uploads; starts and aborts the training thread.
//!
//! ```text
//! coordinator <--gRPC--> agent --commands of the session--> loader, preparer, training thread, uploads
//!                          ^-------------- events ---------------------------------'
//! ```
//!
//! Nothing here decides: the session does. Beats come from here, never from the computing thread, so a long step is
//! not taken for a death.

use crate::checkpoint::Room;
use crate::collective::{AbortHandle, Listener};
use crate::job::{self, Job, Restorable};
use crate::run::{self, Broken, Controls, Gauge, Gauges, Said};
use crate::session::{Command, End, Event, Exit, Identity, Session, Trouble};
use crate::upload::{self, Leaving};
use proto::id::WorkerId;
use proto::protocol::{Cause, Directive, Duty, Report, Train};
use proto::wire::{self, workers_client::WorkersClient};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Reports that can wait for the network.
const REPORTS: usize = 1024;
/// Of them, those about the membership that are handed over at once. As much room stays free beside them for the others,
/// which the session does not keep.
const BATCH: usize = 256;
/// Events that can wait for the session. A training thread that is so far ahead waits.
const EVENTS: usize = 64;
/// The longest wait between two attempts to reach the coordinator.
const RECONNECT: Duration = Duration::from_secs(1);
/// Reasons for being without a coordinator that are remembered, so that each is said once.
const DISTINCT: usize = 16;
/// How long the last reports may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a worker that was told to go asks for.
const DRAIN: Duration = Duration::from_secs(20);

/// A worker process.
pub struct Agent {
    slot: WorkerId,
    coordinator: String,
    session: Session,
    listener: Arc<Listener>,
    gauges: Arc<Gauges>,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    stream: Option<mpsc::Sender<wire::Report>>,
    beat: Duration,
    memory: Arc<Mutex<Option<Arc<Job>>>>,
    training: Option<Controls>,
    room: Room,
    leaving: watch::Sender<Option<Instant>>,
    moved: watch::Sender<String>,
}

impl Agent {
    /// A worker that will call `coordinator` (`http://host:port`).
    pub fn new(coordinator: String, identity: Identity, listener: Listener) -> Self {
        let (events, inbox) = mpsc::channel(EVENTS);
        Self {
            slot: identity.worker.clone(),
            coordinator,
            session: Session::new(identity),
            listener: Arc::new(listener),
            gauges: Arc::default(),
            events,
            inbox,
            stream: None,
            beat: Duration::from_millis(500),
            memory: Arc::default(),
            training: None,
            room: Room::default(),
            leaving: watch::Sender::new(None),
            moved: watch::Sender::new(String::new()),
        }
    }

    /// Where the coordinator is that has the place of the one that it was told of, once there is one.
    pub fn moved(&self) -> watch::Receiver<String> {
        self.moved.subscribe()
    }

    /// Works until it is told to go; `terminate` is done when the operating system wants it gone.
    pub async fn work(mut self, terminate: impl Future<Output = ()> + Send + 'static) -> Exit {
        tokio::spawn({
            let (events, leaving) = (self.events.clone(), self.leaving.clone());
            async move {
                terminate.await;
                leaving.send_replace(Some(Instant::now() + DRAIN));
                // The agent may have ended meanwhile.
                let _ = events.send(Event::Terminate { deadline: DRAIN }).await;
            }
        });
        // Neither gone nor let go; what it gave up storing has then had the time to be given up.
        let mut overdue = std::pin::pin!(upload::late(self.leaving.subscribe(), FAREWELL));
        let (connected, mut connections) = mpsc::channel(1);
        tokio::spawn(connect(
            self.slot.clone(),
            self.coordinator.clone(),
            connected,
            self.events.clone(),
            self.moved.clone(),
        ));
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
                () = &mut overdue => return Exit::Drained,
                _ = beats.tick() => {
                    self.send(beat(&self.gauges));
                    continue;
                }
            };
            if matches!(event, Event::Disconnected) {
                self.stream = None;
            }
            let before = self.beat;
            let commands = self.session.handle(event);
            self.fill();
            for command in commands {
                if let Some(exit) = self.execute(command).await {
                    return exit;
                }
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
                let events = self.events.clone();
                tokio::spawn(async move {
                    let index = shard.index;
                    let outcome = job::prepare(&spec_yaml, &fingerprint, shard).await;
                    // The agent may have ended meanwhile.
                    let _ = events.send(Event::Prepared { run, shard: index, outcome }).await;
                });
            }
            Command::Load(load) => {
                let (memory, events) = (self.memory.clone(), self.events.clone());
                // What is no longer needed makes room first.
                *memory.lock().expect("held only to swap") = None;
                tokio::spawn(async move {
                    let outcome = Job::load(load.clone()).await.map(|job| {
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
                if let Some(training) = &self.training {
                    training.stop.store(true, Ordering::Relaxed);
                }
            }
            Command::Abort => {
                if let Some(training) = &self.training {
                    training.abort.abort();
                }
            }
            Command::Exit(exit) => {
                // Without an answer in time nobody is there to be told.
                let _ = tokio::time::timeout(FAREWELL, self.finish()).await;
                return Some(exit);
            }
        }
        None
    }

    fn send(&self, report: Report) {
        if let Some(stream) = &self.stream {
            // A full queue means a network that stands still: the stream will break.
            let _ = stream.try_send(report.into());
        }
    }

    /// Hands a batch of what the session has to say over to the stream, if it has room.
    fn fill(&mut self) {
        let Some(stream) = &self.stream else { return };
        let Ok(batch) = stream.try_reserve_many(2 * BATCH) else { return };
        for permit in batch.take(BATCH) {
            let Some(report) = self.session.next_report() else { return };
            permit.send(report.into());
        }
    }

    /// Says the last of what there is to say, and waits until it is on its way.
    async fn finish(&mut self) {
        while self.session.has_more() {
            room(self.stream.as_ref()).await;
            self.fill();
        }
        if let Some(stream) = self.stream.take() {
            // A stream that has broken is as empty as it will be.
            let _ = stream.reserve_many(stream.max_capacity()).await;
        }
    }

    fn train(&mut self, train: Train) {
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
        self.training = Some(controls.clone());
        let (events, listener) = (self.events.clone(), self.listener.clone());
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
                    let process = Process { listener: &listener, leaving, events, runtime };
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

/// What a training thread has of its process.
struct Process<'a> {
    listener: &'a Listener,
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
    let Process { listener, leaving, events, runtime } = process;
    let place = train.place();
    let mut say = |said| {
        let event = match said {
            Said::Stepped(done) => Event::Stepped(place.clone(), done),
            Said::Skipped(skipped) => Event::Skipped(place.clone(), skipped),
            Said::Evaluated(step, sums) => Event::Evaluated(place.clone(), step, sums),
            Said::Snapshot(snapshot) => {
                let (storage, place) = (job.storage().clone(), place.clone());
                let (events, leaving) = (events.clone(), leaving.clone());
                let patience = job.storage_patience();
                let begun = Event::PartBegun(place.clone(), snapshot.step);
                // The agent may have ended meanwhile.
                let _ = events.blocking_send(begun);
                // It outlives this membership: a checkpoint belongs to its lineage and step.
                runtime.spawn(async move {
                    let step = snapshot.step;
                    let stored = upload::store(&storage, &place, snapshot, patience);
                    let outcome = upload::in_time(stored, leaving).await;
                    // The agent may have ended meanwhile.
                    let _ = events.send(Event::PartSaved(place, step, outcome)).await;
                });
                return;
            }
        };
        // The agent may have ended meanwhile.
        let _ = events.blocking_send(event);
    };
    let attempt =
        std::panic::AssertUnwindSafe(|| run::run(train, job, from, listener, controls, &mut say));
    let end = match std::panic::catch_unwind(attempt) {
        Ok(Ok(step)) => End::Stopped { step },
        Ok(Err(Broken::Aborted)) => End::Aborted,
        Ok(Err(Broken::Failed(step, trouble))) => End::Failed { step, trouble },
        Err(_) => {
            let message = "the training thread panicked; its log says where";
            End::Failed { step: 0, trouble: Trouble::new(Cause::Internal, message) }
        }
    };
    let _ = events.blocking_send(Event::Ended(train.generation, end));
}

/// Done when the stream takes a batch; never, where it is broken or there is none.
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

/// Keeps a stream to the coordinator open: each new one is handed over, its directives become events. Where another
/// coordinator has its place, the stream goes there; if nobody answers at the one, the other is tried in turn.
async fn connect(
    slot: WorkerId,
    coordinator: String,
    connected: mpsc::Sender<mpsc::Sender<wire::Report>>,
    events: mpsc::Sender<Event>,
    moved: watch::Sender<String>,
) {
    let mut said = BTreeSet::new();
    let (mut here, mut there) = (coordinator.clone(), coordinator.clone());
    loop {
        match session(&here, &connected, &events).await {
            Ending::AgentGone => return,
            Ending::NotNow(reason) => {
                if is_new(&mut said, &reason) {
                    tracing::warn!(%slot, coordinator = here, reason, "not now; trying again");
                }
            }
            Ending::Moved(successor) => {
                tracing::info!(%slot, coordinator = here, successor, "going over to another coordinator");
                moved.send_replace(successor.clone());
                (here, there) = (successor, coordinator.clone());
            }
            Ending::Broken { error } => {
                let error = proto::error::chain(&*error);
                if is_new(&mut said, &error) {
                    tracing::warn!(%slot, coordinator = here, error, "no connection; trying again");
                }
                std::mem::swap(&mut here, &mut there);
            }
        }
        // Jittered, so that a whole pool does not come back in one moment.
        let jitter = u64::from_str_radix(&proto::id::unique()[..4], 16).unwrap_or(0) % 512;
        tokio::time::sleep(RECONNECT / 2 + Duration::from_millis(jitter)).await;
    }
}

/// Whether something is to be said: it has not been, of late.
fn is_new(said: &mut BTreeSet<String>, text: &str) -> bool {
    if said.len() >= DISTINCT {
        said.clear();
    }
    said.insert(text.to_owned())
}

/// How a stream ended.
enum Ending {
    /// Nobody here needs another.
    AgentGone,
    /// The coordinator does not want this worker yet, for this reason.
    NotNow(String),
    /// Another coordinator has its place: this one.
    Moved(String),
    /// By itself.
    Broken { error: Error },
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl From<Error> for Ending {
    fn from(error: Error) -> Self {
        let status = error.downcast_ref::<tonic::Status>();
        let successor = status.and_then(|s| s.metadata().get(proto::protocol::SUCCESSOR));
        match successor.and_then(|url| url.to_str().ok()) {
            Some(url) => Self::Moved(url.to_owned()),
            None => Self::Broken { error },
        }
    }
}

/// One stream, from its opening to its end.
async fn session(
    coordinator: &str,
    connected: &mpsc::Sender<mpsc::Sender<wire::Report>>,
    events: &mpsc::Sender<Event>,
) -> Ending {
    let channel = match dial(coordinator).await {
        Ok(channel) => channel,
        Err(error) => return error.into(),
    };
    let (reports, outgoing) = mpsc::channel(REPORTS);
    if connected.send(reports).await.is_err() {
        return Ending::AgentGone;
    }
    let ending = follow(channel, outgoing, events).await.unwrap_or_else(Ending::from);
    // The agent may have ended meanwhile.
    let _ = events.send(Event::Disconnected).await;
    ending
}

async fn dial(coordinator: &str) -> Result<Channel, Error> {
    let endpoint = Endpoint::from_shared(coordinator.to_owned())?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .tcp_nodelay(true);
    Ok(endpoint.connect().await?)
}

/// Passes on what the coordinator directs, until the stream ends.
async fn follow(
    channel: Channel,
    outgoing: mpsc::Receiver<wire::Report>,
    events: &mpsc::Sender<Event>,
) -> Result<Ending, Error> {
    let mut client = WorkersClient::new(channel);
    let mut directives = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
    while let Some(directive) = directives.message().await? {
        let directive = Directive::try_from(directive)?;
        if let Duty::NotNow { reason } = directive.duty {
            return Ok(Ending::NotNow(reason));
        }
        if events.send(Event::Directed(directive)).await.is_err() {
            return Ok(Ending::AgentGone);
        }
    }
    Err("the coordinator ended the stream".into())
}
