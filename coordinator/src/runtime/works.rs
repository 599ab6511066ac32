//! What is to be done in storage beside the queue, one piece of work after the other: what was to be kept then says
//! nothing of what is to be kept now.
//!
//! Nothing waits for it, and no failure of it ends a coordinator. While the store is away the work waits; of work that
//! a later one makes superfluous only the later one is kept, so that what waits is bounded by the number of runs.

use crate::core::{Event, Retained};
use crate::feed;
use crate::finish;
use crate::handle::Handle;
use bytes::Bytes;
use proto::error::chain;
use proto::id::{Lineage, RunId};
use proto::receipt::Skipped;
use proto::storage::Storage;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Work that can wait to be taken in; it always is at once.
pub(super) const QUEUE: usize = 1024;
/// Lines of metrics that wait for a store that is away: of more than that the oldest are lost.
const METRICS_BYTES: usize = 64 << 20;
/// Between two attempts at what the store would not do.
const PAUSE: Duration = Duration::from_secs(3);

/// A piece of work.
pub(super) enum Work {
    /// Store the spec as it was resolved.
    Spec { run: RunId, yaml: String },
    /// Add lines to a run's metrics.
    Metrics { run: RunId, lines: Vec<u8> },
    /// Say in the receipt what was skipped.
    Receipt { run: RunId, skipped: Vec<Skipped> },
    /// Bring the checkpoints in storage to those that are kept.
    Retain { run: RunId, retained: Retained },
    /// Delete a checkpoint that was given up.
    Discard { run: RunId, lineage: Lineage, step: u64 },
    /// Copy the finished model to its place.
    Publish(Box<finish::Finished>),
    /// Metrics of the run begin with this chunk.
    Begin { run: RunId, chunk: u64 },
    /// Say that all before it is done.
    Settled(oneshot::Sender<()>),
}

/// Does the work, one after the other, until nobody can send any more.
pub(super) async fn work(
    storage: Storage,
    handle: Handle,
    patience: Duration,
    mut inbox: mpsc::Receiver<Work>,
) {
    let mut waiting = Waiting::default();
    let mut chunks = BTreeMap::new();
    loop {
        let next = match waiting.queue.pop_front() {
            Some(next) => next,
            None => match inbox.recv().await {
                Some(work) => work,
                None => return,
            },
        };
        let mut doing = std::pin::pin!(perform(next, &storage, &handle, patience, &mut chunks));
        loop {
            tokio::select! {
                () = &mut doing => break,
                Some(work) = inbox.recv() => waiting.add(work),
            }
        }
    }
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Work>,
}

impl Waiting {
    /// Adds work; what it makes superfluous goes.
    fn add(&mut self, work: Work) {
        match &work {
            Work::Receipt { run, .. } => self
                .queue
                .retain(|before| !matches!(before, Work::Receipt { run: of, .. } if of == run)),
            Work::Retain { run, .. } => self
                .queue
                .retain(|before| !matches!(before, Work::Retain { run: of, .. } if of == run)),
            Work::Metrics { run, lines } => {
                let same = self.queue.iter_mut().find_map(|before| match before {
                    Work::Metrics { run: of, lines } if of == run => Some(lines),
                    _ => None,
                });
                if let Some(before) = same {
                    before.extend_from_slice(lines);
                    trim(run, before);
                    return;
                }
            }
            Work::Spec { .. }
            | Work::Discard { .. }
            | Work::Publish(_)
            | Work::Begin { .. }
            | Work::Settled(_) => {}
        }
        self.queue.push_back(work);
    }
}

/// Drops the first lines where there are too many.
fn trim(run: &RunId, lines: &mut Vec<u8>) {
    let Some(over) = lines.len().checked_sub(METRICS_BYTES).filter(|over| *over > 0) else {
        return;
    };
    let end = lines[over..].iter().position(|byte| *byte == b'\n');
    let cut = end.map_or(lines.len(), |end| over + end + 1);
    tracing::warn!(%run, bytes = cut, "metrics are lost: the store has been away for too long");
    lines.drain(..cut);
}

async fn perform(
    work: Work,
    storage: &Storage,
    handle: &Handle,
    patience: Duration,
    chunks: &mut BTreeMap<RunId, u64>,
) {
    match work {
        Work::Spec { run, yaml } => {
            let key = proto::key::resolved_spec(&run);
            let began = Instant::now();
            while let Err(error) = storage.put(&key, yaml.clone()).await {
                let error = chain(&error);
                tracing::warn!(%run, error, "the resolved spec is not stored yet");
                if began.elapsed() > patience {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Work::Begin { run, chunk } => drop(chunks.insert(run, chunk)),
        Work::Metrics { run, lines } => {
            let chunk = chunks.entry(run.clone()).or_default();
            let lines = Bytes::from(lines);
            let began = Instant::now();
            while let Err(error) = feed::store(storage, &run, chunk, lines.clone()).await {
                let error = chain(&error);
                if began.elapsed() > patience {
                    tracing::warn!(%run, error, "metrics are lost");
                    break;
                }
                tracing::warn!(%run, error, "metrics wait for the store");
                tokio::time::sleep(PAUSE).await;
            }
        }
        Work::Receipt { run, skipped } => {
            if let Err(error) = finish::receipt(storage, &run, skipped).await {
                // The journal has it, and the next checkpoint's receipt.
                tracing::warn!(%run, error, "the receipt lacks what was skipped last");
            }
        }
        Work::Retain { run, retained } => {
            if let Err(error) = finish::retain(storage, &run, &retained).await {
                let error = chain(&error);
                tracing::warn!(%run, error, "an old checkpoint stays behind");
            }
        }
        Work::Discard { run, lineage, step } => {
            if let Err(error) = finish::delete(storage, &run, (lineage, step)).await {
                let error = chain(&error);
                tracing::warn!(%run, error, "a checkpoint that was given up stays behind");
            }
        }
        Work::Publish(finished) => {
            let run = finished.run.clone();
            let began = Instant::now();
            let outcome = loop {
                match finish::publish(storage, &finished).await {
                    Err(finish::Unpublished::Store(error))
                        if error.can_be_mended() && began.elapsed() < patience =>
                    {
                        let error = chain(&error);
                        tracing::warn!(%run, error, "the model waits for the store");
                        tokio::time::sleep(PAUSE).await;
                    }
                    outcome => break outcome.map_err(|error| chain(&error)),
                }
            };
            // The coordinator may have stopped meanwhile.
            let _ = handle.event(Event::Published { run, outcome }).await;
        }
        // Whoever asked may not have had the patience.
        Work::Settled(answer) => drop(answer.send(())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_by_the_number_of_runs() {
        let mut waiting = Waiting::default();
        let run = |i: usize| RunId::new(format!("r{}", i % 2));
        for i in 0..100 {
            waiting.add(Work::Receipt { run: run(i), skipped: Vec::new() });
            waiting.add(Work::Metrics { run: run(i), lines: format!("{i}\n").into() });
        }
        assert_eq!(waiting.queue.len(), 4);
        let lines = waiting.queue.iter().find_map(|work| match work {
            Work::Metrics { run, lines } if run.as_str() == "r1" => Some(lines.clone()),
            _ => None,
        });
        let odd: String = (0..100).filter(|i| i % 2 == 1).map(|i| format!("{i}\n")).collect();
        assert_eq!(String::from_utf8(lines.unwrap()).unwrap(), odd, "none is lost");
    }

    #[test]
    fn of_too_many_lines_the_oldest_are_lost() {
        let mut lines = vec![b'x'; METRICS_BYTES - 2];
        lines.extend_from_slice(b"\nlast\n");
        trim(&RunId::new("r"), &mut lines);
        assert_eq!(lines, b"last\n");
    }
}
