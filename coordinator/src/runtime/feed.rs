//! A run's notices: sent to watchers as they happen, kept for watchers that come later, and stored as metrics.

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

/// Number of notices by which a watcher can lag behind before it loses some.
const WATCHER_LAG: usize = 4096;
/// Maximum number of notices kept for later watchers; the oldest are dropped first.
const REMEMBERED: usize = 100_000;
/// Number of unstored notices at which they are stored.
const CHUNK: usize = 1000;
/// Number of metrics objects that are read concurrently.
const READS: usize = 8;

/// A notice with its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// Milliseconds since 1970, strictly increasing within a run. 0 if an older version wrote the notice.
    #[serde(default)]
    pub at_ms: u64,
    /// The notice.
    #[serde(flatten)]
    pub notice: Notice,
}

/// The notices of one run.
pub(crate) struct Feed {
    past: VecDeque<Arc<Stamped>>,
    now: broadcast::Sender<Arc<Stamped>>,
    unstored: Vec<Arc<Stamped>>,
    last_ms: u64,
}

/// A run's past and future notices.
pub struct Watch {
    /// Notices from before the watch began.
    pub past: Vec<Arc<Stamped>>,
    /// Receives the notices from now on.
    pub now: broadcast::Receiver<Arc<Stamped>>,
}

impl Watch {
    /// A watch of a run that has ended, without future notices.
    pub(crate) fn ended(past: Vec<Arc<Stamped>>) -> Self {
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
    /// An empty feed of a run whose last notice has the time `last_ms`, by this coordinator's clock or another's.
    pub(crate) fn new(last_ms: u64) -> Self {
        let (now, _) = broadcast::channel(WATCHER_LAG);
        Self { past: VecDeque::new(), now, unstored: Vec::new(), last_ms }
    }

    pub(crate) fn watch(&self, after_ms: u64) -> Watch {
        let past = self.past.iter().filter(|s| s.at_ms > after_ms).cloned().collect();
        Watch { past, now: self.now.subscribe() }
    }

    /// Sends a notice to the watchers. Returns true if the unstored notices should be stored now.
    pub(crate) fn publish(&mut self, notice: Notice) -> bool {
        self.last_ms = now_ms().max(self.last_ms + 1);
        let landmark = notice.last()
            || matches!(notice, Notice::Checkpoint { .. } | Notice::Generation { .. });
        let stamped = Arc::new(Stamped { at_ms: self.last_ms, notice });
        self.past.push_back(stamped.clone());
        if self.past.len() > REMEMBERED {
            self.past.pop_front();
        }
        self.unstored.push(stamped.clone());
        // There may be no watcher.
        let _ = self.now.send(stamped);
        landmark || self.unstored.len() >= CHUNK
    }

    /// Takes the notices that are not stored yet, as JSON lines.
    pub(crate) fn take_unstored(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        for stamped in std::mem::take(&mut self.unstored) {
            serde_json::to_writer(&mut lines, stamped.as_ref()).expect("notices are JSON");
            lines.push(b'\n');
        }
        lines
    }

    /// The last notice.
    pub(crate) fn last(&self) -> Option<Arc<Stamped>> {
        self.past.back().cloned()
    }
}

/// Stores lines as the first unused chunk from number `chunk` on, and sets `chunk` to the number after it. Chunks of
/// another coordinator are never overwritten.
///
/// # Errors
/// Errors of the store; the lines may have been stored nonetheless.
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
            // Stored by an earlier attempt whose reply was lost.
            Created::Theirs(found) if found == lines => return Ok(()),
            Created::Theirs(_) => {}
        }
    }
}

/// The keys of a run's metrics objects, in order.
async fn chunks(storage: &Storage, run: &RunId) -> Result<Vec<String>, storage::Error> {
    let mut keys: Vec<_> =
        storage.list(&key::all_metrics(run)).await?.into_iter().map(|o| o.key).collect();
    keys.sort();
    Ok(keys)
}

/// Reads all stored notices of a run.
///
/// # Errors
/// Errors of the store.
pub(crate) async fn stored(
    storage: &Storage,
    run: &RunId,
) -> Result<Vec<Arc<Stamped>>, storage::Error> {
    let keys = chunks(storage, run).await?;
    let read = async |key: String| storage.read(&key).await;
    let bodies: Vec<Bytes> = stream::iter(keys).map(read).buffered(READS).try_collect().await?;
    Ok(bodies.iter().flat_map(|body| parse(body)).map(Arc::new).collect())
}

/// The extent of a run's stored metrics.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Number of metrics objects.
    pub(crate) chunks: u64,
    /// The number of the last recorded step of the requested lineage; 0 if there is none.
    pub(crate) steps: u64,
    /// The time of the last notice; 0 if there is none.
    pub(crate) last_ms: u64,
}

/// Reads how far a run's metrics reach, with the steps of `lineage`.
///
/// # Errors
/// Errors of the store.
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

/// The notices of a metrics object, without lines that this version cannot parse.
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
    async fn stored_notices_are_read_back_with_the_last_recorded_step() {
        let (storage, run) = (Storage::memory(), RunId::new("r"));
        let none = recorded(&storage, &run, Lineage(1)).await.unwrap();
        assert_eq!(none, Recorded::default());
        let mut feed = Feed::new(0);
        let mut chunk = 0;
        for (lineage, steps) in [(1, 1..4), (2, 3..6)] {
            for number in steps {
                feed.publish(step(number, lineage));
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
        // A coordinator whose clock is behind continues from its predecessor's times.
        let ahead = last.last_ms + 60_000;
        let mut next = Feed::new(ahead);
        next.publish(step(6, 2));
        assert_eq!(next.watch(ahead).past.len(), 1);
    }

    #[test]
    fn a_notice_of_an_older_version_has_no_time() {
        let line = r#"{"event":"checkpoint","step":3,"path":"p"}"#;
        let stamped: Stamped = serde_json::from_str(line).unwrap();
        assert_eq!((stamped.at_ms, stamped.notice.last()), (0, false));
    }
}
