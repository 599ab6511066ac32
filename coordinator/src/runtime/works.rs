//! What is to be done in storage beside the queue. Nothing waits for it, and no failure of it ends a coordinator.
//!
//! Of one run one thing is done after the other, since what was to be kept then says nothing of what is to be kept now.
//! What fails is tried again when everything else of its run has had its turn. Of work that a later one makes
//! superfluous only the later one is kept, so that what waits is bounded by the number of runs.

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

/// Work that can wait to be taken in; it always is at once.
pub(super) const QUEUE: usize = 1024;
/// Lines of a run's metrics that wait for a store that is away: of more than that the oldest are lost.
const METRICS_BYTES: usize = 64 << 20;
/// Between two attempts at what the store would not do.
const PAUSE: Duration = Duration::from_secs(3);
/// How long it is tried to tidy up: the next checkpoint asks for it anew.
const TIDYING: Duration = Duration::from_secs(3600);

/// A piece of work.
pub(super) enum Work {
    /// Of a run.
    Of(RunId, Task),
    /// Metrics of the run begin with this chunk.
    Begin { run: RunId, chunk: u64 },
    /// Say when everything is done, of this run or of all.
    Settled(Option<RunId>, oneshot::Sender<()>),
}

/// What is to be done for a run.
pub(super) enum Task {
    /// Store the spec as it was resolved.
    Spec(String),
    /// Say in the receipt what was skipped.
    Receipt(Vec<Skipped>),
    /// Add lines to the metrics.
    Metrics(Vec<u8>),
    /// Delete a checkpoint that was given up.
    Discard(CheckpointId),
    /// Bring the checkpoints in storage to those that are kept.
    Retain(Retained),
    /// Copy the finished model to its place.
    Publish(Box<checkpoints::Finished>),
}

/// What a task is of; of a run they take turns in this order.
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
    /// What is said of it while it waits for the store.
    fn waits(self) -> &'static str {
        match self {
            Self::Spec => "the resolved spec waits for the store",
            Self::Receipt => "the receipt waits for the store",
            Self::Metrics => "metrics wait for the store",
            Self::Discard | Self::Retain => "an old checkpoint waits to be deleted",
            Self::Publish => "the model waits for the store",
        }
    }

    /// What is said of it when it is given up.
    fn given_up(self) -> &'static str {
        match self {
            Self::Spec => "the resolved spec is not stored; the journal has it",
            Self::Receipt => "the receipt lacks what was skipped last; the journal has it",
            Self::Metrics => "metrics are lost",
            Self::Discard | Self::Retain => "an old checkpoint stays behind",
            Self::Publish => "the model is not published",
        }
    }

    /// Whether only the last task of the kind counts.
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

/// A task, and how it went so far.
struct Job {
    task: Task,
    /// When it failed first.
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

/// What waits of one run.
#[derive(Default)]
struct Line {
    waiting: BTreeMap<Kind, VecDeque<Job>>,
    /// Of the task that is being done, or was last.
    turn: Option<Kind>,
}

impl Line {
    /// Adds a task; what it makes superfluous goes.
    fn add(&mut self, run: &RunId, task: Task) {
        let kind = task.kind();
        let waiting = self.waiting.entry(kind).or_default();
        if kind.is_replaced() {
            waiting.clear();
        }
        // What may have been stored in part is stored again as it was.
        let untried = waiting.back_mut().filter(|job| job.failed.is_none());
        match (untried, &task) {
            (Some(Job { task: Task::Metrics(before), .. }), Task::Metrics(lines)) => {
                before.extend_from_slice(lines);
                trim(run, before);
            }
            _ => waiting.push_back(Job { task, failed: None }),
        }
    }

    /// Takes the next one out.
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

    /// Puts back what was taken out, unless it is superfluous by now.
    fn again(&mut self, job: Job) {
        let kind = job.task.kind();
        let waiting = self.waiting.entry(kind).or_default();
        if waiting.is_empty() || !kind.is_replaced() {
            waiting.push_front(job);
        }
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

/// Where it is done, who is told, and how long it is tried.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) storage: Storage,
    pub(super) handle: Handle,
    pub(super) patience: Duration,
}

/// What came of an attempt.
struct Done {
    run: RunId,
    /// It is to be tried again.
    again: Option<Job>,
    /// The number of the run's next chunk of metrics.
    chunk: u64,
}

/// Does the work until nobody can send any more, and all of it is done.
pub(super) async fn work(worker: Worker, mut inbox: mpsc::Receiver<Work>) {
    let mut lines: BTreeMap<RunId, Line> = BTreeMap::new();
    let mut chunks: BTreeMap<RunId, u64> = BTreeMap::new();
    let mut doing = JoinSet::new();
    let mut asked = Vec::new();
    let mut open = true;
    while open || !lines.is_empty() {
        // The run whose next task can be begun.
        let free = tokio::select! {
            Some(done) = doing.join_next() => {
                let Done { run, again, chunk } = done.expect("no work panics");
                chunks.insert(run.clone(), chunk);
                if let Some((line, job)) = lines.get_mut(&run).zip(again) {
                    line.again(job);
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
                    say_settled(&lines, &mut asked);
                    continue;
                }
                Some(Work::Of(run, task)) => {
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
                let worker = worker.clone();
                doing.spawn(async move { worker.attempt(free, job, chunk).await });
            }
            None => {
                lines.remove(&free);
                say_settled(&lines, &mut asked);
            }
        }
    }
}

/// Who wants to know when nothing is left to do, of a run or of all.
type Asked = (Option<RunId>, oneshot::Sender<()>);

/// Tells those for whom nothing is left to do.
fn say_settled(lines: &BTreeMap<RunId, Line>, asked: &mut Vec<Asked>) {
    let is_busy = |run: &Option<RunId>| match run {
        Some(run) => lines.contains_key(run),
        None => !lines.is_empty(),
    };
    for (_, answer) in asked.extract_if(.., |(run, _)| !is_busy(run)) {
        // Whoever asked may not have had the patience.
        let _ = answer.send(());
    }
}

impl Worker {
    /// Tries a task once; where that fails and may go better later, a pause follows.
    async fn attempt(&self, run: RunId, mut job: Job, mut chunk: u64) -> Done {
        let kind = job.task.kind();
        let failure = self.perform(&run, &job.task, &mut chunk).await.err();
        let began = job.failed.unwrap_or_else(Instant::now);
        let again = match failure {
            None => None,
            Some(Unpublished::Store(error))
                if error.can_be_mended() && began.elapsed() < kind.patience(self.patience) =>
            {
                if job.failed.is_none() {
                    tracing::warn!(%run, error = chain(&error), "{}", kind.waits());
                }
                tokio::time::sleep(PAUSE).await;
                job.failed = Some(began);
                Some(job)
            }
            Some(error) => {
                let error = chain(&error);
                tracing::warn!(%run, error, "{}", kind.given_up());
                if kind == Kind::Publish {
                    self.published(&run, Err(error)).await;
                }
                None
            }
        };
        Done { run, again, chunk }
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
    fn what_waits_of_a_run_is_bounded_and_no_line_is_lost() {
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
    fn what_fails_comes_again_after_everything_else_and_before_what_is_newer_of_its_kind() {
        let mut line = Line::default();
        line.add(&run(), Task::Metrics("old\n".into()));
        let mut job = line.next().unwrap();
        job.failed = Some(Instant::now());
        line.add(&run(), Task::Discard(CheckpointId { lineage: Lineage(1), step: 8 }));
        line.add(&run(), Task::Metrics("new\n".into()));
        line.again(job);
        line.add(&run(), Task::Metrics("newer\n".into()));
        assert_eq!(line.next().unwrap().task.kind(), Kind::Discard);
        assert_eq!(lines(line.next()), "old\n", "as it was when it may have been stored");
        assert_eq!(lines(line.next()), "new\nnewer\n");
        // What is superfluous by then does not.
        line.add(&run(), Task::Spec("first".into()));
        let job = line.next().unwrap();
        line.add(&run(), Task::Spec("second".into()));
        line.again(job);
        assert!(matches!(line.next().unwrap().task, Task::Spec(yaml) if yaml == "second"));
        assert!(line.next().is_none());
    }

    #[tokio::test]
    async fn a_run_that_cannot_be_written_to_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(&folder.path().to_string_lossy()).unwrap();
        // A file where the run's folder should be.
        let in_the_way = folder.path().join("stuck");
        std::fs::write(&in_the_way, "").unwrap();
        let (inputs, _) = mpsc::channel(1);
        let handle = Handle::new(inputs, storage.url().to_owned());
        let (works, inbox) = mpsc::channel(QUEUE);
        tokio::spawn(work(Worker { storage, handle, patience: Duration::MAX }, inbox));
        for run in ["stuck", "free"] {
            let task = Task::Spec(format!("{run}'s"));
            works.send(Work::Of(RunId::new(run), task)).await.unwrap();
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
    fn of_too_many_lines_the_oldest_are_lost() {
        let mut lines = vec![b'x'; METRICS_BYTES - 2];
        lines.extend_from_slice(b"\nlast\n");
        trim(&run(), &mut lines);
        assert_eq!(lines, b"last\n");
    }
}
