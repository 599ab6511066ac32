//! The conformance suite that every implementation must pass.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::ring::tests::ring_world;
use super::{Collective, Error, InProcess, Kind, Pending, SameHost};
use crate::device::{Buffer, Dtype, Element};
use half::bf16;

pub(super) type World = Vec<Box<dyn Collective>>;
/// Makes the ranks of a world of the given size; each wait without progress is limited to the duration.
pub(super) type Make = fn(usize, Duration) -> World;

const PATIENT: Duration = Duration::from_secs(60);

macro_rules! conforms {
    ($implementation:ident, $make:expr, [$($claim:ident),* $(,)?]) => {
        mod $implementation {
            use super::*;
            const MAKE: Make = $make;
            $(#[test] fn $claim() { super::$claim(MAKE) })*
        }
    };
}

macro_rules! implementations {
    ($($implementation:ident: $make:expr;)*) => {
        $(conforms!($implementation, $make, [
            sums_are_exact_for_every_size_and_world,
            sums_have_the_same_bits_on_every_rank,
            sums_of_bf16_are_exact_for_every_size_and_world,
            sums_of_bf16_have_the_same_bits_on_every_rank,
            buckets_of_both_types_in_flight_come_back_as_launched,
            many_buckets_in_flight_come_back_as_launched,
            control_between_reductions_sums_in_rank_order,
            broadcast_reaches_all_from_every_root,
            broadcast_from_a_missing_rank_is_refused,
            barrier_holds_until_all_ranks_have_arrived,
            rank_may_leave_after_its_last_call,
            abort_unblocks_a_waiting_rank_within_a_second,
            abort_of_an_idle_rank_breaks_the_others,
            death_of_a_rank_breaks_all_others_and_is_named,
            dropping_a_rank_during_a_reduction_breaks_the_others,
            different_calls_are_a_mismatch,
            silent_rank_times_out_and_is_named,
            calls_are_counted,
        ]);)*
    };
}

implementations! {
    in_process: in_process;
    ring_over_unix_sockets: |size, stall| ring_world(size, stall, SameHost::UnixSocket, false);
    ring_over_tcp: |size, stall| ring_world(size, stall, SameHost::Tcp, false);
    ring_over_tcp_encrypted: |size, stall| ring_world(size, stall, SameHost::Tcp, true);
}

fn in_process(size: usize, stall: Duration) -> World {
    InProcess::world(size, stall).into_iter().map(|rank| Box::new(rank) as _).collect()
}

/// Runs every rank on its own thread, and returns their results in rank order.
fn on_each<T: Send>(world: World, run: impl Fn(Box<dyn Collective>) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> =
            world.into_iter().map(|rank| scope.spawn(move || run(rank))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the rank's claim holds")).collect()
    })
}

/// A whole number, so that sums are exact in any order.
fn whole(rank: usize, index: usize) -> f32 {
    ((index * 31 + rank * 17) % 1009) as f32
}

/// A number whose sums are rounded, so that they depend on the order.
fn awkward(rank: usize, index: usize) -> f32 {
    let mixed = (index as u32 ^ (rank as u32) << 20).wrapping_mul(0x9E37_79B9) >> 8;
    (mixed as f32 / 1e6 - 8.0) * 10f32.powi((index % 9) as i32 - 4)
}

/// A type in which buckets are summed.
trait Value: Element {
    /// The distance between 1 and the next value.
    const EPSILON: f64;
    fn nearest(x: f32) -> Self;
    fn exact(self) -> f64;
}

impl Value for f32 {
    const EPSILON: f64 = f32::EPSILON as f64;

    fn nearest(x: f32) -> Self {
        x
    }

    fn exact(self) -> f64 {
        self.into()
    }
}

impl Value for bf16 {
    const EPSILON: f64 = 1.0 / 128.0;

    fn nearest(x: f32) -> Self {
        Self::from_f32(x)
    }

    fn exact(self) -> f64 {
        self.to_f64()
    }
}

fn reduce<T: Value>(rank: &mut dyn Collective, bucket: Vec<T>) -> Result<Vec<T>, Error> {
    Ok(rank.reduce(bucket.into())?.wait()?.into_vec())
}

fn launch(rank: &mut dyn Collective, bucket: Vec<f32>) -> Result<Pending, Error> {
    rank.reduce(bucket.into())
}

fn broadcast(rank: &mut dyn Collective, root: usize, values: Vec<f32>) -> Result<Vec<f32>, Error> {
    let mut buffer = Buffer::from(values);
    rank.broadcast(root, buffer.all_mut())?;
    Ok(buffer.into_vec())
}

pub(super) fn sums_are_exact_for_every_size_and_world(make: Make) {
    assert_exact_sums::<f32>(make, whole);
}

pub(super) fn sums_of_bf16_are_exact_for_every_size_and_world(make: Make) {
    // All sums are whole numbers below 256, which have 8 bits.
    assert_exact_sums::<bf16>(make, |rank, index| whole(rank, index) % 51.0);
}

fn assert_exact_sums<T: Value>(make: Make, term: fn(usize, usize) -> f32) {
    for world_size in 1..=5 {
        on_each(make(world_size, PATIENT), |mut rank| {
            assert_eq!(rank.world_size(), world_size);
            for len in [0, 1, 2, 3, 4, 5, 7, 1000, 65_537, 1_300_001] {
                let me = rank.rank();
                let mine: Vec<T> = (0..len).map(|index| T::nearest(term(me, index))).collect();
                let sum = reduce(&mut *rank, mine).expect("all ranks take part");
                let right =
                    (0..len).map(|index| -> f32 { (0..world_size).map(|r| term(r, index)).sum() });
                let same = sum.into_iter().map(T::exact).eq(right.map(f64::from));
                assert!(same, "{len} values over {world_size} ranks");
            }
        });
    }
}

pub(super) fn sums_have_the_same_bits_on_every_rank(make: Make) {
    assert_equal_sums::<f32>(make);
}

pub(super) fn sums_of_bf16_have_the_same_bits_on_every_rank(make: Make) {
    assert_equal_sums::<bf16>(make);
}

fn assert_equal_sums<T: Value>(make: Make) {
    const LEN: usize = 100_003;
    let term = |rank: usize, index: usize| T::nearest(awkward(rank, index));
    for world_size in 2..=5 {
        let sums = on_each(make(world_size, PATIENT), |mut rank| {
            let mine = (0..LEN).map(|index| term(rank.rank(), index)).collect();
            reduce(&mut *rank, mine).expect("all ranks take part")
        });
        assert!(sums.iter().all(|sum| bytes(sum) == bytes(&sums[0])));
        for (index, &sum) in sums[0].iter().enumerate() {
            let terms = (0..world_size).map(|rank| term(rank, index).exact());
            let (right, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
            // Each addition has a rounding error of at most half a unit in the last place of the largest intermediate
            // sum.
            let tolerance = world_size as f64 * T::EPSILON / 2.0 * size;
            assert!((sum.exact() - right).abs() <= tolerance, "{index}: {sum:?} is not {right}");
        }
    }
}

fn bytes<T: Value>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

pub(super) fn buckets_of_both_types_in_flight_come_back_as_launched(make: Make) {
    on_each(make(3, PATIENT), |mut rank| {
        let me = rank.rank();
        let launched = |number: usize| {
            let (value, len) = ((me + number) as f32, 1 + 97 * number);
            let bucket = match number % 3 {
                0 => vec![bf16::from_f32(value); len].into(),
                _ => vec![value; len].into(),
            };
            rank.reduce(bucket).expect("nothing is broken")
        };
        // The sums are whole numbers below 256.
        let pending: Vec<_> = (0..80).map(launched).collect();
        for (number, pending) in pending.into_iter().enumerate().rev() {
            let sum = pending.wait().expect("all ranks take part");
            let right = vec![(3 + 3 * number) as f32; 1 + 97 * number];
            assert_eq!(*sum.read_f32(), right);
        }
    });
}

pub(super) fn many_buckets_in_flight_come_back_as_launched(make: Make) {
    on_each(make(3, PATIENT), |mut rank| {
        let me = rank.rank();
        let launched = |number: usize| {
            let bucket = vec![(me + number) as f32; 1 + 97 * number];
            launch(&mut *rank, bucket).expect("nothing is broken")
        };
        let pending: Vec<_> = (0..200).map(launched).collect();
        for (number, pending) in pending.into_iter().enumerate().rev() {
            let right = vec![(3 + 3 * number) as f32; 1 + 97 * number];
            assert_eq!(*pending.wait().expect("all ranks take part").read::<f32>(), right);
        }
    });
}

pub(super) fn control_between_reductions_sums_in_rank_order(make: Make) {
    // In another order, the ones would be lost to rounding.
    let term = |rank: usize| [1e16, -1e16, 1.0, 0.5][rank % 4];
    for world_size in 1..=5 {
        on_each(make(world_size, PATIENT), |mut rank| {
            let me = rank.rank();
            for step in 0..20 {
                let before = launch(&mut *rank, vec![1.0; 5000]).expect("nothing is broken");
                let mut values = [term(me), f64::from(step), me as f64];
                rank.control(&mut values).expect("all ranks take part");
                let after = launch(&mut *rank, vec![2.0; 3]).expect("nothing is broken");

                let mut ordered = 0.0;
                (0..world_size).for_each(|rank| ordered += term(rank));
                let (world, ranks) = (world_size as f64, (0..world_size).sum::<usize>() as f64);
                assert_eq!(values, [ordered, f64::from(step) * world, ranks]);
                let [before, after] =
                    [before, after].map(|pending| pending.wait().expect("it ran"));
                assert_eq!(*before.read::<f32>(), vec![world_size as f32; 5000]);
                assert_eq!(*after.read::<f32>(), vec![2.0 * world_size as f32; 3]);
            }
            rank.control(&mut []).expect("an empty sum is allowed");
        });
    }
}

pub(super) fn broadcast_reaches_all_from_every_root(make: Make) {
    for world_size in 1..=5 {
        on_each(make(world_size, PATIENT), |mut rank| {
            let me = rank.rank();
            for (root, len) in
                (0..world_size).flat_map(|root| [0, 1, 5, 700_001].map(|len| (root, len)))
            {
                let values = (0..len).map(|index| awkward(me, index)).collect();
                let values = broadcast(&mut *rank, root, values).expect("all ranks take part");
                let right = (0..len).map(|index| awkward(root, index));
                assert!(values.iter().copied().eq(right), "{len} values from rank {root}");
            }
        });
    }
}

fn broadcast_from_a_missing_rank_is_refused(make: Make) {
    for mut rank in make(2, PATIENT) {
        let error = broadcast(&mut *rank, 2, vec![1.0]).expect_err("there are ranks 0 and 1");
        assert_eq!(error.to_string(), "there is no rank 2 in a world of 2");
    }
}

pub(super) fn barrier_holds_until_all_ranks_have_arrived(make: Make) {
    for world_size in 1..=5 {
        let arrived = AtomicUsize::new(0);
        on_each(make(world_size, PATIENT), |mut rank| {
            for round in 1..=10 {
                arrived.fetch_add(1, Ordering::SeqCst);
                rank.barrier().expect("all ranks take part");
                assert!(arrived.load(Ordering::SeqCst) >= round * world_size);
                rank.barrier().expect("all ranks take part");
            }
        });
    }
}

pub(super) fn rank_may_leave_after_its_last_call(make: Make) {
    for world_size in 1..=4 {
        for _ in 0..25 {
            on_each(make(world_size, PATIENT), |mut rank| {
                let sum =
                    reduce(&mut *rank, vec![1f32; 40_000]).expect("nobody left before the end");
                assert_eq!(sum, vec![world_size as f32; 40_000]);
            });
        }
    }
}

pub(super) fn abort_unblocks_a_waiting_rank_within_a_second(make: Make) {
    let mut world = make(3, PATIENT);
    let mut two = world.pop().expect("rank 2");
    let mut one = world.pop().expect("rank 1");
    let zero = world.pop().expect("rank 0 takes no part, so nothing can finish");
    let pending = launch(&mut *one, vec![1.0; 1_000_000]).expect("nothing is broken");
    let abort = one.abort_handle();
    let at = std::thread::scope(|scope| {
        let other = scope.spawn(|| reduce(&mut *two, vec![1f32; 1_000_000]));
        let waiting = scope.spawn(|| pending.wait());
        let blocked_in_a_call = scope.spawn(|| one.control(&mut [1.0]));
        let at = Instant::now();
        abort.abort();
        let waited = waiting.join().expect("no panic").expect_err("it was aborted");
        assert!(matches!(waited, Error::Aborted), "{waited}");
        let blocked = blocked_in_a_call.join().expect("no panic").expect_err("it was aborted");
        assert!(matches!(blocked, Error::Aborted), "{blocked}");
        let other = other.join().expect("no panic").expect_err("rank 1 is gone");
        assert!(matches!(other, Error::Broken { .. }), "{other}");
        at
    });
    assert!(at.elapsed() < Duration::from_secs(1), "took {:?}", at.elapsed());
    assert!(matches!(reduce(&mut *one, vec![1f32]), Err(Error::Aborted)));
    assert!(matches!(one.barrier(), Err(Error::Aborted)));
    drop(zero);
}

pub(super) fn abort_of_an_idle_rank_breaks_the_others(make: Make) {
    let mut world = make(3, PATIENT);
    let idle = world.remove(1);
    idle.abort_handle().abort();
    for error in on_each(world, |mut rank| rank.barrier().expect_err("rank 1 is gone")) {
        assert!(matches!(error, Error::Broken { rank: 1, .. }), "{error}");
    }
    drop(idle);
}

pub(super) fn death_of_a_rank_breaks_all_others_and_is_named(make: Make) {
    for world_size in 2..=5 {
        for (dead, len) in (0..world_size).flat_map(|dead| [1, 500_000].map(|len| (dead, len))) {
            let mut world = make(world_size, PATIENT);
            let corpse = std::sync::Mutex::new(Some(world.remove(dead)));
            let errors = on_each(world, |mut rank| {
                let pending = launch(&mut *rank, vec![1.0; len]);
                corpse.lock().expect("no panic").take();
                let error = pending.and_then(super::Pending::wait).expect_err("a rank is dead");
                let later = rank.control(&mut [1.0]).expect_err("the collective is finished");
                assert!(matches!(later, Error::Broken { .. }), "{later}");
                error
            });
            for error in errors {
                let named = matches!(error, Error::Broken { rank, .. } if rank == dead);
                assert!(named, "rank {dead} of {world_size} died: {error}");
            }
        }
    }
}

pub(super) fn dropping_a_rank_during_a_reduction_breaks_the_others(make: Make) {
    let mut world = make(3, PATIENT);
    let two = world.pop().expect("rank 2 takes no part yet");
    let errors = on_each(world, |mut rank| {
        // Rank 1 may notice the end of rank 0 before its own launch.
        let pending = launch(&mut *rank, vec![1.0; 2_000_000]);
        if rank.rank() == 0 {
            drop(rank);
        }
        pending.and_then(Pending::wait).expect_err("rank 0 is gone")
    });
    drop(two);
    assert!(matches!(errors[0], Error::Aborted), "{}", errors[0]);
    assert!(matches!(errors[1], Error::Broken { .. }), "{}", errors[1]);
}

fn different_calls_are_a_mismatch(make: Make) {
    let errors = on_each(make(2, PATIENT), |mut rank| {
        let len = 3 + rank.rank();
        reduce(&mut *rank, vec![1f32; len]).expect_err("lengths differ")
    });
    let mismatch = errors.iter().find(|error| matches!(error, Error::Mismatch { .. }));
    let text = mismatch.expect("the two disagree").to_string();
    assert!(text.contains("reduce, 3 values") && text.contains("reduce, 4 values"), "{text}");

    let errors = on_each(make(2, PATIENT), |mut rank| {
        let bucket = match rank.rank() {
            0 => vec![1f32; 3].into(),
            _ => vec![bf16::ONE; 3].into(),
        };
        rank.reduce(bucket).and_then(Pending::wait).expect_err("types differ")
    });
    let mismatch = errors.iter().find(|error| matches!(error, Error::Mismatch { .. }));
    let text = mismatch.expect("the two disagree").to_string();
    assert!(text.contains("3 values of f32") && text.contains("3 values of bf16"), "{text}");

    let errors = on_each(make(3, PATIENT), |mut rank| {
        if rank.rank() == 1 { rank.barrier() } else { rank.control(&mut [0.0]) }
            .expect_err("calls differ")
    });
    assert!(errors.iter().any(|error| matches!(error, Error::Mismatch { .. })), "{errors:?}");
}

fn silent_rank_times_out_and_is_named(make: Make) {
    let mut world = make(2, Duration::from_millis(50));
    let mut one = world.pop().expect("rank 1");
    one.control(&mut [1.0]).expect_err("rank 0 is silent");
    let mut world = make(2, Duration::from_millis(50));
    let silent = world.remove(0);
    let mut one = world.remove(0);
    let error = reduce(&mut *one, vec![1f32; 9]).expect_err("rank 0 is silent");
    match error {
        Error::Timeout { rank: 0, call, .. } => {
            assert_eq!((call.number, call.kind), (0, Kind::Reduce(Dtype::F32)))
        }
        other => panic!("not a timeout of rank 0: {other}"),
    }
    drop(silent);
}

pub(super) fn calls_are_counted(make: Make) {
    on_each(make(2, PATIENT), |mut rank| {
        assert_eq!(rank.calls(), 0);
        reduce(&mut *rank, vec![1f32]).expect("all ranks take part");
        rank.control(&mut [1.0]).expect("all ranks take part");
        broadcast(&mut *rank, 0, vec![1.0]).expect("all ranks take part");
        rank.barrier().expect("all ranks take part");
        assert_eq!(rank.calls(), 4);
    });
}
