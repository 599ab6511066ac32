//! Following a run to its end, across the ends of connections and of coordinators.

use super::connect::{Remote, connect, is_final, refused};
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

/// Before the first attempt to come back to a coordinator, and at most before a later one.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_AT_MOST: Duration = Duration::from_secs(1);

/// A run that is followed.
pub(super) struct Following<'a> {
    remote: &'a Remote,
    run: &'a str,
    /// How long the coordinator may be away; none: for ever.
    give_up_after: Option<Duration>,
    show: Option<Show>,
    /// Whether this coordinator has ever answered for this run.
    known: bool,
    /// When the newest notice was made that has been shown.
    after_ms: u64,
    /// The newest step that has been shown, and its lineage.
    newest: Option<(u64, u64)>,
    /// Where it is looked for, and where otherwise.
    here: String,
    there: String,
}

/// How a stream of notices ends.
enum End {
    /// With the run, or with an answer that stays the same.
    Final(Outcome),
    /// Another coordinator has the place of the one that was asked.
    Moved(String),
    /// The coordinator is away, or takes the connection and does not answer.
    Away(Refusal),
}

impl<'a> Following<'a> {
    /// A run that may be unknown, to a coordinator that may not be there: both are errors.
    pub(super) fn new(remote: &'a Remote, run: &'a str, give_up_after: Option<Duration>) -> Self {
        let here = remote.coordinator.clone();
        let there = here.clone();
        Self {
            remote,
            run,
            give_up_after,
            show: None,
            known: false,
            after_ms: 0,
            newest: None,
            here,
            there,
        }
    }

    /// The same of a run that the coordinator has just taken.
    pub(super) fn submitted(mut self) -> Self {
        self.known = true;
        self
    }

    /// Shows what happens until the run has ended.
    pub(super) async fn until_the_end(mut self) -> Outcome {
        let mut away: Option<Instant> = None;
        let mut tries = 0;
        loop {
            match self.stream(&mut away, &mut tries).await {
                End::Final(outcome) => return outcome,
                End::Moved(url) => {
                    self.show().tell(&format!("the coordinator has moved to {url}"));
                    self.there = std::mem::replace(&mut self.here, url);
                }
                End::Away(refusal) if !self.known => return Err(refusal),
                End::Away(_) => {
                    if away.is_none() {
                        let line = "the coordinator went away; waiting for it to come back";
                        self.show().tell(line);
                    }
                    let since = *away.get_or_insert_with(Instant::now);
                    if self.give_up_after.is_some_and(|limit| since.elapsed() >= limit) {
                        return Err(self.given_up(since.elapsed())).blame(Exit::Infrastructure);
                    }
                    // Where it has moved to, or back where it was.
                    std::mem::swap(&mut self.here, &mut self.there);
                }
            }
            sleep(pause(tries)).await;
            tries += 1;
        }
    }

    /// One stream of notices, from its opening to its end.
    async fn stream(&mut self, away: &mut Option<Instant>, tries: &mut u32) -> End {
        let mut client = match connect(&self.here, Options::STREAM).await {
            Ok(client) => client,
            Err(refusal) => return End::Away(refusal),
        };
        let request = wire::WatchRequest { run: self.run.to_owned(), after_ms: self.after_ms };
        let mut notices = match timeout(self.remote.timeout, client.watch(request)).await {
            Ok(Ok(notices)) => notices.into_inner(),
            Ok(Err(status)) => return self.broken(&status),
            Err(_) => return End::Away(self.remote.silent(&self.here)),
        };
        self.known = true;
        if away.take().is_some() {
            self.show().tell("the coordinator is back");
        }
        // An end is the run's own once the coordinator has no more to say: another attempt may follow it.
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

    /// Says why an attempt failed that is not the last one; other ends have been shown.
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
            End::Final(Err(refused(&self.here, status)))
        } else {
            End::Away(refused(&self.here, status))
        }
    }

    /// Shows a notice; how the run has ended, if it has.
    fn notice(&mut self, json: &str) -> Result<Option<Outcome>, Refusal> {
        let stamped: Stamped = serde_json::from_str(json)
            .context("the coordinator is of another version")
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

    /// Whether it is of a step that was shown before: workers tell a new coordinator of their last ones again.
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
        let style = if self.remote.json { Style::Json } else { Style::People };
        self.show.get_or_insert_with(|| {
            let heading = format!("run {} at {}", self.run, self.remote.coordinator);
            Show::new(style, &heading, format!("`coordinator submit --resume {}`", self.run))
        })
    }

    fn given_up(&self, away: Duration) -> anyhow::Error {
        let (seconds, run) = (away.as_secs(), self.run);
        anyhow!(
            "the coordinator has been away for {seconds} s\n\
             hint: workers train on without it; `coordinator watch {run}` follows the run again"
        )
    }
}

/// Before another attempt: twice as long each time, and jittered, so that not all who wait come back in one moment.
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
