//! Pauses the store at a chosen request, so that a process can be killed at a known stage of its work.
//!
//! ```text
//! pause_at(stage) --> reached(): the store has paused --> the test kills a process --> the store resumes:
//!     resume() normally, resume_without_request(), or resume_without_clients()
//! ```

use super::HangUp;
use super::fault::RequestInfo;
use crate::process::PATIENCE;
use std::sync::{Arc, mpsc};
use tokio::sync::watch;

/// Whether to pause before or after the store executes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The store has not received the request yet.
    Before,
    /// The store has executed the request, and the client has no answer yet.
    After,
}

/// The request at which the store pauses.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// Before or after the request is executed.
    pub moment: Moment,
    /// `GET`, `PUT`, ...
    pub method: &'static str,
    /// Texts that its path and query contain.
    pub target: &'static [&'static str],
    /// A text that its body contains.
    pub body: &'static str,
}

impl Stage {
    fn is(&self, moment: Moment, info: &RequestInfo, body: &[u8]) -> bool {
        let words = self.body.as_bytes();
        self.moment == moment
            && self.method == info.method
            && self.target.iter().all(|words| info.target.contains(words))
            && (words.is_empty() || body.windows(words.len()).any(|w| w == words))
    }
}

/// A pause at a stage. The store resumes when this is dropped.
#[must_use]
pub struct Pause {
    gate: Arc<Gate>,
    stage: Stage,
    reached: mpsc::Receiver<String>,
}

impl Pause {
    /// Waits until the store has paused, and returns path and query of the request.
    pub fn reached(&self) -> String {
        let target = self.reached.recv_timeout(PATIENCE);
        target.unwrap_or_else(|_| panic!("no request is {:?}", self.stage))
    }

    /// Resumes, and handles the request normally.
    pub fn resume(self) {}

    /// Resumes, but drops the request: it is neither passed on nor answered.
    pub fn resume_without_request(self) {
        self.gate.0.send_modify(|state| state.request_is_lost = true);
    }

    /// Resumes for new connections only: requests on older connections are neither passed on nor answered.
    pub fn resume_without_clients(self) {
        self.gate.0.send_modify(|state| state.gone = state.clients);
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.gate.0.send_modify(|state| (state.awaited, state.is_paused) = (None, false));
    }
}

/// The gate that every request passes before the store executes it, and every answer after it.
#[derive(Debug, Default)]
pub(super) struct Gate(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    awaited: Option<(Stage, mpsc::Sender<String>)>,
    is_paused: bool,
    request_is_lost: bool,
    /// The number of the newest connection; numbers start at 1.
    clients: u64,
    /// Connections up to this number are dropped.
    gone: u64,
    held_back: Vec<(&'static str, Stage)>,
}

impl State {
    fn holds_back(&self, info: &RequestInfo) -> bool {
        self.held_back.iter().any(|(words, _)| info.target.contains(words))
    }
}

impl Gate {
    pub(super) fn close_at(gate: &Arc<Self>, stage: Stage) -> Pause {
        let (tell, reached) = mpsc::channel();
        gate.0.send_modify(|state| {
            state.awaited = Some((stage, tell));
            state.request_is_lost = false;
        });
        Pause { gate: gate.clone(), stage, reached }
    }

    pub(super) fn hold_back(&self, words: &'static str, until: Stage) {
        self.0.send_modify(|state| state.held_back.push((words, until)));
    }

    /// The number of a new connection.
    pub(super) fn next_client(&self) -> u64 {
        self.0.send_modify(|state| state.clients += 1);
        self.0.borrow().clients
    }

    /// Waits while the store is paused.
    pub(super) async fn pass(
        &self,
        client: u64,
        moment: Moment,
        info: &RequestInfo,
        body: &[u8],
    ) -> Result<(), HangUp> {
        let mut states = self.0.subscribe();
        if moment == Moment::Before {
            let its_turn = states.wait_for(|state| !state.holds_back(info)).await;
            its_turn.map_err(|_| HangUp)?;
        }
        let mut awaited = None;
        self.0.send_if_modified(|state| {
            let held_back = state.held_back.len();
            state.held_back.retain(|(_, until)| !until.is(moment, info, body));
            awaited = state.awaited.take_if(|(stage, _)| stage.is(moment, info, body));
            state.is_paused |= awaited.is_some();
            awaited.is_some() || state.held_back.len() < held_back
        });
        let is_the_one = awaited.is_some();
        if let Some((_, tell)) = awaited {
            // The test may have ended.
            let _ = tell.send(info.target.clone());
        }
        let state = states.wait_for(|state| !state.is_paused).await.map_err(|_| HangUp)?;
        if client <= state.gone || is_the_one && state.request_is_lost {
            return Err(HangUp);
        }
        Ok(())
    }
}
