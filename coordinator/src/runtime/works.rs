//! Background work in storage. No command waits for it, and a failure does not end the coordinator.
//!
//! A run's tasks are done one at a time, because an old list of checkpoints to retain must not be applied after a newer
//! one. A failed task is tried again after the run's tasks of other kinds have had a turn. A later spec, receipt or
//! retention replaces a waiting one, and metrics are merged, so that little accumulates while the store is unreachable.

use super::feed;
use super::handle::Handle;
use crate::checkpoints::{self, Unpublished};
use crate::core::{Event, Retained};
use bytes::Bytes;
use proto::error::chain;
use proto::id::{CheckpointId, RunId};
use proto::receipt::Skipped;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;
use storage::Storage;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Capacity of the channel of work. Its receiver never waits for the store, so it does not fill up.
pub(super) const QUEUE: usize = 1024;
/// Maximum size of a run's metrics that wait for the store; the oldest lines beyond it are dropped.
const METRICS_BYTES: usize = 64 << 20;
/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_secs(3);
/// How long receipts and deletions are retried. The next checkpoint requests them again.
const TIDYING: Duration = Duration::from_secs(3600);

/// A message to the background task.
pub(super) enum Work {
    /// Do a task for a run.
    Task(RunId, Task),
    /// Number the run's next chunks of metrics from `chunk`.
    Begin { run: RunId, chunk: u64 },
    /// Answer when no task is left, of this run or of all runs.
    Settled(Option<RunId>, oneshot::Sender<()>),
}

/// A task for a run.
pub(super) enum Task {
    /// Store the resolved spec.
    Spec(String),
    /// Update the skipped steps in the receipt.
    Receipt(Vec<Skipped>),
    /// Add lines to the metrics.
    Metrics(Vec<u8>),
    /// Delete a checkpoint that was given up.
    Discard(CheckpointId),
    /// Delete checkpoints that are not retained.
    Retain(Retained),
    /// Copy the finished model to its final location.
    Publish(Box<checkpoints::Finished>),
}

/// The kind of a task. A run's kinds take turns in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Spec,
    Receipt,
    Metrics,
    Discard,
    Retain,
    Publish,
}

impl Kind {
    /// The log line for a task that waits for the store.
    fn waiting_text(self) -> &'static str {
        match self {
            Self::Spec => "the resolved spec waits for the store",
            Self::Receipt => "the receipt waits for the store",
            Self::Metrics => "metrics wait for the store",
            Self::Discard | Self::Retain => "an old checkpoint waits to be deleted",
            Self::Publish => "the model waits for the store",
        }
    }

    /// The log line for a task that is given up.
    fn failed_text(self) -> &'static str {
        match self {
            Self::Spec => "the resolved spec is not stored; the journal has it",
            Self::Receipt => "the receipt lacks the steps skipped last; the journal has them",
            Self::Metrics => "metrics are lost",
            Self::Discard | Self::Retain => "an old checkpoint is not deleted",
            Self::Publish => "the model is not published",
        }
    }

    /// Whether a task of this kind replaces earlier ones.
    fn is_replaced(self) -> bool {
        matches!(self, Self::Spec | Self::Receipt | Self::Retain)
    }

    fn patience(self, patience: Duration) -> Duration {
        match self {
            Self::Receipt | Self::Discard | Self::Retain => patience.min(TIDYING),
            Self::Spec | Self::Metrics | Self::Publish => patience,
        }
    }
}

/// A task and the time of its first failure.
struct Job {
    task: Task,
    failed: Option<Instant>,
}

impl Task {
    fn kind(&self) -> Kind {
        match self {
            Self::Spec(_) => Kind::Spec,
            Self::Receipt(_) => Kind::Receipt,
            Self::Metrics(_) => Kind::Metrics,
            Self::Discard(..) => Kind::Discard,
            Self::Retain(_) => Kind::Retain,
            Self::Publish(_) => Kind::Publish,
        }
    }
}

/// The waiting tasks of one run.
#[derive(Default)]
struct Line {
    waiting: BTreeMap<Kind, VecDeque<Job>>,
    /// The kind of the task that was taken last.
    turn: Option<Kind>,
}

impl Line {
    /// Adds a task, and drops those that it replaces.
    fn add(&mut self, run: &RunId, task: Task) {
        let kind = task.kind();
        let waiting = self.waiting.entry(kind).or_default();
        if kind.is_replaced() {
            waiting.clear();
        }
        // Lines are not merged into a failed task: it may have been stored, and is recognized by its bytes.
        let untried = waiting.back_mut().filter(|job| job.failed.is_none());
        match (untried, &task) {
            (Some(Job { task: Task::Metrics(before), .. }), Task::Metrics(lines)) => {
                before.extend_from_slice(lines);
                trim(run, before);
            }
            _ => waiting.push_back(Job { task, failed: None }),
        }
    }

    /// Removes and returns the next task.
    fn next(&mut self) -> Option<Job> {
        let after = self.turn.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.waiting.range_mut((after, Bound::Unbounded)).find(|(_, w)| !w.is_empty());
        let (kind, waiting) = match later {
            Some(found) => found,
            None => self.waiting.iter_mut().find(|(_, waiting)| !waiting.is_empty())?,
        };
        self.turn = Some(*kind);
        waiting.pop_front()
    }

    /// Puts a failed task back, unless a later one has replaced it.
    fn put_back(&mut self, job: Job) {
        let kind = job.task.kind();
        let waiting = self.waiting.entry(kind).or_default();
        if waiting.is_empty() || !kind.is_replaced() {
            waiting.push_front(job);
        }
    }
}

/// Drops the oldest lines beyond [`METRICS_BYTES`].
fn trim(run: &RunId, lines: &mut Vec<u8>) {
    let Some(over) = lines.len().checked_sub(METRICS_BYTES).filter(|over| *over > 0) else {
        return;
    };
    let end = lines[over..].iter().position(|byte| *byte == b'\n');
    let cut = end.map_or(lines.len(), |end| over + end + 1);
    tracing::warn!(%run, bytes = cut, "metrics are lost: the store was unreachable for too long");
    lines.drain(..cut);
}

/// Executes tasks in `storage`, and retries each for at most `patience`.
#[derive(Clone)]
pub(super) struct Executor {
    pub(super) storage: Storage,
    pub(super) handle: Handle,
    pub(super) patience: Duration,
}

/// The outcome of an attempt.
struct Done {
    run: RunId,
    /// The task, if it is to be retried.
    retry: Option<Job>,
    /// The number of the run's next chunk of metrics.
    chunk: u64,
}

/// The background task: runs until all senders are dropped and all tasks are done.
pub(super) async fn work(executor: Executor, mut inbox: mpsc::Receiver<Work>) {
    let mut lines: BTreeMap<RunId, Line> = BTreeMap::new();
    let mut chunks: BTreeMap<RunId, u64> = BTreeMap::new();
    let mut doing = JoinSet::new();
    let mut asked = Vec::new();
    let mut open = true;
    while open || !lines.is_empty() {
        // The run whose next task can start.
        let free = tokio::select! {
            Some(done) = doing.join_next() => {
                let Done { run, retry, chunk } = done.expect("no task panics");
                chunks.insert(run.clone(), chunk);
                if let Some((line, job)) = lines.get_mut(&run).zip(retry) {
                    line.put_back(job);
                }
                run
            }
            work = inbox.recv(), if open => match work {
                None => {
                    open = false;
                    continue;
                }
                Some(Work::Begin { run, chunk }) => {
                    chunks.insert(run, chunk);
                    continue;
                }
                Some(Work::Settled(run, answer)) => {
                    asked.push((run, answer));
                    answer_settled(&lines, &mut asked);
                    continue;
                }
                Some(Work::Task(run, task)) => {
                    let is_busy = lines.contains_key(&run);
                    lines.entry(run.clone()).or_default().add(&run, task);
                    if is_busy {
                        continue;
                    }
                    run
                }
            },
        };
        match lines.get_mut(&free).and_then(Line::next) {
            Some(job) => {
                let chunk = chunks.get(&free).copied().unwrap_or_default();
                let executor = executor.clone();
                doing.spawn(async move { executor.attempt(free, job, chunk).await });
            }
            None => {
                lines.remove(&free);
                answer_settled(&lines, &mut asked);
            }
        }
    }
}

/// The sender for the answer to [`Work::Settled`].
type Asked = (Option<RunId>, oneshot::Sender<()>);

/// Answers the requests for which no task is left.
fn answer_settled(lines: &BTreeMap<RunId, Line>, asked: &mut Vec<Asked>) {
    let is_busy = |run: &Option<RunId>| match run {
        Some(run) => lines.contains_key(run),
        None => !lines.is_empty(),
    };
    for (_, answer) in asked.extract_if(.., |(run, _)| !is_busy(run)) {
        // The caller may have stopped waiting.
        let _ = answer.send(());
    }
}

impl Executor {
    /// Tries a task once. Pauses after a failure that is worth a retry.
    async fn attempt(&self, run: RunId, mut job: Job, mut chunk: u64) -> Done {
        let kind = job.task.kind();
        let failure = self.perform(&run, &job.task, &mut chunk).await.err();
        let began = job.failed.unwrap_or_else(Instant::now);
        let retry = match failure {
            None => None,
            Some(Unpublished::Store(error))
                if error.can_be_mended() && began.elapsed() < kind.patience(self.patience) =>
            {
                if job.failed.is_none() {
                    tracing::warn!(%run, error = chain(&error), "{}", kind.waiting_text());
                }
                tokio::time::sleep(PAUSE).await;
                job.failed = Some(began);
                Some(job)
            }
            Some(error) => {
                let error = chain(&error);
                tracing::warn!(%run, error, "{}", kind.failed_text());
                if kind == Kind::Publish {
                    self.published(&run, Err(error)).await;
                }
                None
            }
        };
        Done { run, retry, chunk }
    }

    async fn perform(&self, run: &RunId, task: &Task, chunk: &mut u64) -> Result<(), Unpublished> {
        let storage = &self.storage;
        match task {
            Task::Spec(yaml) => {
                storage.put(&proto::key::resolved_spec(run), yaml.clone()).await?;
            }
            Task::Receipt(skipped) => {
                checkpoints::receipt::update(storage, run, skipped.clone()).await?
            }
            Task::Metrics(lines) => {
                feed::store(storage, run, chunk, Bytes::from(lines.clone())).await?;
            }
            Task::Discard(id) => checkpoints::delete(storage, run, *id).await?,
            Task::Retain(retained) => checkpoints::retain(storage, run, retained).await?,
            Task::Publish(finished) => {
                let model = checkpoints::publish(storage, finished).await?;
                self.published(run, Ok(model)).await;
            }
        }
        Ok(())
    }

    async fn published(&self, run: &RunId, outcome: Result<String, String>) {
        // The coordinator may have stopped meanwhile.
        let _ = self.handle.event(Event::Published { run: run.clone(), outcome }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::Lineage;

    fn run() -> RunId {
        RunId::new("r")
    }

    fn lines(job: Option<Job>) -> String {
        match job.map(|job| job.task) {
            Some(Task::Metrics(lines)) => String::from_utf8(lines).unwrap(),
            _ => panic!("no metrics"),
        }
    }

    #[test]
    fn waiting_tasks_of_a_run_are_bounded_and_no_line_is_lost() {
        let mut line = Line::default();
        for i in 0..100 {
            line.add(&run(), Task::Receipt(Vec::new()));
            line.add(&run(), Task::Metrics(format!("{i}\n").into()));
        }
        assert_eq!(line.waiting.values().map(VecDeque::len).sum::<usize>(), 2);
        assert_eq!(line.next().unwrap().task.kind(), Kind::Receipt);
        let all: String = (0..100).map(|i| format!("{i}\n")).collect();
        assert_eq!(lines(line.next()), all);
        assert!(line.next().is_none());
    }

    #[test]
    fn a_failed_task_is_retried_after_other_kinds_and_before_newer_ones_of_its_kind() {
        let mut line = Line::default();
        line.add(&run(), Task::Metrics("old\n".into()));
        let mut job = line.next().unwrap();
        job.failed = Some(Instant::now());
        line.add(&run(), Task::Discard(CheckpointId { lineage: Lineage(1), step: 8 }));
        line.add(&run(), Task::Metrics("new\n".into()));
        line.put_back(job);
        line.add(&run(), Task::Metrics("newer\n".into()));
        assert_eq!(line.next().unwrap().task.kind(), Kind::Discard);
        assert_eq!(lines(line.next()), "old\n", "unchanged, since it may have been stored");
        assert_eq!(lines(line.next()), "new\nnewer\n");
        // A failed task that was replaced meanwhile is not retried.
        line.add(&run(), Task::Spec("first".into()));
        let job = line.next().unwrap();
        line.add(&run(), Task::Spec("second".into()));
        line.put_back(job);
        assert!(matches!(line.next().unwrap().task, Task::Spec(yaml) if yaml == "second"));
        assert!(line.next().is_none());
    }

    #[tokio::test]
    async fn a_run_that_cannot_be_written_to_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(&folder.path().to_string_lossy()).unwrap();
        // A file at the path of the run's folder.
        let in_the_way = folder.path().join("stuck");
        std::fs::write(&in_the_way, "").unwrap();
        let (inputs, _) = mpsc::channel(1);
        let handle = Handle::new(inputs, storage.url().to_owned());
        let (works, inbox) = mpsc::channel(QUEUE);
        tokio::spawn(work(Executor { storage, handle, patience: Duration::MAX }, inbox));
        for run in ["stuck", "free"] {
            let task = Task::Spec(format!("{run}'s"));
            works.send(Work::Task(RunId::new(run), task)).await.unwrap();
        }
        let stored = |run| {
            std::fs::read_to_string(folder.path().join(proto::key::resolved_spec(&RunId::new(run))))
        };
        let free = async {
            while stored("free").is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), free).await.unwrap();
        assert_eq!(stored("free").unwrap(), "free's");
        std::fs::remove_file(&in_the_way).unwrap();
        let (answer, settled) = oneshot::channel();
        works.send(Work::Settled(None, answer)).await.unwrap();
        settled.await.unwrap();
        assert_eq!(stored("stuck").unwrap(), "stuck's");
    }

    #[test]
    fn the_oldest_of_too_many_lines_are_dropped() {
        let mut lines = vec![b'x'; METRICS_BYTES - 2];
        lines.extend_from_slice(b"\nlast\n");
        trim(&run(), &mut lines);
        assert_eq!(lines, b"last\n");
    }
}
