//! How collectives fail: hanging and dying peers, errors, aborts and misuse.

mod common;

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::ranks::{
    F32, all_reduce, all_succeed, async_error, init, machines, nonblocking, ranks, with_fault,
};
use common::{Gpu, Handle};
use softgpu::{NcclAction, NcclPlace};

/// The second collective hangs on rank 0; aborting lets its stream go on.
fn hangs_until_abort(rank: u32, other_lives: bool) {
    let gpu = Gpu::ready();
    let comm = init(&gpu, 2, rank);
    let buffer = gpu.upload(&[1_f32; 4]);
    assert_eq!(all_reduce(&gpu, comm, buffer, 4, F32), 0);
    assert_eq!(gpu.synchronize(gpu.stream), 0);
    assert_eq!(all_reduce(&gpu, comm, buffer, 4, F32), 0);
    if rank == 0 || other_lives {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(call!(gpu, cuStreamQuery(gpu.stream => Handle)), 600, "it hangs");
        assert_eq!(call!(gpu, ncclCommAbort(comm => Handle)), 0);
    }
    assert_eq!(gpu.synchronize(gpu.stream), 0);
}

#[test]
fn hanging_collective_waits_for_abort() {
    let settings = with_fault(machines(2), NcclPlace::Collective(2), NcclAction::Hang);
    let outcomes = ranks("hanging_collective_waits_for_abort", &settings, |rank| {
        hangs_until_abort(rank, true)
    });
    all_succeed(&outcomes);
}

#[test]
fn death_of_a_peer_leaves_the_others_waiting() {
    let settings = with_fault(machines(2), NcclPlace::Collective(2), NcclAction::Kill);
    let test = "death_of_a_peer_leaves_the_others_waiting";
    let outcomes = ranks(test, &settings, |rank| hangs_until_abort(rank, false));
    outcomes[0].expect(&[]);
    assert_eq!(outcomes[1].status.code(), None, "rank 1 was killed");
}

#[test]
fn asynchronous_error_is_reported() {
    let settings = with_fault(machines(2), NcclPlace::Collective(1), NcclAction::Error(6));
    let outcomes = ranks("asynchronous_error_is_reported", &settings, |rank| {
        let gpu = Gpu::ready();
        let comm = init(&gpu, 2, rank);
        let buffer = gpu.upload(&[1_f32; 4]);
        assert_eq!(all_reduce(&gpu, comm, buffer, 4, F32), 0);
        if rank == 1 {
            while async_error(&gpu, comm) == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            assert_eq!(async_error(&gpu, comm), 6);
            assert_eq!(all_reduce(&gpu, comm, buffer, 4, F32), 6);
        }
        assert_eq!(call!(gpu, ncclCommAbort(comm => Handle)), 0);
        assert_eq!(gpu.synchronize(gpu.stream), 0);
    });
    all_succeed(&outcomes);
}

#[test]
fn hanging_init_can_be_aborted() {
    let settings = with_fault(machines(2), NcclPlace::Init, NcclAction::Hang);
    let outcomes = ranks("hanging_init_can_be_aborted", &settings, |rank| {
        let gpu = Gpu::ready();
        let comm = nonblocking(&gpu, rank);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(async_error(&gpu, comm), 7);
        assert_eq!(call!(gpu, ncclCommAbort(comm => Handle)), 0);
    });
    all_succeed(&outcomes);
}

#[test]
fn death_in_init_kills_the_rank() {
    let settings = with_fault(machines(2), NcclPlace::Init, NcclAction::Kill);
    let outcomes = ranks("death_in_init_kills_the_rank", &settings, |rank| {
        let gpu = Gpu::ready();
        let comm = nonblocking(&gpu, rank);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(async_error(&gpu, comm), 7);
        assert_eq!(call!(gpu, ncclCommAbort(comm => Handle)), 0);
    });
    outcomes[0].expect(&[]);
    assert_eq!(outcomes[1].status.code(), None, "rank 1 was killed");
}

#[test]
fn call_after_abort_is_found() {
    let outcomes = ranks("call_after_abort_is_found", &machines(1), |rank| {
        let gpu = Gpu::ready();
        let comm = init(&gpu, 1, rank);
        assert_eq!(call!(gpu, ncclCommAbort(comm => Handle)), 0);
        assert_eq!(call!(gpu, ncclCommDestroy(comm => Handle)), 4);
    });
    outcomes[0].expect(&["nccl.dead"]);
}

#[test]
fn calls_of_two_threads_at_once_are_found() {
    let outcomes = ranks("calls_of_two_threads_at_once_are_found", &machines(1), |rank| {
        let gpu = Gpu::ready();
        let comm = init(&gpu, 1, rank) as usize;
        let found = AtomicBool::new(false);
        let deadline = Instant::now() + Duration::from_secs(10);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let gpu = Gpu::open();
                    while !found.load(Ordering::SeqCst) && Instant::now() < deadline {
                        let mut count = 0;
                        call!(gpu, ncclCommCount(comm => usize, &mut count => *mut c_int));
                    }
                });
            }
            while gpu.counters()["violations"].is_null() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            found.store(true, Ordering::SeqCst);
        });
    });
    outcomes[0].expect(&["nccl.threads"]);
}

#[test]
fn different_collectives_are_found() {
    let outcomes = ranks("different_collectives_are_found", &machines(2), |rank| {
        let gpu = Gpu::ready();
        let comm = init(&gpu, 2, rank);
        let buffer = gpu.upload(&[1_f32; 4]);
        assert_eq!(all_reduce(&gpu, comm, buffer, 4 - rank as usize, F32), 0);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(call!(gpu, ncclCommAbort(comm => Handle)), 0);
        assert_eq!(gpu.synchronize(gpu.stream), 0);
    });
    outcomes[0].expect(&["nccl.mismatch"]);
}
