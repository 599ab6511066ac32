//! How everybody else talks to a running coordinator: its queue, from outside. And where to find the next one, once
//! another has its place.

use crate::core::{Event, Status, Stream};
use crate::feed::Watch;
use proto::id::RunId;
use proto::protocol::{Directive, Report};
use proto::spec::Spec;
use std::sync::{Arc, OnceLock};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// What comes in from outside the core.
pub(crate) enum Input {
    Core(Event),
    Attach { stream: Stream, directives: mpsc::Sender<Directive> },
    Submit { spec: Box<Spec>, key: String, answer: oneshot::Sender<Result<RunId, String>> },
    Cancel { run: RunId, answer: oneshot::Sender<Result<RunId, String>> },
    Watch { run: RunId, answer: oneshot::Sender<Option<Watch>> },
    Status { answer: oneshot::Sender<Vec<Status>> },
    Holds { run: Option<RunId>, answer: oneshot::Sender<Option<String>> },
    Settled { answer: oneshot::Sender<()> },
}

/// How everybody else talks to a running coordinator.
#[derive(Clone)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    successor: Arc<OnceLock<String>>,
}

/// The coordinator has stopped.
#[derive(Debug, Error)]
#[error("the coordinator has stopped")]
pub struct Stopped;

impl Handle {
    pub(crate) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { inputs, successor: Arc::default() }
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
        self.ask(|answer| Input::Submit { spec: Box::new(spec), key, answer }).await
    }

    /// Asks for a run's end; answers once the intent is durable.
    ///
    /// # Errors
    /// [`Stopped`], or in words why not.
    pub async fn cancel(&self, run: RunId) -> Result<Result<RunId, String>, Stopped> {
        self.ask(|answer| Input::Cancel { run, answer }).await
    }

    /// The past and future of a run, if there is such a run.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn watch(&self, run: RunId) -> Result<Option<Watch>, Stopped> {
        self.ask(|answer| Input::Watch { run, answer }).await
    }

    /// How every run is doing, oldest first.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn statuses(&self) -> Result<Vec<Status>, Stopped> {
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

    /// Stops every run in order, with a checkpoint.
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

    pub(crate) async fn reported(&self, stream: Stream, report: Report) -> Result<(), Stopped> {
        self.event(Event::Reported { stream, report }).await
    }

    pub(crate) async fn hangup(&self, stream: Stream) -> Result<(), Stopped> {
        self.event(Event::Hangup { stream }).await
    }

    pub(crate) async fn event(&self, event: Event) -> Result<(), Stopped> {
        self.inputs.send(Input::Core(event)).await.map_err(|_| Stopped)
    }
}
