//! Each rule finds the mistake it is for, and a correct program breaks none.

mod common;

use std::ffi::{c_int, c_uint, c_void};
use std::os::unix::process::ExitStatusExt;

use common::{Gpu, Handle, recording, scenario};
use softgpu::{Order, Settings, Violations};

/// A kernel of one block that gets one pointer breaks exactly this rule.
fn one_kernel(test: &str, kernel: &str, block: u32, kind: &str) {
    let outcome = scenario(test, &recording(), || {
        let gpu = Gpu::ready();
        let out = gpu.upload(&vec![0_f32; 256]);
        gpu.launch(kernel, 1, block, &[&out]);
        gpu.synchronize(gpu.stream);
    });
    outcome.expect(&[kind]);
    assert_eq!(outcome.report.violations[0].names["kernel"], kernel);
}

#[test]
fn access_outside_a_block_is_found() {
    let outcome = scenario("access_outside_a_block_is_found", &recording(), || {
        let gpu = Gpu::ready();
        let out = gpu.alloc(1024);
        gpu.launch("sample_broken_bounds", 1, 64, &[&out, &(256_i32 - 63)]);
        assert_eq!(gpu.synchronize(gpu.stream), 700);
        assert_eq!(gpu.try_read::<f32>(out, 1).1, 700, "the error is sticky");
    });
    outcome.expect(&["kernel.bounds"]);
    let violation = &outcome.report.violations[0];
    assert_eq!(violation.names["thread"], "63");
    assert!(violation.names["argument"].starts_with('0'), "{violation:?}");
}

#[test]
fn access_across_announced_blocks_is_found() {
    let outcome = scenario("access_across_announced_blocks_is_found", &recording(), || {
        let gpu = Gpu::ready();
        let arena = gpu.alloc(4096);
        gpu.take(arena, 256);
        gpu.take(arena + 512, 256);
        let code = gpu.launch_on(gpu.stream, "sample_broken_bounds", [1, 64, 0], &[&arena, &0_i32]);
        assert_eq!((code, gpu.synchronize(gpu.stream)), (0, 0), "inside the block all is well");
        gpu.launch("sample_broken_bounds", 1, 64, &[&arena, &64_i32]);
        assert_eq!(gpu.synchronize(gpu.stream), 700);
    });
    outcome.expect(&["kernel.bounds"]);
}

#[test]
fn write_through_const_is_found() {
    one_kernel("write_through_const_is_found", "sample_broken_const", 32, "kernel.const");
}

#[test]
fn race_in_shared_memory_is_found() {
    let outcome = scenario("race_in_shared_memory_is_found", &recording(), || {
        let gpu = Gpu::ready();
        let out = gpu.upload(&[0_f32; 64]);
        gpu.launch("sample_broken_shared_race", 1, 64, &[&out]);
        gpu.synchronize(gpu.stream);
    });
    // Without a barrier the first thread also reads what the last has not yet written.
    outcome.expect(&["race.shared", "shared.undefined"]);
}

#[test]
fn undefined_shared_memory_is_found() {
    let test = "undefined_shared_memory_is_found";
    one_kernel(test, "sample_broken_shared_undefined", 64, "shared.undefined");
}

#[test]
fn access_beyond_a_shared_array_is_found() {
    let test = "access_beyond_a_shared_array_is_found";
    one_kernel(test, "sample_broken_shared_bounds", 32, "shared.bounds");
}

#[test]
fn access_beyond_the_dynamic_shared_memory_is_found() {
    let test = "access_beyond_the_dynamic_shared_memory_is_found";
    let outcome = scenario(test, &recording(), || {
        let gpu = Gpu::ready();
        let (values, means) = (gpu.upload(&[1_f32; 64]), gpu.alloc(8));
        let shape = [1, 64, 8];
        let code = gpu.launch_on(
            gpu.stream,
            "sample_row_mean_dynamic",
            shape,
            &[&values, &means, &64_i32],
        );
        assert_eq!((code, gpu.synchronize(gpu.stream)), (0, 700));
    });
    outcome.expect(&["shared.bounds"]);
}

#[test]
fn race_in_global_memory_is_found() {
    one_kernel("race_in_global_memory_is_found", "sample_broken_global_race", 32, "race.global");
}

#[test]
fn barrier_that_not_all_reach_is_found() {
    one_kernel(
        "barrier_that_not_all_reach_is_found",
        "sample_broken_barrier",
        32,
        "kernel.barrier",
    );
}

#[test]
fn shuffle_that_not_all_reach_is_found() {
    one_kernel("shuffle_that_not_all_reach_is_found", "sample_broken_shuffle", 32, "kernel.warp");
}

#[test]
fn violation_aborts_unless_it_is_only_recorded() {
    let settings = Settings { violations: Violations::Abort, ..Settings::default() };
    let outcome = scenario("violation_aborts_unless_it_is_only_recorded", &settings, || {
        let gpu = Gpu::ready();
        let out = gpu.upload(&[0_f32; 32]);
        gpu.launch("sample_broken_global_race", 1, 32, &[&out]);
        gpu.synchronize(gpu.stream);
    });
    assert!(!outcome.status.success());
    assert_eq!(outcome.kinds(), ["race.global"]);
}

#[test]
fn memory_that_was_never_written_is_found() {
    let outcome = scenario("memory_that_was_never_written_is_found", &recording(), || {
        let gpu = Gpu::ready();
        let (a, out) = (gpu.alloc(1024), gpu.alloc(1024));
        gpu.launch("sample_add", 1, 256, &[&a, &a, &out, &256_i32]);
        gpu.synchronize(gpu.stream);
    });
    outcome.expect(&["kernel.undefined"]);
}

#[test]
fn copy_of_memory_that_was_never_written_is_found() {
    let outcome = scenario("copy_of_memory_that_was_never_written_is_found", &recording(), || {
        let gpu = Gpu::ready();
        let arena = gpu.alloc(4096);
        gpu.take(arena, 64);
        gpu.write(arena, &[1_f32; 16]);
        gpu.give(arena, 64);
        gpu.take(arena, 64);
        gpu.write(arena, &[1_f32; 8]);
        let bits: Vec<u32> = gpu.read(arena, 16);
        assert_eq!(bits[0], 1_f32.to_bits());
    });
    outcome.expect(&["memory.undefined"]);
}

#[test]
fn earlier_work_still_reads_a_block_that_was_taken_anew() {
    let settings = Settings { delays: Some(3), ..recording() };
    let test = "earlier_work_still_reads_a_block_that_was_taken_anew";
    let outcome = scenario(test, &settings, || {
        let gpu = Gpu::ready();
        let (arena, out) = (gpu.alloc(4096), gpu.alloc(1024));
        for _ in 0..20 {
            gpu.take(arena, 1024);
            gpu.write(arena, &[2_f32; 256]);
            gpu.launch("sample_add", 1, 256, &[&arena, &arena, &out, &256_i32]);
            gpu.give(arena, 1024);
        }
        assert_eq!(gpu.read::<f32>(out, 256), [4.0; 256]);
    });
    outcome.expect(&[]);
}

/// Two streams use one buffer; `order` says how the second is kept behind the first.
fn two_streams(test: &str, settings: &Settings, order: fn(&Gpu, Handle)) -> common::Outcome {
    scenario(test, settings, || {
        let gpu = Gpu::ready();
        let (a, out) = (gpu.upload(&[1_f32; 256]), gpu.alloc(1024));
        let second = gpu.new_stream();
        gpu.synchronize(gpu.stream);
        gpu.launch("sample_add", 1, 256, &[&a, &a, &out, &256_i32]);
        order(&gpu, second);
        assert_eq!(
            gpu.launch_on(second, "sample_add", [1, 256, 0], &[&out, &out, &a, &256_i32]),
            0
        );
        gpu.synchronize(second);
        gpu.synchronize(gpu.stream);
    })
}

#[test]
fn unordered_streams_are_found_whatever_the_timing() {
    let test = "unordered_streams_are_found_whatever_the_timing";
    for seed in 0..3 {
        let settings = Settings { delays: Some(seed), ..recording() };
        let sleep = |_: &Gpu, _: Handle| std::thread::sleep(std::time::Duration::from_millis(20));
        let outcome = two_streams(test, &settings, sleep);
        // With an unlucky timing the second launch also reads before the first has written.
        let kinds = outcome.kinds();
        assert!(kinds.contains(&"race.stream".to_owned()), "{kinds:?}\n{}", outcome.output);
        let violation = outcome.report.violations.iter().find(|v| v.kind == "race.stream");
        assert_eq!(violation.expect("it was just found").names["first"], "sample_add");
    }
}

#[test]
fn event_orders_streams() {
    let settings = Settings { delays: Some(1), ..recording() };
    let outcome = two_streams("event_orders_streams", &settings, |gpu, second| {
        let event = gpu.new_event();
        gpu.record(event, gpu.stream);
        gpu.wait(second, event);
    });
    outcome.expect(&[]);
}

#[test]
fn event_that_was_queried_until_success_orders_streams() {
    let test = "event_that_was_queried_until_success_orders_streams";
    let outcome = two_streams(test, &recording(), |gpu, _| {
        let event = gpu.new_event();
        gpu.record(event, gpu.stream);
        while call!(gpu, cuEventQuery(event => Handle)) != 0 {
            std::thread::yield_now();
        }
    });
    outcome.expect(&[]);
    assert_eq!(outcome.report.total("host_waits"), 3, "a query is no wait");
    assert!(outcome.report.total("event_queries") >= 1);
}

#[test]
fn pinned_buffer_reused_too_early_is_found() {
    let outcome = scenario("pinned_buffer_reused_too_early_is_found", &recording(), || {
        let gpu = Gpu::ready();
        let (pinned, device) = (gpu.pinned(256), gpu.alloc(256));
        gpu.touch(pinned, 256, true);
        let code = call!(gpu, cuMemcpyHtoDAsync_v2(
            device => u64, pinned.cast_const() => *const c_void, 256 => usize,
            gpu.stream => Handle));
        assert_eq!(code, 0);
        gpu.touch(pinned, 4, true);
        gpu.synchronize(gpu.stream);
    });
    outcome.expect(&["race.host"]);
    assert!(outcome.report.violations[0].message.contains("pinned buffer reused too early"));
}

#[test]
fn pinned_buffer_reused_after_a_wait_is_fine() {
    let settings = Settings { delays: Some(5), order: Order::Seed(4), ..recording() };
    let outcome = scenario("pinned_buffer_reused_after_a_wait_is_fine", &settings, || {
        let gpu = Gpu::ready();
        let (pinned, device) = (gpu.pinned(256), gpu.alloc(256));
        let event = gpu.new_event();
        for _ in 0..10 {
            gpu.touch(pinned, 256, true);
            let code = call!(gpu, cuMemcpyHtoDAsync_v2(
                device => u64, pinned.cast_const() => *const c_void, 256 => usize,
                gpu.stream => Handle));
            assert_eq!(code, 0);
            gpu.record(event, gpu.stream);
            assert_eq!(call!(gpu, cuEventSynchronize(event => Handle)), 0);
        }
        gpu.touch(pinned, 256, true);
    });
    outcome.expect(&[]);
}

#[test]
fn the_default_stream_is_refused() {
    let outcome = scenario("the_default_stream_is_refused", &recording(), || {
        let gpu = Gpu::ready();
        assert_eq!(gpu.synchronize(std::ptr::null_mut()), 400);
    });
    outcome.expect(&["stream.default"]);
}

#[test]
fn work_for_a_destroyed_stream_is_found() {
    let outcome = scenario("work_for_a_destroyed_stream_is_found", &recording(), || {
        let gpu = Gpu::ready();
        let mut handle: Handle = std::ptr::null_mut();
        assert_eq!(call!(gpu, cublasCreate_v2(&mut handle => *mut Handle)), 0);
        let stream = gpu.new_stream();
        assert_eq!(call!(gpu, cublasSetStream_v2(handle => Handle, stream => Handle)), 0);
        assert_eq!(call!(gpu, cuStreamDestroy_v2(stream => Handle)), 0);
        multiply(&gpu, handle, gpu.upload(&[1_f32]));
    });
    outcome.expect(&["stream.destroyed"]);
}

/// Squares a matrix of one element.
fn multiply(gpu: &Gpu, handle: Handle, a: u64) {
    let (one, zero) = (1_f32, 0_f32);
    let address = |value: &f32| std::ptr::from_ref(value).cast::<c_void>();
    let code = call!(gpu, cublasGemmEx(
        handle => Handle, 0 => c_uint, 0 => c_uint, 1 => c_int, 1 => c_int, 1 => c_int,
        address(&one) => *const c_void, a => u64, 0 => c_uint, 1 => c_int,
        a => u64, 0 => c_uint, 1 => c_int, address(&zero) => *const c_void,
        gpu.alloc(4) => u64, 0 => c_uint, 1 => c_int, 68 => c_uint, -1 => c_int));
    assert_eq!(code, 0);
}

#[test]
fn one_workspace_for_two_streams_is_found() {
    let outcome = scenario("one_workspace_for_two_streams_is_found", &recording(), || {
        let gpu = Gpu::ready();
        let (workspace, one) = (gpu.alloc(4096), gpu.upload(&[1_f32]));
        gpu.synchronize(gpu.stream);
        for stream in [gpu.stream, gpu.new_stream()] {
            let mut handle: Handle = std::ptr::null_mut();
            assert_eq!(call!(gpu, cublasCreate_v2(&mut handle => *mut Handle)), 0);
            assert_eq!(call!(gpu, cublasSetStream_v2(handle => Handle, stream => Handle)), 0);
            let code = call!(gpu, cublasSetWorkspace_v2(
                handle => Handle, workspace => u64, 4096_usize => usize));
            assert_eq!(code, 0);
            multiply(&gpu, handle, one);
        }
        assert_eq!(call!(gpu, cuCtxSynchronize()), 0);
    });
    outcome.expect(&["race.stream"]);
    assert!(outcome.report.violations[0].names["second"].starts_with("cublasGemmEx"));
}

#[test]
fn a_host_that_follows_a_device_address_crashes() {
    let outcome = scenario("a_host_that_follows_a_device_address_crashes", &recording(), || {
        let gpu = Gpu::ready();
        let address = gpu.upload(&[7_u32]);
        gpu.synchronize(gpu.stream);
        // SAFETY: the memory is mapped; whether it may be read is what the test finds out.
        let value = unsafe { (address as *const u32).read_volatile() };
        assert_eq!(value, 7);
    });
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !processor.contains(" ospke") {
        println!("skipped: the processor has no protection keys");
        return;
    }
    assert_eq!(outcome.status.signal(), Some(11), "{}", outcome.output);
}
