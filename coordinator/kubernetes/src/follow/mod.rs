//! Follows a Job until it has ended or is gone.
//!
//! ```text
//! watches ──▶ Model ──describe──▶ Teller ──▶ notes, the end ─┐
//!               └──first pods──▶ log ──▶ lines ──────────────┴──▶ the caller's stream
//! ```
//! The watches are those of `kube::runtime`, which list again after 410, take note of bookmarks and
//! reconnect. They do not say when they are back, so the Job is read now and then while they fail.

mod log;
mod tell;
mod watch;

use crate::call::Call;
use crate::cluster::Cluster;
use crate::describe::{self, Class, Known, Node, Overview, State};
use crate::error::Error;
use futures::channel::mpsc::{self, Sender, UnboundedSender};
use futures::future::{Either, select};
use futures::stream::{self, BoxStream};
use futures::{SinkExt, Stream, StreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use log::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use tell::{Presence, Teller};
use tokio::time::{interval, timeout};
use watch::{Model, Update};

/// Items that wait for the caller.
const WAITING: usize = 64;

/// Something that is seen while following a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A change of state, or new trouble, in words.
    Note(String),
    /// A line of the log of the pod with index 0.
    Log {
        /// The pod.
        pod: String,
        /// The line, without its end.
        line: String,
    },
    /// The end, after which nothing follows.
    End(End),
}

/// How following a Job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The run has succeeded.
    Succeeded,
    /// The Job has failed.
    Failed {
        /// Whose failure it was.
        class: Class,
        /// Kubernetes' words.
        message: String,
    },
    /// Somebody deleted the Job.
    Deleted,
}

/// Where everything that is seen goes. The caller may have stopped listening, and then nothing
/// matters any more.
#[derive(Clone)]
struct Output(Sender<Result<Seen, Error>>);

impl Output {
    async fn say(&mut self, seen: Result<Seen, Error>) {
        let _ = self.0.send(seen).await;
    }
}

impl Cluster {
    /// Follows a Job until it has ended or is deleted: what happens to it, and the log of its first
    /// pod.
    ///
    /// Everything is said once. The stream outlives broken connections, an API server that is away,
    /// and the replacement of pods. It ends after [`Seen::End`] or an error.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such Job, and refusals such as [`Error::Forbidden`].
    pub fn follow(&self, job: &str) -> impl Stream<Item = Result<Seen, Error>> + Send + use<> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let work = follow(self.clone(), job.to_owned(), Output(sender));
        // The work has no task of its own: it goes on while the caller listens, and is dropped with
        // the stream.
        let work = stream::once(work).filter_map(|()| async { None });
        stream::select(receiver, work)
    }
}

async fn follow(cluster: Cluster, job: String, mut output: Output) {
    let (sources, pods) = mpsc::unbounded();
    let drain = cluster.patience.drain;
    let logs = pin!(log::follow(cluster.clone(), pods, output.clone()));
    let follower = Follower::new(cluster, job, sources, output.clone());
    let events = Box::pin(follower.run());
    // The events hold the way to the logs, so the logs cannot end first.
    let end = match select(events, logs).await {
        Either::Left((end, logs)) => {
            let _ = timeout(drain, logs).await;
            end
        }
        Either::Right(((), events)) => events.await,
    };
    output.say(end.map(Seen::End)).await;
}

struct Follower {
    cluster: Cluster,
    job: String,
    model: Model,
    /// The uid of the Job, once it has been seen.
    uid: Option<String>,
    nodes: BTreeMap<String, Node>,
    /// The nodes that were asked for since the last refresh.
    asked: BTreeSet<String>,
    teller: Teller,
    presence: Presence,
    sources: UnboundedSender<Source>,
    output: Output,
}

impl Follower {
    fn new(
        cluster: Cluster,
        job: String,
        sources: UnboundedSender<Source>,
        output: Output,
    ) -> Self {
        Self {
            presence: Presence::default(),
            cluster,
            job,
            model: Model::default(),
            uid: None,
            nodes: BTreeMap::new(),
            asked: BTreeSet::new(),
            teller: Teller::default(),
            sources,
            output,
        }
    }

    async fn run(mut self) -> Result<End, Error> {
        let mut updates = watch::updates(&self.cluster, &self.job);
        let mut refresh = interval(self.cluster.patience.refresh);
        loop {
            tokio::select! {
                update = next(&mut updates) => self.apply(update)?,
                _ = refresh.tick() => self.asked.clear(),
                is_there = self.presence.answer() => {
                    if let Some(note) = self.presence.note(is_there) {
                        self.note(note.to_owned()).await;
                    }
                    if !is_there {
                        self.presence.doubt(&self.cluster, &self.job);
                    }
                }
            }
            self.look_at_nodes().await;
            if let Some(end) = self.judge().await? {
                return Ok(end);
            }
        }
    }

    fn apply(&mut self, update: Update) -> Result<(), Error> {
        match update {
            Update::Job(event) => self.model.jobs.apply(*event),
            Update::Pod(event) => self.model.pods.apply(*event),
            Update::Warning(event) => self.model.warnings.apply(*event),
            Update::Failed { call, error } => self.failed(&call, error)?,
        }
        Ok(())
    }

    fn failed(&mut self, call: &Call, error: watch::Failure) -> Result<(), Error> {
        tracing::debug!(request = %call, %error, "a watch failed");
        if let Some(fatal) = watch::client_error(&error).and_then(|error| call.fatal(error)) {
            return Err(fatal);
        }
        self.presence.doubt(&self.cluster, &self.job);
        Ok(())
    }

    /// Learns of nodes that may be lost, which pods show by not stopping; once between two
    /// refreshes.
    async fn look_at_nodes(&mut self) {
        let suspects = describe::suspects(self.model.pods.all(), self.cluster.now());
        if !suspects.is_subset(&self.asked) {
            self.nodes = self.cluster.nodes(suspects.clone()).await;
            self.asked = suspects;
        }
    }

    /// Says what is new, and whether that is the end.
    async fn judge(&mut self) -> Result<Option<End>, Error> {
        if !self.model.is_listed() {
            return Ok(None);
        }
        let job = self.model.jobs.all().next();
        let uid = job.and_then(|job| job.metadata.uid.clone());
        let Some(job) = job.filter(|_| self.uid.is_none() || self.uid == uid) else {
            // Gone, or gone and created again.
            return match self.uid {
                Some(_) => Ok(Some(End::Deleted)),
                None => {
                    let namespace = self.cluster.namespace().to_owned();
                    Err(Error::NotFound { job: self.job.clone(), namespace })
                }
            };
        };
        let pods: Vec<&Pod> =
            self.model.pods.all().filter(|pod| describe::belongs(job, pod)).collect();
        let known = Known {
            job,
            pods: pods.clone(),
            events: self.model.warnings.all().collect(),
            nodes: &self.nodes,
            now: self.cluster.now(),
        };
        let overview = describe::overview(&known);
        let sources = describe::first_pods(pods.into_iter())
            .into_iter()
            .filter(|pod| describe::has_started(pod))
            .filter_map(Source::of);
        let mut notes = self.teller.sources(sources, &self.sources);
        notes.extend(self.teller.overview(&overview));
        let end = end(&overview, job);
        self.uid = uid;
        for note in notes {
            self.note(note).await;
        }
        Ok(end)
    }

    async fn note(&mut self, note: String) {
        self.output.say(Ok(Seen::Note(note))).await;
    }
}

/// The next update. The watches never end, but wait.
async fn next(updates: &mut BoxStream<'static, Update>) -> Update {
    match updates.next().await {
        Some(update) => update,
        None => std::future::pending().await,
    }
}

fn end(overview: &Overview, job: &Job) -> Option<End> {
    match overview.state {
        State::Succeeded => Some(End::Succeeded),
        State::Failed { class } => {
            let conditions =
                job.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let failed =
                conditions.filter(|one| one.type_ == "Failed").find_map(|one| one.message.clone());
            Some(End::Failed { class, message: failed.unwrap_or_default() })
        }
        State::Incomplete
        | State::Queued { .. }
        | State::Suspended
        | State::Pending
        | State::Starting
        | State::Running
        | State::Stopping
        | State::Deleting => None,
    }
}
