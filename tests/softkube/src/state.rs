//! The cluster's state, shared by the HTTP server, the driver and the test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use crate::auth::Auth;
use crate::clock::{Clock, Time};
use crate::control::Controllers;
use crate::faults::{Faults, RequestRecord};
use crate::kubelet::agent::{Host, Kubelet};
use crate::kubelet::logs::Logs;
use crate::kubelet::manual::Manual;
use crate::registry::Registry;
use crate::signals::Signals;

/// Rounds of controllers and kubelet after which the driver waits for the next change.
const ROUNDS_LIMIT: u32 = 100;

/// What becomes of open watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// They end, as if they had timed out.
    End,
    /// They deliver nothing more, with the connection open.
    Stall,
    /// Their connection breaks.
    Break,
}

/// The form of the kubelet.
pub(crate) enum Form {
    Manual(Manual),
    Processes(Box<dyn Kubelet>),
}

/// Everything that changes.
pub(crate) struct State {
    pub(crate) registry: Registry,
    pub(crate) controllers: Controllers,
    pub(crate) auth: Auth,
    pub(crate) faults: Faults,
    pub(crate) requests: Vec<RequestRecord>,
    pub(crate) logs: Logs,
    pub(crate) form: Form,
    pub(crate) silent: BTreeSet<String>,
    /// For each resource, how many interruptions there were and what the last one was.
    pub(crate) interruptions: BTreeMap<String, (u64, Interruption)>,
}

impl State {
    /// Runs controllers and kubelets until nothing changes, and returns when to run again.
    fn settle(&mut self) -> Option<Time> {
        let mut due = None;
        for _ in 0..ROUNDS_LIMIT {
            let revision = self.registry.store.revision();
            let controllers = self.controllers.settle(&mut self.registry);
            let mut host = Host {
                registry: &mut self.registry,
                logs: &mut self.logs,
                auth: &mut self.auth,
                silent: &self.silent,
            };
            let kubelet = match &mut self.form {
                Form::Manual(manual) => manual.step(&mut host),
                Form::Processes(processes) => processes.step(&mut host),
            };
            due = controllers.into_iter().chain(kubelet).min();
            if self.registry.store.revision() == revision {
                break;
            }
        }
        due
    }
}

/// The state behind its lock, and the signals that it changed.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) clock: Clock,
}

impl Shared {
    pub(crate) fn new(state: State, clock: Clock) -> Self {
        Self { state: Mutex::new(state), signals: Arc::new(Signals::new()), clock }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads the state.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.lock())
    }

    /// Changes the state and wakes everyone who waits for changes.
    pub(crate) fn write<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.lock());
        self.signals.announce();
        result
    }

    /// A receiver that is told of every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.signals.subscribe()
    }

    /// Runs controllers and kubelets now.
    pub(crate) fn settle(&self) -> Option<Time> {
        let due = self.lock().settle();
        self.signals.show();
        due
    }

    /// Keeps controllers and kubelets running; never returns.
    pub(crate) async fn drive(&self) {
        loop {
            let due = self.settle();
            let timer = async {
                match due {
                    Some(due) => self.clock.sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.signals.announced() => {}
                () = timer => {}
            }
        }
    }
}
