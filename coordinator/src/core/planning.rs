//! The plan of a run: how it is ordered, and what the core remembers of it.

use super::turn::Turn;
use super::{Command, Notice, PlanOutline};
use proto::event::Fact;
use proto::manifest;

/// A plan that is being made.
#[derive(Clone, Debug)]
pub(super) struct Planning {
    fingerprint: String,
    /// The data set was prepared by an earlier run.
    cached: bool,
}

/// A plan that is stored.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The fingerprint of the prepared data set.
    pub(super) fingerprint: String,
    /// The digest of the plan, which workers check.
    pub(super) digest: String,
    /// Total number of optimizer steps.
    pub(super) steps: u64,
}

impl Planning {
    /// Has the plan of a data set made. `prepared` is its contents if this run prepared it.
    pub(super) fn begin(
        fingerprint: String,
        prepared: Option<manifest::Prepared>,
        turn: &mut Turn<'_>,
    ) -> Self {
        let planning = Self { fingerprint: fingerprint.clone(), cached: prepared.is_none() };
        turn.out.push(Command::Plan { run: turn.run.clone(), fingerprint, prepared });
        planning
    }

    /// Journals and announces the plan, which is stored.
    pub(super) fn end(self, outline: PlanOutline, turn: &mut Turn<'_>) -> Plan {
        let Self { fingerprint, cached } = self;
        let PlanOutline { digest, steps, receipt, summary } = outline;
        turn.journal([
            Fact::Prepared { fingerprint: fingerprint.clone() },
            Fact::Planned { digest: digest.clone(), steps },
        ]);
        turn.notify(Notice::Prepared { fingerprint: fingerprint.clone(), cached, receipt });
        turn.notify(Notice::Planned { steps, summary });
        Plan { fingerprint, digest, steps }
    }
}
