//! Collectives between threads and processes, and which ranks may form a communicator.

mod common;

use std::ffi::c_int;

use common::ranks::{
    BF16, F32, Id, SUM, all_reduce, all_succeed, init, last_error, machines, nonblocking, poll,
    ranks, shared_id, try_init, with_fault,
};
use common::{Gpu, Handle, recording};
use softgpu::{NcclAction, NcclPlace, Settings};

#[test]
fn collectives_agree_on_every_rank() {
    let outcomes = ranks("collectives_agree_on_every_rank", &machines(3), |rank| {
        let gpu = Gpu::ready();
        let comm = init(&gpu, 3, rank);
        let mine: Vec<f32> = (0..6).map(|i| (i + rank as usize * 10) as f32).collect();
        let buffer = gpu.upload(&mine);
        assert_eq!(all_reduce(&gpu, comm, buffer, 6, F32), 0);
        let sums: Vec<f32> = gpu.read(buffer, 6);
        assert!((0..6).all(|i| sums[i] == (3 * i + 30) as f32), "{sums:?}");

        let part = gpu.alloc(8);
        let code = call!(gpu, ncclReduceScatter(
            buffer => u64, part => u64, 2 => usize, F32 => c_int, SUM => c_int,
            comm => Handle, gpu.stream => Handle));
        assert_eq!(code, 0);
        let part_values: Vec<f32> = gpu.read(part, 2);
        assert_eq!(part_values[0], 3.0 * (3 * rank * 2 + 30) as f32);

        let all = gpu.alloc(24);
        let code = call!(gpu, ncclAllGather(
            part => u64, all => u64, 2 => usize, F32 => c_int,
            comm => Handle, gpu.stream => Handle));
        assert_eq!(code, 0);
        let gathered: Vec<f32> = gpu.read(all, 6);
        assert!((0..6).all(|i| gathered[i] == 3.0 * sums[i]));

        let code = call!(gpu, ncclBroadcast(
            buffer => u64, all => u64, 6 => usize, F32 => c_int, 1 => c_int,
            comm => Handle, gpu.stream => Handle));
        assert_eq!(code, 0);
        assert_eq!(gpu.read::<f32>(all, 6), sums);

        let halves = gpu.upload(&[0x3f80_u16; 4]);
        assert_eq!(all_reduce(&gpu, comm, halves, 4, BF16), 0);
        assert_eq!(gpu.read::<u16>(halves, 4), [0x4040; 4], "1 + 1 + 1 = 3 in bf16");
        assert_eq!(call!(gpu, ncclCommDestroy(comm => Handle)), 0);
    });
    all_succeed(&outcomes);
    assert_eq!(outcomes[0].report.total("nccl_collectives"), 15);
}

#[test]
fn threads_of_one_process_form_a_communicator() {
    let settings = [Settings { devices: 2, ..recording() }];
    let outcomes = ranks("threads_of_one_process_form_a_communicator", &settings, |_| {
        let id = shared_id(&Gpu::open(), 0);
        let rank = |rank: u32| {
            let mut gpu = Gpu::open();
            assert_eq!(gpu.set_device(rank as c_int), 0);
            gpu.stream = gpu.new_stream();
            let mut comm: Handle = std::ptr::null_mut();
            let code = call!(gpu, ncclCommInitRank(
                &mut comm => *mut Handle, 2 => c_int, id => Id, rank as c_int => c_int));
            assert_eq!(code, 0);
            let buffer = gpu.upload(&[rank as f32 + 1.0; 8]);
            assert_eq!(all_reduce(&gpu, comm, buffer, 8, F32), 0);
            assert_eq!(gpu.read::<f32>(buffer, 8), [3.0; 8]);
        };
        std::thread::scope(|scope| {
            scope.spawn(|| rank(0));
            scope.spawn(|| rank(1));
        });
    });
    all_succeed(&outcomes);
}

#[test]
fn ranks_of_different_versions_are_refused() {
    let mut settings = machines(2);
    settings[1].nccl = (2, 27, 3);
    let outcomes = ranks("ranks_of_different_versions_are_refused", &settings, |rank| {
        let gpu = Gpu::ready();
        let (_, code) = try_init(&gpu, 2, rank);
        assert_eq!(code, 5);
        let text = last_error(&gpu);
        assert!(text.contains("rank 0 version 22809 rank 1 version 22703"), "{text}");
    });
    all_succeed(&outcomes);
}

#[test]
fn two_ranks_on_one_device_are_refused() {
    let settings = [recording(), recording()];
    let outcomes = ranks("two_ranks_on_one_device_are_refused", &settings, |rank| {
        let gpu = Gpu::ready();
        let (_, code) = try_init(&gpu, 2, rank);
        assert_eq!(code, 5);
        assert!(last_error(&gpu).starts_with("Duplicate GPU detected"), "{}", last_error(&gpu));
    });
    all_succeed(&outcomes);
}

#[test]
fn nonblocking_communicator_proceeds_in_the_background() {
    let settings = with_fault(machines(2), NcclPlace::Init, NcclAction::Slow(100));
    let test = "nonblocking_communicator_proceeds_in_the_background";
    let outcomes = ranks(test, &settings, |rank| {
        let gpu = Gpu::ready();
        let buffer = gpu.upload(&[1_f32; 4]);
        let comm = nonblocking(&gpu, rank);
        assert_eq!(all_reduce(&gpu, comm, buffer, 4, F32), 4, "a call before it is ready");
        assert_eq!(poll(&gpu, comm), 0);
        assert_eq!(all_reduce(&gpu, comm, buffer, 4, F32), 7, "the first sets up channels");
        assert_eq!(poll(&gpu, comm), 0);
        assert_eq!(all_reduce(&gpu, comm, buffer, 4, F32), 0);
        assert_eq!(gpu.read::<f32>(buffer, 4), [4.0; 4]);
        assert_eq!(call!(gpu, ncclCommFinalize(comm => Handle)), 7);
        assert_eq!(poll(&gpu, comm), 0);
        assert_eq!(call!(gpu, ncclCommDestroy(comm => Handle)), 0);
    });
    all_succeed(&outcomes);
}

#[test]
fn groups_enqueue_at_their_end() {
    let outcomes = ranks("groups_enqueue_at_their_end", &machines(2), |rank| {
        let gpu = Gpu::ready();
        let comm = init(&gpu, 2, rank);
        let (one, two) = (gpu.upload(&[1_f32; 4]), gpu.upload(&[2_f32; 4]));
        assert_eq!(call!(gpu, ncclGroupStart()), 0);
        assert_eq!(all_reduce(&gpu, comm, one, 4, F32), 0);
        assert_eq!(all_reduce(&gpu, comm, two, 4, F32), 0);
        assert_eq!(gpu.read::<f32>(one, 4), [1.0; 4], "nothing is enqueued yet");
        assert_eq!(call!(gpu, ncclGroupEnd()), 0);
        assert_eq!(gpu.read::<f32>(two, 4), [4.0; 4]);
        assert_eq!(gpu.read::<f32>(one, 4), [2.0; 4]);
    });
    all_succeed(&outcomes);
}
