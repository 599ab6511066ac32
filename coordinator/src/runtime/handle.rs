//! How everybody else talks to a running coordinator: its queue, from outside. And where to find the next one, once
//! another has its place.

use super::feed::{Recorded, Watch};
use super::journal::{self, Journal};
use crate::core::{Event, Status, Stream, WorkerStatus};
use proto::event::Fact;
use proto::id::RunId;
use proto::protocol::{Directive, Report};
use proto::spec::Spec;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// How long a file system may take to say what a path is.
const LOOK_UP: Duration = Duration::from_secs(5);

/// What comes in from outside the core.
pub(crate) enum Input {
    Core(Event),
    Attach {
        stream: Stream,
        directives: mpsc::Sender<Directive>,
    },
    Submit {
        spec: Box<Spec>,
        key: String,
        answer: oneshot::Sender<Result<RunId, String>>,
    },
    Resume {
        run: RunId,
        spec_yaml: Option<String>,
        answer: oneshot::Sender<Result<(RunId, u64), String>>,
    },
    /// What is to be resumed has been read.
    Found {
        found: Box<Found>,
        answer: oneshot::Sender<Result<(RunId, u64), String>>,
    },
    Cancel {
        run: RunId,
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
    /// The end of the run's journal, or of the pool's, has been looked at.
    Looked {
        run: Option<RunId>,
        found: Option<journal::Found>,
        answer: Option<oneshot::Sender<Option<String>>>,
    },
    Settled {
        answer: oneshot::Sender<()>,
    },
}

/// A run that has ended, read anew, and the spec that it is to go on under.
pub(crate) struct Found {
    pub(crate) run: RunId,
    pub(crate) journal: Journal,
    pub(crate) history: Vec<Fact>,
    /// What another attempt begins with.
    pub(crate) beginning: Vec<Fact>,
    pub(crate) spec: Spec,
    /// How far its metrics reach.
    pub(crate) recorded: Recorded,
}

/// A run, as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// How it is doing.
    pub status: Status,
    /// When it was submitted, in milliseconds since 1970; 0 if that is unknown.
    pub submitted_ms: u64,
}

/// How everything is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct Overview {
    /// Every run, oldest first.
    pub runs: Vec<Seen>,
    /// Every connected worker, by name.
    pub workers: Vec<WorkerStatus>,
    /// The coordinator's time, since it started.
    pub now: Duration,
    /// When it started, in milliseconds since 1970.
    pub began_ms: u64,
}

/// How everybody else talks to a running coordinator.
#[derive(Clone)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    /// The URL under which the coordinator keeps everything.
    output: Arc<str>,
    successor: Arc<OnceLock<String>>,
    beats: Beats,
}

/// The streams that have beaten since it was looked last. Nothing follows from a beat but that its worker lives: so
/// many of them are taken in together, and one by itself costs the coordinator nothing.
#[derive(Clone, Default)]
pub(crate) struct Beats(Arc<Mutex<BTreeSet<Stream>>>);

impl Beats {
    fn add(&self, stream: Stream) {
        self.0.lock().expect("held only to add").insert(stream);
    }

    /// Those streams, once.
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
        Self { inputs, output: output.into(), successor: Arc::default(), beats: Beats::default() }
    }

    /// Workers take the output from the spec: a run whose spec names another would be split between two. It may be
    /// another name of the same folder, which only the file system knows, and that may never answer: so it is not asked
    /// in the queue.
    ///
    /// # Errors
    /// In words, with the hint.
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

    /// Queues a run; answers once that is durable.
    ///
    /// # Errors
    /// [`Stopped`], or in words why not.
    pub async fn submit(&self, spec: Spec, key: String) -> Result<Result<RunId, String>, Stopped> {
        if let Err(refusal) = self.check_output(&spec).await {
            return Ok(Err(refusal));
        }
        self.ask(|answer| Input::Submit { spec: Box::new(spec), key, answer }).await
    }

    /// Asks for a run's end; answers once the intent is durable.
    ///
    /// # Errors
    /// [`Stopped`], or in words why not.
    pub async fn cancel(&self, run: RunId) -> Result<Result<RunId, String>, Stopped> {
        self.ask(|answer| Input::Cancel { run, answer }).await
    }

    /// Begins another attempt of a run that has ended without success; says which.
    ///
    /// # Errors
    /// [`Stopped`], or in words why not.
    pub async fn resume(
        &self,
        run: RunId,
        spec_yaml: Option<String>,
    ) -> Result<Result<(RunId, u64), String>, Stopped> {
        self.ask(|answer| Input::Resume { run, spec_yaml, answer }).await
    }

    /// What was said about a run after `after_ms`, and what will be, if there is such a run.
    ///
    /// # Errors
    /// [`Stopped`], or in words why nothing can be said about it.
    pub async fn watch(
        &self,
        run: RunId,
        after_ms: u64,
    ) -> Result<Result<Option<Watch>, String>, Stopped> {
        self.ask(|answer| Input::Watch { run, after_ms, answer }).await
    }

    /// How everything is doing: answered from memory.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn overview(&self) -> Result<Overview, Stopped> {
        self.ask(|answer| Input::Status { answer }).await
    }

    /// This process's token, if the coordinator holds the run, or without one the pool: it looks at its journal
    /// before it answers.
    ///
    /// # Errors
    /// [`Stopped`], also where that look has shown that another has its place.
    pub async fn holds(&self, run: Option<RunId>) -> Result<Option<String>, Stopped> {
        self.ask(|answer| Input::Holds { run, answer }).await
    }

    /// Where the coordinator is that has this one's place.
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

    /// Answers once what was to be done in storage beside the queue is done.
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
