//! A run whose sources are listed, and whether their data is known to be prepared.

use super::turn::Turn;
use super::{Command, Survey};

/// Whether a survey can still tell if the data set is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    /// What it found holds.
    Known,
    /// Another run has had the workers since, and may have prepared the same.
    Stale,
    /// It is being looked for again.
    Asked,
}

/// A run whose sources are listed waits for its turn.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    survey: Survey,
    cache: Cache,
}

impl Listed {
    pub(super) fn new(survey: Survey) -> Self {
        Self { survey, cache: Cache::Known }
    }

    pub(super) fn is_prepared(&self) -> bool {
        self.survey.cached
    }

    /// Another run has the workers, and may prepare the same.
    pub(super) fn wait(&mut self) {
        self.cache = Cache::Stale;
    }

    /// The data set was looked for again.
    pub(super) fn found(&mut self, found: bool) {
        if self.cache == Cache::Asked {
            self.survey.cached = found;
            self.cache = Cache::Known;
        }
    }

    /// The run's turn has come: its survey, or none while the data set has to be looked for again.
    pub(super) fn begin(&mut self, turn: &mut Turn<'_>) -> Option<Survey> {
        if self.survey.cached || self.cache == Cache::Known {
            return Some(self.survey.clone());
        }
        if self.cache == Cache::Stale {
            self.cache = Cache::Asked;
            let fingerprint = self.survey.fingerprint.clone();
            turn.out.push(Command::FindPrepared { run: turn.run.clone(), fingerprint });
        }
        None
    }
}
