//! Waiting for members. A generation is formed once the maximum number of workers is ready, or once the minimum is and
//! a short last call is over.

use super::Notice;
use super::timing::Timing;
use super::turn::Turn;
use super::workers::Workers;
use proto::id::RunId;
use std::time::Duration;

/// Number of troubled workers that are named while a run waits.
const TROUBLES_SHOWN: usize = 3;

/// The state of a run that waits for members.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathering {
    /// The time since which enough workers have been ready.
    enough_since: Option<Duration>,
    /// The last notice of what it waits for.
    announced: Option<String>,
}

/// What a run needs for its next generation.
pub(super) struct Needs {
    /// Minimum number of members.
    pub(super) min: usize,
    /// Maximum number of members.
    pub(super) max: usize,
    /// The step of a checkpoint that is still being stored, and at which the next generation could begin.
    pub(super) checkpoint: Option<u64>,
}

impl Gathering {
    pub(super) fn deadline(&self, timing: &Timing) -> Option<Duration> {
        self.enough_since.map(|since| since + timing.last_call)
    }

    /// Whether the next generation can be formed now. If it has to wait, a notice may say what for.
    pub(super) fn is_over(&mut self, needs: &Needs, turn: &mut Turn<'_>) -> bool {
        let ready = turn.workers.ready().len();
        if ready < needs.min {
            self.enough_since = None;
            self.announce(needs, turn);
            return false;
        }
        let since = *self.enough_since.get_or_insert(turn.now);
        let called = turn.now >= since + turn.timing.last_call;
        if ready < needs.max && !called {
            return false;
        }
        // The next generation begins at that checkpoint, so its steps need not be repeated.
        if needs.checkpoint.is_some() {
            self.announce(needs, turn);
            return false;
        }
        true
    }

    /// Notifies the watchers of the run what it waits for, if that has changed.
    pub(super) fn announce(&mut self, needs: &Needs, turn: &mut Turn<'_>) {
        let detail = needs.waiting(turn.run, turn.workers);
        if self.announced.as_ref() != Some(&detail) {
            self.announced = Some(detail.clone());
            turn.notify(Notice::Waiting { detail });
        }
    }
}

impl Needs {
    /// Describes what `run` waits for.
    pub(super) fn waiting(&self, run: &RunId, workers: &Workers) -> String {
        let min = self.min;
        let ready = workers.ready_for(run);
        if let Some(step) = self.checkpoint.filter(|_| ready >= min) {
            return format!("waiting: the checkpoint after step {step} is still being stored");
        }
        let loading = match workers.usable(run).saturating_sub(ready) {
            0 => String::new(),
            n => format!(", {n} loading"),
        };
        if ready >= min {
            return format!("waiting: {ready} workers are ready, {min} needed{loading}");
        }
        let mut detail = format!("waiting: {ready} of {min} workers{loading}");
        let here = workers.troubled().filter(|(_, w)| w.is_able() && w.waits(run));
        for (id, worker) in here.take(TROUBLES_SHOWN) {
            let trouble = worker.setback.as_ref().map_or("", |s| s.message.as_str());
            let first = trouble.lines().next().unwrap_or_default();
            detail += &format!("; {id} cannot work for it: {first}");
        }
        detail
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::turn::take;

    #[test]
    fn what_is_waited_for_is_announced_when_it_changes() {
        let mut gathering = Gathering::default();
        let mut announced = |min| {
            let needs = Needs { min, max: 4, checkpoint: None };
            let (over, out) = take(|turn| gathering.is_over(&needs, turn));
            assert!(!over, "there are no workers");
            out.len()
        };
        assert_eq!(announced(1), 1);
        assert_eq!(announced(1), 0, "nothing has changed");
        assert_eq!(announced(2), 1);
    }
}
