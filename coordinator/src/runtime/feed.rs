//! What has been said about a run: kept for whoever starts watching late, stored as metrics, passed on as it happens.

use crate::core::Notice;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use proto::id::{Lineage, RunId};
use proto::key;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use storage::{Created, Storage};
use tokio::sync::broadcast;

/// Notices that a watcher can be behind before it loses some.
const WATCHER_LAG: usize = 4096;
/// Notices kept for late watchers: the oldest are forgotten first.
const REMEMBERED: usize = 100_000;
/// Notices in one metrics object, at most.
const CHUNK: usize = 1000;
/// Metrics objects that are read at once.
const READS: usize = 8;

/// A notice, and when it was said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// Milliseconds since 1970; of one run they always rise. 0 in what an older version has written.
    #[serde(default)]
    pub at_ms: u64,
    /// What was said.
    #[serde(flatten)]
    pub notice: Notice,
}

/// One run's notices.
pub(crate) struct Feed {
    past: VecDeque<Arc<Stamped>>,
    now: broadcast::Sender<Arc<Stamped>>,
    unstored: Vec<Arc<Stamped>>,
    last_ms: u64,
}

/// The past, and what comes.
pub struct Watch {
    /// What was said before.
    pub past: Vec<Arc<Stamped>>,
    /// What is said from now on.
    pub now: broadcast::Receiver<Arc<Stamped>>,
}

impl Watch {
    /// Of a run of which nothing more will be said.
    pub(crate) fn over(past: Vec<Arc<Stamped>>) -> Self {
        let (_, now) = broadcast::channel(1);
        Self { past, now }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

impl Feed {
    /// Of a run of which something was said up to `last_ms`, by this coordinator's clock or another's.
    pub(crate) fn new(last_ms: u64) -> Self {
        let (now, _) = broadcast::channel(WATCHER_LAG);
        Self { past: VecDeque::new(), now, unstored: Vec::new(), last_ms }
    }

    pub(crate) fn watch(&self, after_ms: u64) -> Watch {
        let past = self.past.iter().filter(|s| s.at_ms > after_ms).cloned().collect();
        Watch { past, now: self.now.subscribe() }
    }

    /// Passes a notice on; true if what is not yet stored should be stored now.
    pub(crate) fn say(&mut self, notice: Notice) -> bool {
        self.last_ms = now_ms().max(self.last_ms + 1);
        let landmark = notice.last()
            || matches!(notice, Notice::Checkpoint { .. } | Notice::Generation { .. });
        let stamped = Arc::new(Stamped { at_ms: self.last_ms, notice });
        self.past.push_back(stamped.clone());
        if self.past.len() > REMEMBERED {
            self.past.pop_front();
        }
        self.unstored.push(stamped.clone());
        // Nobody watching is fine.
        let _ = self.now.send(stamped);
        landmark || self.unstored.len() >= CHUNK
    }

    /// What is not yet stored, as lines.
    pub(crate) fn take_unstored(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        for stamped in std::mem::take(&mut self.unstored) {
            serde_json::to_writer(&mut lines, stamped.as_ref()).expect("notices are JSON");
            lines.push(b'\n');
        }
        lines
    }

    /// The last thing that was said.
    pub(crate) fn last(&self) -> Option<Arc<Stamped>> {
        self.past.back().cloned()
    }
}

/// Stores lines as the first chunk from number `chunk` on that is free; another coordinator's is never overwritten.
/// `chunk` is then the one after.
///
/// # Errors
/// What the store says; the lines may be stored then.
pub(crate) async fn store(
    storage: &Storage,
    run: &RunId,
    chunk: &mut u64,
    lines: Bytes,
) -> Result<(), storage::Error> {
    loop {
        let created = storage.create(&key::metrics(run, *chunk), lines.clone()).await?;
        *chunk += 1;
        match created {
            Created::Ours => return Ok(()),
            // By an attempt whose answer was lost.
            Created::Theirs(found) if found == lines => return Ok(()),
            Created::Theirs(_) => {}
        }
    }
}

/// The numbers of a run's metrics objects, in order.
async fn chunks(storage: &Storage, run: &RunId) -> Result<Vec<String>, storage::Error> {
    let mut keys: Vec<_> =
        storage.list(&key::all_metrics(run)).await?.into_iter().map(|o| o.key).collect();
    keys.sort();
    Ok(keys)
}

/// Everything that was stored of what was said about a run.
///
/// # Errors
/// What the store says.
pub(crate) async fn stored(
    storage: &Storage,
    run: &RunId,
) -> Result<Vec<Arc<Stamped>>, storage::Error> {
    let keys = chunks(storage, run).await?;
    let read = async |key: String| storage.read(&key).await;
    let bodies: Vec<Bytes> = stream::iter(keys).map(read).buffered(READS).try_collect().await?;
    Ok(bodies.iter().flat_map(|body| parse(body)).map(Arc::new).collect())
}

/// What a run's metrics objects say of how far they reach.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// How many there are.
    pub(crate) chunks: u64,
    /// Steps of the lineage that was asked for.
    pub(crate) steps: u64,
    /// When the last notice in them was said; 0 if none was.
    pub(crate) last_ms: u64,
}

/// How far a run's metrics reach, with the steps of `lineage`.
///
/// # Errors
/// What the store says.
pub(crate) async fn recorded(
    storage: &Storage,
    run: &RunId,
    lineage: Lineage,
) -> Result<Recorded, storage::Error> {
    let keys = chunks(storage, run).await?;
    let chunks = keys.len().try_into().unwrap_or(0);
    let mut recorded = Recorded { chunks, ..Recorded::default() };
    for key in keys.into_iter().rev() {
        let body = storage.read(&key).await?;
        let mut older = false;
        let mut newest = None;
        for stamped in parse(&body) {
            recorded.last_ms = recorded.last_ms.max(stamped.at_ms);
            match stamped.notice {
                Notice::Step { lineage: of, step, .. } if of == lineage.0 => newest = Some(step),
                Notice::Step { .. } | Notice::Generation { .. } => older = true,
                _ => {}
            }
        }
        if newest.is_some() || older {
            recorded.steps = newest.unwrap_or(0);
            break;
        }
    }
    Ok(recorded)
}

/// The notices of a metrics object; lines of another version are left out.
fn parse(body: &[u8]) -> impl Iterator<Item = Stamped> + '_ {
    body.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, lineage: u64) -> Notice {
        Notice::Step {
            step,
            steps: 9,
            loss: f64::NAN,
            lr: 0.1,
            grad_norm: 1.0,
            applied: true,
            samples: 1,
            samples_digest: String::new(),
            tokens: 1,
            trained_tokens: 1,
            tokens_per_second: 1.0,
            world_size: 1,
            lineage,
            compute_ms: 1,
            reduce_wait_ms: 1,
            sources: Default::default(),
        }
    }

    #[tokio::test]
    async fn what_is_stored_is_read_back_and_tells_which_steps_are_recorded() {
        let (storage, run) = (Storage::memory(), RunId::new("r"));
        let none = recorded(&storage, &run, Lineage(1)).await.unwrap();
        assert_eq!(none, Recorded::default());
        let mut feed = Feed::new(0);
        let mut chunk = 0;
        for (lineage, steps) in [(1, 1..4), (2, 3..6)] {
            for number in steps {
                feed.say(step(number, lineage));
            }
            let lines = Bytes::from(feed.take_unstored());
            store(&storage, &run, &mut chunk, lines).await.unwrap();
        }
        assert!(feed.take_unstored().is_empty());
        let last = recorded(&storage, &run, Lineage(2)).await.unwrap();
        assert_eq!((last.chunks, last.steps), (2, 5));
        let other = recorded(&storage, &run, Lineage(3)).await.unwrap();
        assert_eq!((other.chunks, other.steps, other.last_ms), (2, 0, last.last_ms));
        let all = stored(&storage, &run).await.unwrap();
        assert_eq!(all.len(), 6);
        assert!(all.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms), "times rise");
        let after = all[3].at_ms;
        assert_eq!(feed.watch(after).past.len(), 2);
        // A coordinator whose clock is behind goes on where the one before ended.
        let ahead = last.last_ms + 60_000;
        let mut next = Feed::new(ahead);
        next.say(step(6, 2));
        assert_eq!(next.watch(ahead).past.len(), 1);
    }

    #[test]
    fn a_notice_of_an_older_version_has_no_time() {
        let line = r#"{"event":"checkpoint","step":3,"path":"p"}"#;
        let stamped: Stamped = serde_json::from_str(line).unwrap();
        assert_eq!((stamped.at_ms, stamped.notice.last()), (0, false));
    }
}
