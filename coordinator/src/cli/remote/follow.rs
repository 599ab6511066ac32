//! Follows a run to its end, across broken connections and replaced coordinators.

use super::connect::{Remote, is_final, refused};
use crate::cli::show::{Show, Style};
use crate::cli::{Blame, Exit, Outcome, Refusal, follow};
use crate::core::Notice;
use crate::runtime::feed::Stamped;
use anyhow::{Context, anyhow};
use proto::print;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use wire::connect::{Options, successor};

/// The first and the longest pause before another attempt to reach a coordinator.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_AT_MOST: Duration = Duration::from_secs(1);

/// A run that is followed.
pub(super) struct Following<'a> {
    remote: &'a Remote,
    run: &'a str,
    /// How long the coordinator may be unreachable; `None` for no limit.
    give_up_after: Option<Duration>,
    show: Option<Show>,
    /// Whether a coordinator is known to have this run.
    known: bool,
    /// The time of the newest notice shown.
    after_ms: u64,
    /// The lineage and number of the newest step shown.
    newest: Option<(u64, u64)>,
    /// The URL to try next.
    url: String,
    /// The URL to try after that.
    other_url: String,
}

/// How a stream of notices ends.
enum End {
    /// The run has ended, or the coordinator's error would not change.
    Final(Outcome),
    /// Another coordinator, at this URL, has replaced the one that was asked.
    Moved(String),
    /// The coordinator is unreachable, or accepts the connection and does not answer.
    Away(Refusal),
}

impl<'a> Following<'a> {
    /// Follows a run. It is an error if the coordinator cannot be reached at first or does not know the run.
    pub(super) fn new(remote: &'a Remote, run: &'a str, give_up_after: Option<Duration>) -> Self {
        let url = remote.coordinator.clone();
        let other_url = url.clone();
        Self {
            remote,
            run,
            give_up_after,
            show: None,
            known: false,
            after_ms: 0,
            newest: None,
            url,
            other_url,
        }
    }

    /// Marks the run as known: a coordinator has just accepted it.
    pub(super) fn submitted(mut self) -> Self {
        self.known = true;
        self
    }

    /// Shows notices until the run has ended.
    pub(super) async fn until_the_end(mut self) -> Outcome {
        let mut away: Option<Instant> = None;
        let mut tries = 0;
        loop {
            match self.stream(&mut away, &mut tries).await {
                End::Final(outcome) => return outcome,
                End::Moved(url) => {
                    self.show().log(&format!("the coordinator has moved to {url}"));
                    self.other_url = std::mem::replace(&mut self.url, url);
                }
                End::Away(refusal) if !self.known => return Err(refusal),
                End::Away(_) => {
                    if away.is_none() {
                        let line = "the coordinator went away; waiting for it to come back";
                        self.show().log(line);
                    }
                    let since = *away.get_or_insert_with(Instant::now);
                    if self.give_up_after.is_some_and(|limit| since.elapsed() >= limit) {
                        return Err(self.given_up(since.elapsed())).blame(Exit::Infrastructure);
                    }
                    // The coordinator may be at the address that it moved to, or back at the old one.
                    std::mem::swap(&mut self.url, &mut self.other_url);
                }
            }
            sleep(pause(tries)).await;
            tries += 1;
        }
    }

    /// One stream of notices, from its opening to its end.
    async fn stream(&mut self, away: &mut Option<Instant>, tries: &mut u32) -> End {
        let mut client = match self.remote.connect(&self.url, Options::STREAM).await {
            Ok(client) => client,
            Err(refusal) => return End::Away(refusal),
        };
        let request = wire::WatchRequest { run: self.run.to_owned(), after_ms: self.after_ms };
        let mut notices = match timeout(self.remote.timeout, client.watch(request)).await {
            Ok(Ok(notices)) => notices.into_inner(),
            Ok(Err(status)) => return self.broken(&status),
            Err(_) => return End::Away(self.remote.silent(&self.url)),
        };
        self.known = true;
        if away.take().is_some() {
            self.show().log("the coordinator is back");
        }
        // An end is final only if no further notice follows, since another attempt may follow.
        let mut ended: Option<Outcome> = None;
        loop {
            let message = notices.message().await;
            let notice = match (message, ended.take()) {
                (Ok(Some(notice)), None) => notice,
                (Ok(Some(notice)), Some(outcome)) => {
                    self.attempt_ended(outcome);
                    notice
                }
                (Ok(None) | Err(_), Some(outcome)) => return End::Final(outcome),
                (Ok(None), None) => return self.broken(&Status::unavailable("the stream ended")),
                (Err(status), None) => return self.broken(&status),
            };
            *tries = 0;
            ended = match self.notice(&notice.json) {
                Ok(ended) => ended,
                Err(refusal) => return End::Final(Err(refusal)),
            };
        }
    }

    /// Shows why an attempt failed that another attempt followed. Other ends have been shown already.
    fn attempt_ended(&mut self, outcome: Outcome) {
        if let Err(Refusal { error, .. }) = outcome {
            let why = proto::error::chain(error.as_ref());
            self.show().say(&format!("an attempt failed: {why}"));
        }
    }

    fn broken(&self, status: &Status) -> End {
        if let Some(url) = successor(status) {
            End::Moved(url)
        } else if is_final(status) {
            End::Final(Err(refused(&self.url, status)))
        } else {
            End::Away(refused(&self.url, status))
        }
    }

    /// Shows a notice. Returns the outcome if the notice ends the run.
    fn notice(&mut self, json: &str) -> Result<Option<Outcome>, Refusal> {
        let stamped: Stamped = serde_json::from_str(json)
            .context("the coordinator has another version")
            .blame(Exit::Infrastructure)?;
        self.after_ms = self.after_ms.max(stamped.at_ms);
        if self.is_repeated(&stamped.notice) {
            return Ok(None);
        }
        if self.remote.json {
            print::line(json)?;
        } else {
            self.show().notice(&stamped)?;
        }
        Ok(follow::end(&stamped.notice))
    }

    /// Whether the notice is about a step that was shown before: workers report their last steps again to a restarted
    /// coordinator.
    fn is_repeated(&mut self, notice: &Notice) -> bool {
        let Notice::Step { lineage, step, .. } = notice else { return false };
        let step = (*lineage, *step);
        if self.newest.is_some_and(|newest| step <= newest) {
            return true;
        }
        self.newest = Some(step);
        false
    }

    fn show(&mut self) -> &Show {
        let style = if self.remote.json { Style::Json } else { Style::Human };
        self.show.get_or_insert_with(|| {
            let heading = format!("run {} at {}", self.run, self.remote.coordinator);
            Show::new(style, &heading, format!("`coordinator submit --resume {}`", self.run))
        })
    }

    fn given_up(&self, away: Duration) -> anyhow::Error {
        let (seconds, run) = (away.as_secs(), self.run);
        anyhow!(
            "the coordinator has been away for {seconds} s\n\
             hint: workers continue to train without it; `coordinator watch {run}` follows the run again"
        )
    }
}

/// The pause before another attempt: doubled each time, with jitter, so that not all watchers reconnect at once.
fn pause(tries: u32) -> Duration {
    let longest = RETRY.saturating_mul(1 << tries.min(8)).min(RETRY_AT_MOST);
    let chance = u32::from_str_radix(&proto::id::unique()[..4], 16).unwrap_or(0);
    longest / 2 + longest / 2 * chance / 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_second() {
        for tries in 0..40 {
            let longest = RETRY * 2_u32.pow(tries.min(4));
            let longest = longest.min(RETRY_AT_MOST);
            assert!((longest / 2..=longest).contains(&pause(tries)), "{tries}");
        }
    }
}
