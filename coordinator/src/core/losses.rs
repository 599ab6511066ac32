//! How workers were lost, and how long that took to notice.

use std::collections::BTreeMap;
use std::time::Duration;

/// How a worker was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// It was silent for a whole lease.
    Silent,
    /// Its connection closed, and it did not come back.
    Disconnected,
    /// It left, as it had announced.
    Left,
    /// Another process took its place.
    Replaced,
}

/// The number of losses of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Number of workers.
    pub workers: u64,
    /// Sum of the times between a worker's last message and the moment when it was lost.
    pub silence: Duration,
}

/// All losses since the coordinator started, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses(BTreeMap<Loss, Lost>);

impl Loss {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Silent, Self::Disconnected, Self::Left, Self::Replaced];

    /// What happened, for an incident.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Silent => "it was silent for a whole lease",
            Self::Disconnected => "its connection closed",
            Self::Left => "it left",
            Self::Replaced => "another process took its place",
        }
    }

    /// What happened, in one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Disconnected => "disconnected",
            Self::Left => "left",
            Self::Replaced => "replaced",
        }
    }
}

impl Losses {
    pub(super) fn count(&mut self, loss: Loss, silence: Duration) {
        let lost = self.0.entry(loss).or_default();
        lost.workers += 1;
        lost.silence += silence;
    }

    /// The losses of one kind.
    pub fn of(&self, loss: Loss) -> Lost {
        self.0.get(&loss).copied().unwrap_or_default()
    }
}
