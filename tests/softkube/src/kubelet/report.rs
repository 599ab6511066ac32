//! What processes and probes report to the kubelet.

use std::sync::Arc;

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::kubelet::status::Exit;
use crate::signals::Signals;

/// A kind of probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

/// A container in one of its runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RunId {
    pub(crate) uid: String,
    pub(crate) container: String,
    pub(crate) restarts: u32,
}

/// What processes report to the kubelet.
#[derive(Debug)]
pub(crate) enum Report {
    Line(RunId, String),
    Exited(RunId, Exit),
    /// A probe that changed its mind, or gave up.
    Probed(RunId, ProbeKind, bool),
}

/// The way to the kubelet: reports, and a knock so that it reads them.
#[derive(Clone)]
pub(crate) struct Reporter {
    pub(crate) reports: mpsc::Sender<Report>,
    pub(crate) signals: Arc<Signals>,
}

impl Reporter {
    pub(crate) async fn send(&self, report: Report) {
        let report = match self.reports.try_send(report) {
            Err(TrySendError::Full(report)) => {
                self.knock();
                // The kubelet is gone when its cluster is; then nobody listens.
                let _ = self.reports.send(report).await;
                return self.knock();
            }
            result => result,
        };
        // As above: a closed channel has no listener.
        drop(report);
        self.knock();
    }

    fn knock(&self) {
        self.signals.announce();
    }
}
