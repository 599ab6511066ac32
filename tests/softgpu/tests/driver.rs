//! Errors and limits of the driver, NVRTC and cuBLAS, as documented, and the faults to inject.

mod common;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use common::{Gpu, Handle, command, fresh_folder, recording, scenario};
use softgpu::{Fault, Settings};

#[test]
fn calls_before_cu_init_and_without_a_context_are_refused() {
    let test = "calls_before_cu_init_and_without_a_context_are_refused";
    let outcome = scenario(test, &recording(), || {
        let gpu = Gpu::open();
        let (mut count, mut version, mut address) = (0, 0, 0);
        assert_eq!(call!(gpu, cuDriverGetVersion(&mut version => *mut c_int)), 0);
        assert_eq!(version, 13000);
        assert_eq!(call!(gpu, cuDeviceGetCount(&mut count => *mut c_int)), 3);
        assert_eq!(call!(gpu, cuInit(1 => c_uint)), 1);
        assert_eq!(call!(gpu, cuInit(0 => c_uint)), 0);
        assert_eq!(call!(gpu, cuDeviceGetCount(&mut count => *mut c_int)), 0);
        assert_eq!(count, 1);
        let alloc = call!(gpu, cuMemAlloc_v2(&mut address => *mut u64, 16_usize => usize));
        assert_eq!(alloc, 201);
        let mut device = 0;
        assert_eq!(call!(gpu, cuDeviceGet(&mut device => *mut c_int, 1 => c_int)), 101);
    });
    outcome.expect(&[]);
}

#[test]
fn all_names_open_one_library() {
    let outcome = scenario("all_names_open_one_library", &recording(), || {
        let first = Gpu::open().symbol("ncclGetVersion");
        for name in softgpu::LIBRARY_NAMES {
            assert_eq!(Gpu::open_as(name).symbol("ncclGetVersion"), first, "{name}");
        }
    });
    outcome.expect(&[]);
}

#[test]
fn names_of_errors_are_those_of_the_header() {
    let outcome = scenario("names_of_errors_are_those_of_the_header", &recording(), || {
        let gpu = Gpu::open();
        let mut text: *const c_char = std::ptr::null();
        assert_eq!(call!(gpu, cuGetErrorName(700 => c_uint, &mut text => *mut *const c_char)), 0);
        // SAFETY: the call succeeded, so the text is a constant.
        let name = unsafe { CStr::from_ptr(text) };
        assert_eq!(name, c"CUDA_ERROR_ILLEGAL_ADDRESS");
        assert_eq!(call!(gpu, cuGetErrorName(7777 => c_uint, &mut text => *mut *const c_char)), 1);
        assert!(text.is_null());
    });
    outcome.expect(&[]);
}

#[test]
fn memory_is_limited_and_counted() {
    let settings = Settings { memory: 1 << 20, ..recording() };
    let outcome = scenario("memory_is_limited_and_counted", &settings, || {
        let gpu = Gpu::ready();
        let (mut free, mut total, mut address) = (0_usize, 0_usize, 0_u64);
        let first = gpu.alloc(1 << 19);
        let code =
            call!(gpu, cuMemAlloc_v2(&mut address => *mut u64, (1_usize << 19) + 1 => usize));
        assert_eq!(code, 2);
        assert_eq!(
            call!(gpu, cuMemGetInfo_v2(&mut free => *mut usize, &mut total => *mut usize)),
            0
        );
        assert_eq!((free, total), (1 << 19, 1 << 20));
        assert_eq!(call!(gpu, cuMemFree_v2(first => u64)), 0);
        assert_eq!(call!(gpu, cuMemFree_v2(first => u64)), 1, "it is already free");
        assert_eq!(call!(gpu, cuMemAlloc_v2(&mut address => *mut u64, 0_usize => usize)), 1);
        assert_eq!(gpu.counters()["allocations"], 1);
        assert_eq!(gpu.counters()["frees"], 1);
    });
    outcome.expect(&[]);
}

#[test]
fn large_allocations_cost_nothing_until_they_are_written() {
    let settings = Settings { memory: 64 << 30, ..recording() };
    let test = "large_allocations_cost_nothing_until_they_are_written";
    let outcome = scenario(test, &settings, || {
        let gpu = Gpu::ready();
        let arena = gpu.alloc(16 << 30);
        let last = arena + (16 << 30) - 4;
        gpu.take(last, 4);
        gpu.write(last, &[7_u32]);
        assert_eq!(gpu.read::<u32>(last, 1), [7]);
    });
    outcome.expect(&[]);
}

#[test]
fn launches_beyond_the_limits_are_refused() {
    let outcome = scenario("launches_beyond_the_limits_are_refused", &recording(), || {
        let gpu = Gpu::ready();
        let out = gpu.upload(&[0_f32; 4]);
        let launch = |shape| {
            gpu.launch_on(gpu.stream, "sample_row_mean_dynamic", shape, &[&out, &out, &0_i32])
        };
        assert_eq!(launch([0, 32, 8]), 1);
        assert_eq!(launch([1, 1025, 8]), 1);
        assert_eq!(launch([1 << 31, 32, 8]), 1);
        assert_eq!(launch([1, 32, 49_153]), 1);
        let function = gpu.function("sample_row_mean_dynamic");
        let raise = |bytes: c_int| {
            let most_dynamic_shared = 8;
            call!(gpu, cuFuncSetAttribute(
                function => Handle, most_dynamic_shared => c_int, bytes => c_int))
        };
        assert_eq!(raise(232_449), 1);
        assert_eq!(raise(100_000), 0);
        let mut shared = 0;
        let function = gpu.function("sample_row_sum_shared");
        let code = call!(gpu, cuFuncGetAttribute(
            &mut shared => *mut c_int, 1 => c_int, function => Handle));
        assert_eq!((code, shared), (0, 1024), "256 floats");
        let code =
            gpu.launch_on(std::ptr::dangling_mut::<u64>().cast(), "sample_add", [1, 1, 0], &[]);
        assert_eq!(code, 400);
    });
    outcome.expect(&[]);
}

#[test]
fn unknown_kernels_and_foreign_images_are_refused() {
    let outcome = scenario("unknown_kernels_and_foreign_images_are_refused", &recording(), || {
        let gpu = Gpu::ready();
        let mut handle: Handle = std::ptr::null_mut();
        let code = call!(gpu, cuModuleGetFunction(
            &mut handle => *mut Handle, gpu.module => Handle,
            c"missing".as_ptr() => *const c_char));
        assert_eq!(code, 500);
        assert_eq!(gpu.load("--gpu-architecture=sm_80"), Err(209));
        assert_eq!(gpu.load("--gpu-architecture=sm_100"), Err(209));
        assert_eq!(gpu.load("--gpu-architecture=sm_91"), Err(1005));
        assert_eq!(gpu.load("--no-such-option"), Err(1005));
        assert_eq!(gpu.load("--fmad=perhaps"), Err(1005));
        assert!(
            gpu.load("--gpu-architecture=compute_80").is_ok(),
            "PTX is compiled for the device"
        );
        assert_eq!(gpu.load("--gpu-architecture=compute_100"), Err(209));
        let garbage = [1_u8; 64];
        let code = call!(gpu, cuModuleLoadData(
            &mut handle => *mut Handle, garbage.as_ptr() => *const u8));
        assert_eq!(code, 200);
    });
    outcome.expect(&[]);
}

#[test]
fn ptx_of_a_newer_compiler_is_refused() {
    let settings = Settings { cuda: (13, 1), ..recording() };
    let outcome = scenario("ptx_of_a_newer_compiler_is_refused", &settings, || {
        let gpu = Gpu::ready();
        assert_eq!(gpu.load("--gpu-architecture=compute_90"), Err(222));
    });
    outcome.expect(&[]);
}

#[test]
fn another_source_is_refused_by_the_compiler() {
    let outcome = scenario("another_source_is_refused_by_the_compiler", &recording(), || {
        let gpu = Gpu::ready();
        let mut program: Handle = std::ptr::null_mut();
        let code = call!(gpu, nvrtcCreateProgram(
            &mut program => *mut Handle, c"int x;".as_ptr() => *const c_char,
            std::ptr::null() => *const c_char, 0 => c_int,
            std::ptr::null() => *const *const c_char, std::ptr::null() => *const *const c_char));
        assert_eq!(code, 0);
        let none = std::ptr::null::<*const c_char>();
        let compiled = call!(gpu, nvrtcCompileProgram(
            program => Handle, 0 => c_int, none => *const *const c_char));
        assert_eq!(compiled, 6);
        let mut log = [0_u8; 512];
        assert_eq!(
            call!(gpu, nvrtcGetProgramLog(program => Handle, log.as_mut_ptr() => *mut u8)),
            0
        );
        let log = CStr::from_bytes_until_nul(&log).expect("the log ends with a zero");
        assert!(log.to_string_lossy().contains("not the source"), "{log:?}");
    });
    outcome.expect(&[]);
}

#[test]
fn injected_faults_strike_at_their_count() {
    let settings = Settings {
        fail: vec![
            Fault::Alloc { nth: 2, code: 2 },
            Fault::Call { function: "cuStreamQuery".to_owned(), nth: 1, code: 999 },
            Fault::Launch { kernel: "sample_unary_exp".to_owned(), nth: 2, code: 719 },
        ],
        ..recording()
    };
    let outcome = scenario("injected_faults_strike_at_their_count", &settings, || {
        let gpu = Gpu::ready();
        let x = gpu.upload(&[1_f32; 32]);
        let mut address = 0;
        assert_eq!(call!(gpu, cuMemAlloc_v2(&mut address => *mut u64, 16_usize => usize)), 2);
        assert_eq!(call!(gpu, cuMemAlloc_v2(&mut address => *mut u64, 16_usize => usize)), 0);
        assert_eq!(call!(gpu, cuStreamQuery(gpu.stream => Handle)), 999);
        gpu.launch("sample_unary_exp", 1, 32, &[&x, &x, &32_i32]);
        assert_eq!(gpu.synchronize(gpu.stream), 0);
        gpu.launch("sample_unary_exp", 1, 32, &[&x, &x, &32_i32]);
        assert_eq!(gpu.synchronize(gpu.stream), 719);
        assert_eq!(call!(gpu, cuMemAlloc_v2(&mut address => *mut u64, 16_usize => usize)), 719);
        assert_eq!(call!(gpu, cuDevicePrimaryCtxRelease_v2(0 => c_int)), 0);
        assert_eq!(gpu.set_device(0), 0, "a new context starts without the error");
        assert_eq!(call!(gpu, cuMemAlloc_v2(&mut address => *mut u64, 16_usize => usize)), 0);
    });
    outcome.expect(&[]);
}

#[test]
fn a_process_is_killed_instead_of_making_a_call() {
    let kill = Fault::Kill { function: "cuStreamQuery".to_owned(), nth: 2 };
    let settings = Settings { fail: vec![kill], ..recording() };
    let outcome = scenario("a_process_is_killed_instead_of_making_a_call", &settings, || {
        let gpu = Gpu::ready();
        assert_eq!(call!(gpu, cuStreamQuery(gpu.stream => Handle)), 0);
        println!("one call");
        call!(gpu, cuStreamQuery(gpu.stream => Handle));
        println!("two calls");
    });
    assert_eq!(outcome.status.signal(), Some(libc::SIGKILL), "{}", outcome.output);
    assert!(outcome.output.contains("one call") && !outcome.output.contains("two calls"));
}

#[test]
fn an_uncorrectable_memory_error_is_sticky() {
    let settings = Settings { fail: vec![Fault::Ecc { nth: 1 }], ..recording() };
    let outcome = scenario("an_uncorrectable_memory_error_is_sticky", &settings, || {
        let gpu = Gpu::ready();
        let x = gpu.upload(&[1_f32; 32]);
        gpu.launch("sample_unary_exp", 1, 32, &[&x, &x, &32_i32]);
        assert_eq!(gpu.synchronize(gpu.stream), 214);
        assert_eq!(gpu.synchronize(gpu.stream), 214);
    });
    outcome.expect(&[]);
}

#[test]
fn counters_tell_what_was_done() {
    let outcome = scenario("counters_tell_what_was_done", &recording(), || {
        let gpu = Gpu::ready();
        let x = gpu.upload(&[1_f32; 32]);
        gpu.launch("sample_unary_exp", 1, 32, &[&x, &x, &32_i32]);
        gpu.launch("sample_unary_exp", 1, 32, &[&x, &x, &32_i32]);
        gpu.launch("sample_unary_log", 1, 32, &[&x, &x, &32_i32]);
        gpu.read::<f32>(x, 32);
    });
    outcome.expect(&[]);
    let report = &outcome.report;
    assert_eq!(report.total("launches"), 3);
    assert_eq!(report.launches()["sample_unary_exp"], 2);
    assert_eq!(report.total("bytes_to_device"), 128);
    assert_eq!(report.total("bytes_to_host"), 128);
    assert_eq!(report.total("host_waits"), 1);
    assert_eq!(report.exited.len(), 1);
}

/// Runs a child with variables of CUDA's own and returns the PCI buses and UUIDs that it sees.
fn seen(test: &str, mig: bool, variables: &[(&str, &str)]) -> Vec<(c_int, String)> {
    let settings = Settings { devices: 3, pci: vec![9, 4, 6], mig, ..recording() };
    let folder = fresh_folder(test);
    let mut child: Command = command(test, &settings, &folder, "1");
    let output = child.envs(variables.iter().copied()).output().expect("the test can run itself");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(folder.join("seen")).expect("the child wrote what it saw");
    std::fs::remove_dir_all(&folder).expect("the folder is the test's own");
    let device = |line: &str| {
        let (bus, uuid) = line.split_once(' ').expect("a line has two words");
        (bus.parse().expect("a bus is a number"), uuid.to_owned())
    };
    text.lines().map(device).collect()
}

fn write_seen() {
    let gpu = Gpu::open();
    let mut count = 0;
    let init = call!(gpu, cuInit(0 => c_uint));
    assert!(init == 0 || init == 100);
    if init == 0 {
        assert_eq!(call!(gpu, cuDeviceGetCount(&mut count => *mut c_int)), 0);
    }
    let mut text = String::new();
    for device in 0..count {
        let (mut bus, mut uuid) = (0, [0_u8; 16]);
        let code = call!(gpu, cuDeviceGetAttribute(
            &mut bus => *mut c_int, 33 => c_int, device => c_int));
        assert_eq!(code, 0);
        let code = call!(gpu, cuDeviceGetUuid_v2(&mut uuid => *mut [u8; 16], device => c_int));
        assert_eq!(code, 0);
        let digits: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("{bus} {digits}\n");
    }
    let folder = std::env::var("SOFTGPU_TEST_FOLDER").expect("a child knows its folder");
    std::fs::write(format!("{folder}/seen"), text).expect("the folder is writable");
    std::process::exit(0);
}

#[test]
fn a_uuid_selects_a_device_or_a_slice() {
    if common::child().is_some() {
        write_seen();
    }
    let seen = |mig, variables: &[_]| seen("a_uuid_selects_a_device_or_a_slice", mig, variables);
    let prefix = |uuid: &str, kind: &str| format!("{kind}-{}", &uuid[..8]);
    let all = seen(false, &[]);
    let second = prefix(&all[1].1, "GPU");
    assert_eq!(seen(false, &[("CUDA_VISIBLE_DEVICES", &second)]), all[1..2]);
    let slices = seen(true, &[]);
    assert_eq!(slices.len(), 1, "one slice is visible");
    assert_ne!(slices[0].1, all[0].1, "a slice has a UUID of its own");
    let slice = prefix(&slices[0].1, "MIG");
    assert_eq!(seen(true, &[("CUDA_VISIBLE_DEVICES", &slice)]), slices);
    assert!(seen(true, &[("CUDA_VISIBLE_DEVICES", &second)]).is_empty());
}

#[test]
fn visible_devices_are_those_that_the_variables_name() {
    if common::child().is_some() {
        write_seen();
    }
    let buses = |variables: &[(&str, &str)]| -> Vec<c_int> {
        let test = "visible_devices_are_those_that_the_variables_name";
        seen(test, false, variables).into_iter().map(|(bus, _)| bus).collect()
    };
    let by_pci = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    assert_eq!(buses(&[]), [9, 4, 6]);
    assert_eq!(buses(&[by_pci]), [4, 6, 9]);
    assert_eq!(buses(&[("CUDA_VISIBLE_DEVICES", "2,0")]), [6, 9]);
    assert_eq!(buses(&[by_pci, ("CUDA_VISIBLE_DEVICES", "2,0")]), [9, 4]);
    assert_eq!(buses(&[("CUDA_VISIBLE_DEVICES", "1,7,0")]), [4], "an invalid entry hides the rest");
    assert_eq!(buses(&[("CUDA_VISIBLE_DEVICES", "1,1")]), [0; 0]);
    assert_eq!(buses(&[("CUDA_VISIBLE_DEVICES", "")]), [0; 0]);
    assert_eq!(buses(&[("CUDA_VISIBLE_DEVICES", "GPU-nonsense")]), [0; 0]);
}

#[test]
fn a_matrix_product_has_the_shape_that_was_asked_for() {
    let test = "a_matrix_product_has_the_shape_that_was_asked_for";
    let outcome = scenario(test, &recording(), || {
        let gpu = Gpu::ready();
        let mut handle: Handle = std::ptr::null_mut();
        assert_eq!(call!(gpu, cublasCreate_v2(&mut handle => *mut Handle)), 0);
        assert_eq!(call!(gpu, cublasSetStream_v2(handle => Handle, gpu.stream => Handle)), 0);
        let a = gpu.upload(&[1_f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let c = gpu.alloc(16);
        let (one, zero) = (1_f32, 0_f32);
        let gemm = |lda: c_int, compute: c_uint| {
            let address = |value: &f32| std::ptr::from_ref(value).cast::<c_void>();
            call!(gpu, cublasGemmEx(
                handle => Handle, 0 => c_uint, 1 => c_uint, 2 => c_int, 2 => c_int, 3 => c_int,
                address(&one) => *const c_void, a => u64, 0 => c_uint, lda => c_int,
                a => u64, 0 => c_uint, 2 => c_int,
                address(&zero) => *const c_void, c => u64, 0 => c_uint, 2 => c_int,
                compute => c_uint, -1 => c_int))
        };
        assert_eq!(gemm(1, 68), 7, "the leading dimension is too small");
        assert_eq!(gemm(2, 64), 15, "sums in half precision are not offered");
        assert_eq!(gemm(2, 68), 0);
        assert_eq!(gpu.read::<f32>(c, 4), [35.0, 44.0, 44.0, 56.0]);
    });
    outcome.expect(&[]);
}
