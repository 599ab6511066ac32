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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::turn::take;
    use proto::id::RunId;

    fn listed(cached: bool) -> Listed {
        Listed::new(Survey { fingerprint: "f".into(), shards: Vec::new(), cached })
    }

    #[test]
    fn a_survey_holds_until_another_run_has_had_the_workers() {
        let mut listed = listed(false);
        let (survey, out) = take(|turn| listed.begin(turn));
        assert!(survey.is_some() && out.is_empty());
        listed.wait();
        let look = Command::FindPrepared { run: RunId::new("r"), fingerprint: "f".into() };
        let (survey, out) = take(|turn| listed.begin(turn));
        assert!(survey.is_none());
        assert_eq!(out, [look]);
        let (survey, out) = take(|turn| listed.begin(turn));
        assert!(survey.is_none() && out.is_empty(), "it is being looked for");
        listed.found(true);
        let (survey, _) = take(|turn| listed.begin(turn));
        assert!(survey.expect("it was found").cached);
    }

    #[test]
    fn what_is_prepared_is_not_looked_for_again() {
        let mut listed = listed(true);
        listed.wait();
        let (survey, out) = take(|turn| listed.begin(turn));
        assert!(survey.is_some() && out.is_empty());
    }
}
