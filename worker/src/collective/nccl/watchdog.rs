//! Ends the process if a call of NCCL or CUDA does not return.
//!
//! The thread that owns a communicator is the only one that calls NCCL, so nothing can interrupt it in there. The
//! watchdog calls neither NCCL nor CUDA, and so cannot block with it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The call that the owner of a communicator is in.
#[derive(Clone, Debug, Default)]
pub(super) struct Heartbeat(Arc<Mutex<Option<Call>>>);

#[derive(Clone, Copy, Debug)]
struct Call {
    name: &'static str,
    since: Instant,
}

impl Heartbeat {
    /// Runs `call`, which is announced as `name` for as long as it takes.
    pub(super) fn during<T>(&self, name: &'static str, call: impl FnOnce() -> T) -> T {
        self.set(Some(Call { name, since: Instant::now() }));
        let result = call();
        self.set(None);
        result
    }

    fn set(&self, call: Option<Call>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }

    /// The current call, if it has taken longer than `budget`.
    fn overdue(&self, budget: Duration) -> Option<&'static str> {
        let call = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        call.filter(|call| call.since.elapsed() > budget).map(|call| call.name)
    }
}

/// Watches a heartbeat until it is dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    _stop: Sender<()>,
}

impl Watchdog {
    /// Starts a watchdog that calls `end` with the name of the first call that takes longer than `budget`.
    pub(super) fn start(
        heartbeat: Heartbeat,
        budget: Duration,
        end: impl FnOnce(&'static str) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        std::thread::Builder::new()
            .name("nccl-watchdog".into())
            .spawn(move || watch(&heartbeat, budget, end, &stopped))?;
        Ok(Self { _stop: stop })
    }
}

fn watch(
    heartbeat: &Heartbeat,
    budget: Duration,
    end: impl FnOnce(&'static str),
    stopped: &Receiver<()>,
) {
    let period = budget / 8;
    while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
        if let Some(call) = heartbeat.overdue(budget) {
            return end(call);
        }
    }
}

/// Ends the process because `call` does not return.
pub(super) fn end_process(call: &'static str) {
    tracing::error!(call, "a call does not return; the process ends and is started again");
    // Exit handlers of CUDA and NCCL would wait for the call that does not return.
    crate::device::cuda::exit_at_once(crate::supervise::EXIT_BROKEN)
}
