//! The handle to a running coordinator, through which all other code sends inputs to its queue. It also knows the
//! address of the coordinator that replaced this one.

use super::feed::{Recorded, Watch};
use super::journal::{self, Journal};
use crate::core::{Event, Losses, Status, Stream, WorkerStatus};
use crate::web::Metrics;
use proto::event::Fact;
use proto::id::RunId;
use proto::protocol::{Directive, Report};
use proto::spec::Spec;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// How long a file system may take to resolve a path.
const LOOK_UP: Duration = Duration::from_secs(5);

/// An input to the runtime's queue.
pub(crate) enum Input {
    Core(Event),
    Attach {
        stream: Stream,
        directives: mpsc::Sender<Directive>,
    },
    Submit {
        submission: Box<Submission>,
        answer: oneshot::Sender<Result<RunId, String>>,
    },
    Resume {
        run: RunId,
        spec_yaml: Option<String>,
        by: Option<String>,
        answer: oneshot::Sender<Result<(RunId, u64), String>>,
    },
    /// The run to be resumed has been read.
    Found {
        found: Box<Found>,
        answer: oneshot::Sender<Result<(RunId, u64), String>>,
    },
    Cancel {
        run: RunId,
        by: Option<String>,
        answer: oneshot::Sender<Result<RunId, String>>,
    },
    Watch {
        run: RunId,
        after_ms: u64,
        answer: oneshot::Sender<Result<Option<Watch>, String>>,
    },
    Status {
        answer: oneshot::Sender<Overview>,
    },
    Holds {
        run: Option<RunId>,
        answer: oneshot::Sender<Option<String>>,
    },
    /// The end of the run's journal, or of the pool's, has been checked.
    Checked {
        run: Option<RunId>,
        found: Option<journal::Found>,
        answer: Option<oneshot::Sender<Option<String>>>,
    },
    Settled {
        answer: oneshot::Sender<()>,
    },
}

/// A run to be submitted.
pub(crate) struct Submission {
    pub(crate) spec: Spec,
    /// The user's idempotency key.
    pub(crate) key: String,
    /// The name in the user's credentials, if they were asked for.
    pub(crate) by: Option<String>,
    /// The name of the run, if it is given.
    pub(crate) run: Option<RunId>,
}

/// An ended run as it was read again from storage, with the spec for its next attempt.
pub(crate) struct Found {
    pub(crate) run: RunId,
    pub(crate) journal: Journal,
    pub(crate) history: Vec<Fact>,
    /// The first facts of the next attempt.
    pub(crate) beginning: Vec<Fact>,
    pub(crate) spec: Spec,
    /// The extent of its stored metrics.
    pub(crate) recorded: Recorded,
}

/// A run's status and submission time.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The run's status.
    pub status: Status,
    /// When the run was submitted, in milliseconds since 1970; 0 if unknown.
    pub submitted_ms: u64,
}

/// The status of all runs and workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Overview {
    /// Every run, oldest first.
    pub runs: Vec<Seen>,
    /// Every connected worker, by name.
    pub workers: Vec<WorkerStatus>,
    /// The time since the coordinator started.
    pub now: Duration,
    /// When the coordinator started, in milliseconds since 1970.
    pub began_ms: u64,
    /// The workers that were lost since then.
    pub losses: Losses,
    /// For how long a journal entry has been waiting for the store.
    pub storage_wait: Duration,
}

/// A handle to a running coordinator.
#[derive(Clone)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    /// The URL under which the coordinator stores everything.
    output: Arc<str>,
    successor: Arc<OnceLock<String>>,
    beats: Beats,
    metrics: Metrics,
}

/// The streams that have sent a beat since the last [`take`](Self::take). A beat only says that its worker lives, so
/// the core handles many of them as one event.
#[derive(Clone, Default)]
pub(crate) struct Beats(Arc<Mutex<BTreeSet<Stream>>>);

impl Beats {
    fn add(&self, stream: Stream) {
        self.0.lock().expect("held only to add").insert(stream);
    }

    /// Returns the streams and clears the set.
    pub(crate) fn take(&self) -> BTreeSet<Stream> {
        std::mem::take(&mut *self.0.lock().expect("held only to add"))
    }
}

/// The coordinator has stopped.
#[derive(Debug, Error)]
#[error("the coordinator has stopped")]
pub struct Stopped;

impl Handle {
    pub(crate) fn new(inputs: mpsc::Sender<Input>, output: String) -> Self {
        Self {
            inputs,
            output: output.into(),
            successor: Arc::default(),
            beats: Beats::default(),
            metrics: Metrics::default(),
        }
    }

    /// Checks that the spec's output is this coordinator's. Workers take the output from the spec, so a run with a
    /// different one would be split between two places.
    ///
    /// Two paths may name the same folder, which only the file system can tell. It may never answer, so the check does
    /// not run in the coordinator's queue.
    ///
    /// # Errors
    /// The reason as text, with a hint.
    pub(crate) async fn check_output(&self, spec: &Spec) -> Result<(), String> {
        let (own, wanted) = (&*self.output, spec.output().to_string());
        let looked_up = tokio::task::spawn_blocking({
            let wanted = wanted.clone();
            move || storage::url(&wanted).ok()
        });
        let looked_up = tokio::time::timeout(LOOK_UP, looked_up).await;
        if let Ok(Ok(Some(url))) = &looked_up
            && url == own
        {
            return Ok(());
        }
        let path = own.strip_prefix("file://").unwrap_or(own);
        Err(format!(
            "output: this coordinator keeps everything under `{path}`, not `{wanted}`\n\
             hint: write `output: {path}`"
        ))
    }

    async fn ask<T>(&self, input: impl FnOnce(oneshot::Sender<T>) -> Input) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.inputs.send(input(answer)).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }

    /// Submits a run for the user `by`, if it is known who asks. Returns once the submission is durable.
    ///
    /// # Errors
    /// [`Stopped`], or the reason of a refusal as text.
    pub async fn submit(
        &self,
        spec: Spec,
        key: String,
        by: Option<String>,
    ) -> Result<Result<RunId, String>, Stopped> {
        self.ask_to_run(Submission { spec, key, by, run: None }).await
    }

    /// Submits a run under a name of the caller's choice, which no run has.
    ///
    /// # Errors
    /// [`Stopped`], or the reason of a refusal as text.
    pub(crate) async fn submit_as(
        &self,
        run: RunId,
        spec: Spec,
    ) -> Result<Result<RunId, String>, Stopped> {
        let (key, run) = (run.to_string(), Some(run));
        self.ask_to_run(Submission { spec, key, by: None, run }).await
    }

    async fn ask_to_run(&self, submission: Submission) -> Result<Result<RunId, String>, Stopped> {
        if let Err(refusal) = self.check_output(&submission.spec).await {
            return Ok(Err(refusal));
        }
        self.ask(|answer| Input::Submit { submission: Box::new(submission), answer }).await
    }

    /// Cancels a run for the user `by`, if it is known who asks. Returns once the cancellation is durable.
    ///
    /// # Errors
    /// [`Stopped`], or the reason of a refusal as text.
    pub async fn cancel(
        &self,
        run: RunId,
        by: Option<String>,
    ) -> Result<Result<RunId, String>, Stopped> {
        self.ask(|answer| Input::Cancel { run, by, answer }).await
    }

    /// Begins another attempt of a run that has ended without success. Returns the run and the attempt's number.
    ///
    /// # Errors
    /// [`Stopped`], or the reason of a refusal as text.
    pub async fn resume(
        &self,
        run: RunId,
        spec_yaml: Option<String>,
        by: Option<String>,
    ) -> Result<Result<(RunId, u64), String>, Stopped> {
        self.ask(|answer| Input::Resume { run, spec_yaml, by, answer }).await
    }

    /// Returns the past notices of a run after `after_ms` and its future ones, or `None` if there is no such run.
    ///
    /// # Errors
    /// [`Stopped`], or as text why the run cannot be read.
    pub async fn watch(
        &self,
        run: RunId,
        after_ms: u64,
    ) -> Result<Result<Option<Watch>, String>, Stopped> {
        self.ask(|answer| Input::Watch { run, after_ms, answer }).await
    }

    /// Returns the status of all runs and workers, from memory.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn overview(&self) -> Result<Overview, Stopped> {
        self.ask(|answer| Input::Status { answer }).await
    }

    /// Returns this process's token if the coordinator holds the run, or the pool if `run` is `None`. The coordinator
    /// checks the journal before it answers.
    ///
    /// # Errors
    /// [`Stopped`], also if the check shows that another coordinator has taken over.
    pub async fn holds(&self, run: Option<RunId>) -> Result<Option<String>, Stopped> {
        self.ask(|answer| Input::Holds { run, answer }).await
    }

    /// The address of the coordinator that replaced this one.
    pub fn successor(&self) -> Option<&str> {
        self.successor.get().map(String::as_str)
    }

    pub(crate) fn succeeded_by(&self, url: String) {
        // A coordinator is replaced once.
        let _ = self.successor.set(url);
    }

    /// Stops every run gracefully, with a checkpoint.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn close(&self) -> Result<(), Stopped> {
        self.event(Event::Close).await
    }

    /// Returns once no background work in storage is left.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(crate) async fn settled(&self) -> Result<(), Stopped> {
        self.ask(|answer| Input::Settled { answer }).await
    }

    pub(crate) async fn attach(
        &self,
        stream: Stream,
        directives: mpsc::Sender<Directive>,
    ) -> Result<(), Stopped> {
        self.inputs.send(Input::Attach { stream, directives }).await.map_err(|_| Stopped)
    }

    /// The figures of its runs and workers.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn beats(&self) -> Beats {
        self.beats.clone()
    }

    pub(crate) async fn reported(&self, stream: Stream, report: Report) -> Result<(), Stopped> {
        if let Report::Beat { .. } = report {
            self.beats.add(stream);
            return if self.inputs.is_closed() { Err(Stopped) } else { Ok(()) };
        }
        self.event(Event::Reported { stream, report }).await
    }

    pub(crate) async fn hangup(&self, stream: Stream) -> Result<(), Stopped> {
        self.event(Event::Hangup { stream }).await
    }

    pub(crate) async fn event(&self, event: Event) -> Result<(), Stopped> {
        self.send(Input::Core(event)).await
    }

    pub(crate) async fn send(&self, input: Input) -> Result<(), Stopped> {
        self.inputs.send(input).await.map_err(|_| Stopped)
    }
}
