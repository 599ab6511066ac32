//! Tests of the owner of a communicator, with an NCCL that does as a test says.

mod fake;
mod gpu;

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::*;
use crate::collective::AbortHandle;
use crate::collective::ring::tests::{patient, rings};
use crate::device::Dtype;
use fake::{FakeQueue, INVALID_USAGE, REMOTE_ERROR, Script, Trace, functions, world};

const SOON: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(60);
const PATIENT: Limits = Limits { join: LONG, leave: LONG, stall: LONG };

/// Rank 0 of two ranks, of which the other has only a ring.
struct Rank {
    nccl: Nccl<FakeQueue>,
    ring: Ring,
    other: Ring,
    trace: Trace,
    queue: FakeQueue,
}

/// A rank that has not joined yet, and the id of the communicator to join.
fn rank(script: Script, limits: Limits) -> (Rank, communicator::Id) {
    let mut rings = rings(2, &patient());
    let (other, ring) = (rings.remove(1), rings.remove(0));
    let queue = FakeQueue::default();
    let trace = queue.trace.clone();
    let id = world(script, trace.clone());
    let nccl = Nccl::start(&ring, functions(), queue.clone(), limits).expect("threads start");
    (Rank { nccl, ring, other, trace, queue }, id)
}

fn joined(script: Script, limits: Limits) -> Rank {
    let (rank, id) = rank(script, limits);
    rank.join(id).expect("joining ends");
    rank
}

impl Rank {
    fn join(&self, id: communicator::Id) -> Result<(), Error> {
        self.nccl.ask(|joined| Message::Join(id, joined))
    }

    fn reduce(&mut self) -> Started<()> {
        let call = self.ring.count(Dtype::F32, 4).expect("the ring has not ended");
        let bucket = Window { address: 256, elements: 4, dtype: Dtype::F32 };
        self.nccl.reduce(call, bucket, ())
    }

    /// The error with which the ring ends soon.
    fn ends(&self) -> Error {
        ends(&self.ring)
    }
}

fn ends(ring: &Ring) -> Error {
    let (end, ended) = channel();
    ring.lifeline().on_end(move || {
        let _ = end.send(());
    });
    ended.recv_timeout(SOON).expect("the ring ends");
    ring.lifeline().error().expect("it has ended")
}

#[test]
fn a_reduction_is_answered_before_it_is_done() {
    let mut rank = joined(Script { join_polls: 5, ..Script::default() }, PATIENT);
    let started = [rank.reduce(), rank.reduce()];
    started.iter().for_each(|started| drop(started.done().expect("it has started")));
    assert_eq!(rank.trace.all()[1..], ["wait", "all-reduce", "mark"].repeat(2));
    rank.queue.is_done.store(true, Ordering::SeqCst);
    let Rank { nccl, ring, trace, .. } = rank;
    drop(nccl);
    assert_eq!(trace.all()[7..], ["finalize", "destroy"]);
    assert!(ring.lifeline().error().is_none());
}

#[test]
fn a_reduction_in_progress_is_in_the_stream_before_its_end_is_marked() {
    // The fake panics if a call is made meanwhile.
    let mut rank = joined(Script { reduce_polls: 3, ..Script::default() }, PATIENT);
    let started = [rank.reduce(), rank.reduce()];
    started.iter().for_each(|started| drop(started.done().expect("it has started")));
}

#[test]
fn joining_that_never_ends_is_aborted() {
    let join = Duration::from_millis(50);
    let script = Script { join_polls: usize::MAX, ..Script::default() };
    let (rank, id) = rank(script, Limits { join, ..PATIENT });
    let error = rank.join(id).expect_err("it never ends");
    assert_eq!(error.to_string(), "ncclCommInitRankConfig did not finish within 0.05 s");
    assert!(matches!(ends(&rank.other), Error::Broken { rank: 0, .. }));
    let Rank { nccl, trace, .. } = rank;
    drop(nccl);
    assert_eq!(trace.all(), ["init", "abort", "hold"]);
}

#[test]
fn an_abort_or_a_death_interrupts_joining() {
    let interruptions: [fn(&Rank) -> AbortHandle; 2] =
        [|rank| rank.ring.abort_handle(), |rank| rank.other.abort_handle()];
    let errors = interruptions.map(|whose| {
        let script = Script { join_polls: usize::MAX, ..Script::default() };
        let (rank, id) = rank(script, PATIENT);
        let began = Instant::now();
        let error = std::thread::scope(|scope| {
            let joining = scope.spawn(|| rank.nccl.ask(|joined| Message::Join(id, joined)));
            whose(&rank).abort();
            joining.join().expect("no panic").expect_err("it was interrupted")
        });
        assert!(began.elapsed() < SOON, "{error}");
        error
    });
    let [aborted, broken] = errors;
    assert!(matches!(aborted, Error::Aborted), "{aborted}");
    assert!(matches!(broken, Error::Broken { rank: 1, .. }), "{broken}");
}

#[test]
fn a_failed_reduction_ends_the_ring_with_its_reason() {
    let mut rank = joined(Script { reduce_code: INVALID_USAGE, ..Script::default() }, PATIENT);
    let error = rank.reduce().done().expect_err("it failed");
    assert_eq!(error.to_string(), "ncclAllReduce: invalid usage (5): the peer hung up");
    // The bucket is let go of before its reduction fails.
    assert_eq!(rank.trace.all()[1..], ["wait", "all-reduce", "abort", "hold"]);
    let later = rank.ring.barrier().expect_err("the ring has ended");
    assert_eq!(later.to_string(), error.to_string());
    assert!(matches!(ends(&rank.other), Error::Broken { rank: 0, .. }));
}

#[test]
fn an_error_of_outstanding_work_ends_the_ring() {
    let script = Script { status_after: Some((2, REMOTE_ERROR)), ..Script::default() };
    let mut rank = joined(script, PATIENT);
    let started = [rank.reduce(), rank.reduce()];
    started.iter().for_each(|started| drop(started.done().expect("it has started")));
    let text = rank.ends().to_string();
    assert_eq!(text, "ncclAllReduce: remote process exited (6): the peer hung up");
    assert!(matches!(ends(&rank.other), Error::Broken { rank: 0, .. }));
    let Rank { nccl, trace, .. } = rank;
    drop(nccl);
    assert_eq!(trace.all()[7..], ["abort", "hold"]);
}

#[test]
fn a_lost_rank_explains_an_error_of_nccl() {
    let script = Script { status_after: Some((1, REMOTE_ERROR)), ..Script::default() };
    let mut rank = joined(script, PATIENT);
    drop(rank.reduce().done());
    rank.other.abort_handle().abort();
    let error = rank.ends();
    assert!(matches!(error, Error::Broken { rank: 1, .. }), "{error}");
}

#[test]
fn a_death_during_a_reduction_aborts_it_within_a_second() {
    let mut rank = joined(Script::default(), PATIENT);
    rank.reduce().done().expect("it has started");
    let began = Instant::now();
    rank.other.abort_handle().abort();
    let error = rank.ends();
    assert!(matches!(error, Error::Broken { rank: 1, .. }), "{error}");
    let Rank { nccl, trace, .. } = rank;
    drop(nccl);
    assert_eq!(trace.all()[4..], ["abort", "hold"]);
    assert!(began.elapsed() < SOON);
}

#[test]
fn a_rank_that_leaves_without_its_reduction_is_lost() {
    let mut rank = joined(Script::default(), PATIENT);
    rank.reduce().done().expect("it has started");
    drop(rank.other);
    let error = ends(&rank.ring);
    assert!(matches!(error, Error::Broken { rank: 1, .. }), "{error}");
}

#[test]
fn a_reduction_without_progress_is_aborted_and_named() {
    let stall = Duration::from_millis(50);
    let mut rank = joined(Script::default(), Limits { stall, ..PATIENT });
    rank.reduce().done().expect("it has started");
    let text = rank.ends().to_string();
    assert_eq!(text, "call 0 (reduce, 4 values of f32) made no progress for 0.05 s");
    let Rank { nccl, trace, .. } = rank;
    drop(nccl);
    assert_eq!(trace.all()[4..], ["abort", "hold"]);
}

#[test]
fn leaving_during_a_reduction_breaks_the_others() {
    let mut rank = joined(Script::default(), PATIENT);
    rank.reduce().done().expect("it has started");
    let Rank { nccl, other, trace, .. } = rank;
    drop(nccl);
    assert_eq!(trace.all()[4..], ["abort", "hold"]);
    assert!(matches!(ends(&other), Error::Broken { rank: 0, .. }));
}

#[test]
fn a_communicator_that_does_not_finalize_is_aborted_and_breaks_nobody() {
    let leave = Duration::from_millis(50);
    let script = Script { finalize_polls: usize::MAX, ..Script::default() };
    let Rank { nccl, ring, trace, .. } = joined(script, Limits { leave, ..PATIENT });
    drop(nccl);
    assert_eq!(trace.all(), ["init", "finalize", "abort"]);
    assert!(ring.lifeline().error().is_none());
}

#[test]
fn ranks_join_by_the_ring_and_only_with_one_version() {
    let join = |versions: [Version; 2]| {
        let joined = |(mut ring, version): (Ring, Version)| {
            move || {
                let queue = FakeQueue::default();
                queue.is_done.store(true, Ordering::SeqCst);
                let nccl = Nccl::join(&mut ring, functions(), version, queue)?;
                let bucket = Window { address: 256, elements: 1, dtype: Dtype::Bf16 };
                nccl.reduce(ring.count(Dtype::Bf16, 1)?, bucket, ()).done().map(drop)
            }
        };
        let threads: Vec<_> = rings(2, &patient())
            .into_iter()
            .zip(versions)
            .map(|member| std::thread::spawn(joined(member)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
    };
    let [old, new] = [Version::new(2, 27), Version::new(2, 28)];
    for result in join([new, new]) {
        result.expect("both join");
    }
    for result in join([new, old]) {
        let text = result.expect_err("versions differ").to_string();
        assert!(text.contains("rank 0 has 2.28, rank 1 has 2.27"), "{text}");
    }
}

#[test]
fn a_call_that_does_not_return_is_reported_by_name() {
    let heartbeat = Heartbeat::default();
    let (report, reported) = channel();
    let end = move |call| {
        let _ = report.send(call);
    };
    let budget = Duration::from_millis(40);
    let _watchdog = Watchdog::start(heartbeat.clone(), budget, end).expect("threads start");
    heartbeat.during("ncclAllReduce", || {});
    let idle = reported.recv_timeout(4 * budget);
    assert!(idle.is_err(), "{idle:?}: a call that has returned is not overdue");
    let call = heartbeat.during("ncclCommAbort", || reported.recv_timeout(SOON));
    assert_eq!(call, Ok("ncclCommAbort"));
}
