//! Decides what is worth saying, so that everything is said once.

use super::log::Source;
use crate::cluster::Cluster;
use crate::describe::{Overview, State};
use futures::FutureExt;
use futures::channel::mpsc::UnboundedSender;
use futures::future::BoxFuture;
use k8s_openapi::api::batch::v1::Job;
use std::collections::BTreeSet;
use tokio::time::{sleep, timeout};

/// What has been said about a Job.
#[derive(Default)]
pub(super) struct Teller {
    state: Option<State>,
    /// Trouble that has been told and lasts.
    told: BTreeSet<String>,
    /// The pods whose logs are followed, by uid.
    sources: BTreeSet<String>,
    latest: Option<String>,
}

impl Teller {
    /// What is new since the last overview.
    pub(super) fn overview(&mut self, overview: &Overview) -> Vec<String> {
        let mut notes = Vec::new();
        if self.state.as_ref() != Some(&overview.state) {
            self.state = Some(overview.state.clone());
            notes.push(headline(overview));
        }
        for trouble in &overview.trouble {
            if trouble.keys.iter().any(|key| !self.told.contains(key)) {
                notes.push(trouble.text.clone());
            }
        }
        // Trouble that has passed is news if it comes back.
        self.told = overview.trouble.iter().flat_map(|trouble| trouble.keys.clone()).collect();
        notes
    }

    /// Hands new pods over to have their logs followed, and names those that replace another.
    pub(super) fn sources(
        &mut self,
        sources: impl Iterator<Item = Source>,
        to: &UnboundedSender<Source>,
    ) -> Vec<String> {
        let mut notes = Vec::new();
        for source in sources {
            if !self.sources.insert(source.uid.clone()) {
                continue;
            }
            if let Some(before) = self.latest.replace(source.pod.clone()) {
                notes.push(format!("pod 0 is now `{}`, after `{before}`", source.pod));
            }
            // The receiver lives as long as the stream.
            let _ = to.unbounded_send(source);
        }
        notes
    }
}

fn headline(overview: &Overview) -> String {
    let Overview { job, state, counts, .. } = overview;
    match state {
        State::Pending | State::Starting | State::Running => {
            let left = counts.wanted.saturating_sub(counts.succeeded);
            format!("Job `{job}` is {state} ({} of {left} pods run)", counts.running)
        }
        State::Succeeded | State::Failed { .. } => format!("Job `{job}` has {state}"),
        State::Incomplete
        | State::Queued { .. }
        | State::Suspended
        | State::Stopping
        | State::Deleting => format!("Job `{job}` is {state}"),
    }
}

/// Whether the API server answers.
#[derive(Default)]
pub(super) struct Presence {
    /// The question whether it is there, while that is in doubt.
    question: Option<BoxFuture<'static, bool>>,
    /// Questions in a row that were not answered.
    misses: u32,
    is_away: bool,
}

impl Presence {
    /// A watch has failed: ask soon whether the API server is still there.
    pub(super) fn doubt(&mut self, cluster: &Cluster, job: &str) {
        if self.question.is_none() {
            self.question = Some(ask(cluster.clone(), job.to_owned(), self.misses).boxed());
        }
    }

    /// The answer to a question; waits forever while there is no doubt.
    pub(super) async fn answer(&mut self) -> bool {
        let Some(question) = &mut self.question else { return std::future::pending().await };
        let is_there = question.await;
        self.question = None;
        is_there
    }

    /// What to say about an answer.
    pub(super) fn note(&mut self, is_there: bool) -> Option<&'static str> {
        let was_away = std::mem::replace(&mut self.is_away, !is_there);
        self.misses = if is_there { 0 } else { self.misses.saturating_add(1) };
        match (was_away, is_there) {
            (true, true) => Some("the API server is back"),
            (false, false) => {
                Some("the API server does not answer; the Job goes on, and is followed again later")
            }
            (true, false) | (false, true) => None,
        }
    }
}

/// Asks for the Job after a pause. Any answer will do that is not an error of the server.
async fn ask(cluster: Cluster, job: String, misses: u32) -> bool {
    sleep(cluster.patience.pause(misses)).await;
    let jobs = cluster.api::<Job>();
    matches!(timeout(cluster.patience.request, jobs.get_opt(&job)).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_is_said_once_and_so_is_its_end() {
        let mut presence = Presence::default();
        let mut note = |is_there| presence.note(is_there).unwrap_or_default();
        assert_eq!(note(true), "");
        assert!(note(false).contains("does not answer"));
        assert_eq!(note(false), "");
        assert_eq!(note(true), "the API server is back");
        assert_eq!(note(true), "");
    }
}
