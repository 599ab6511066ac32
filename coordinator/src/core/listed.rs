//! A run whose sources are listed and that waits for its turn.

use super::turn::Turn;
use super::{Command, Survey};

/// Whether the survey's answer to "is this data set prepared?" is still current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    /// The answer is current.
    Known,
    /// Another run has had the workers since, and may have prepared the same data set.
    Stale,
    /// The runtime is checking again.
    Asked,
}

/// The survey of a run that waits for its turn.
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

    /// Notes that another run has the workers and may prepare the same data set.
    pub(super) fn wait(&mut self) {
        self.cache = Cache::Stale;
    }

    /// Notes the answer of a repeated check.
    pub(super) fn found(&mut self, found: bool) {
        if self.cache == Cache::Asked {
            self.survey.cached = found;
            self.cache = Cache::Known;
        }
    }

    /// Begins the run's turn. Returns its survey, or `None` while the runtime checks again whether the data set is
    /// prepared.
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
    fn a_survey_is_current_until_another_run_has_had_the_workers() {
        let mut listed = listed(false);
        let (survey, out) = take(|turn| listed.begin(turn));
        assert!(survey.is_some() && out.is_empty());
        listed.wait();
        let look = Command::FindPrepared { run: RunId::new("r"), fingerprint: "f".into() };
        let (survey, out) = take(|turn| listed.begin(turn));
        assert!(survey.is_none());
        assert_eq!(out, [look]);
        let (survey, out) = take(|turn| listed.begin(turn));
        assert!(survey.is_none() && out.is_empty(), "the check is under way");
        listed.found(true);
        let (survey, _) = take(|turn| listed.begin(turn));
        assert!(survey.expect("it was found").cached);
    }

    #[test]
    fn prepared_data_is_not_looked_for_again() {
        let mut listed = listed(true);
        listed.wait();
        let (survey, out) = take(|turn| listed.begin(turn));
        assert!(survey.is_some() && out.is_empty());
    }
}
