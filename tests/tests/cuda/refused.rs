//! Memory that is refused, at each place where a run asks for some.

use super::{Curve, assert_as_on_the_cpu, assert_no_violation, fixture, on_the_cpu};
use muster_tests::gpu::SoftGpu;
use muster_tests::{Fixture, Process};
use softgpu::{Fault, Settings};
use std::sync::Mutex;
use std::time::Instant;

/// Runs at the same time.
const AT_ONCE: usize = 2;

/// A call that a library refuses for lack of memory.
#[derive(Clone, Copy, Debug)]
struct Place {
    function: &'static str,
    nth: u64,
    /// The library's code for a lack of memory.
    code: u32,
    /// GPUs of the run.
    gpus: usize,
}

const fn of_driver(function: &'static str, nth: u64) -> Place {
    Place { function, nth, code: 2, gpus: 1 }
}

const PLACES: [Place; 12] = [
    of_driver("cuDevicePrimaryCtxRetain", 1),
    of_driver("cuStreamCreateWithPriority", 3),
    Place { function: "nvrtcCompileProgram", nth: 1, code: 1, gpus: 1 },
    of_driver("cuModuleLoadDataEx", 1),
    Place { function: "cublasCreate_v2", nth: 1, code: 3, gpus: 1 },
    of_driver("cuMemHostAlloc", 1),
    of_driver("cuMemHostAlloc", 2),
    of_driver("cuEventCreate", 1),
    of_driver("cuEventCreate", 3),
    of_driver("cuLaunchKernel", 500),
    // ncclUnhandledCudaError.
    Place { function: "ncclCommInitRankConfig", nth: 1, code: 1, gpus: 2 },
    Place { function: "ncclAllReduce", nth: 3, code: 1, gpus: 2 },
];

/// A short run, since there are many.
fn short() -> Fixture {
    let fixture = fixture();
    fixture.respec("max_steps: 6", "max_steps: 2");
    fixture.respec("at_start: true", "at_start: false");
    fixture
}

/// Runs `fixture` where the place refuses memory, once or in every process.
fn run(fixture: &Fixture, place: &Place, always: bool) -> Option<(muster_tests::Ended, SoftGpu)> {
    let Place { function, nth, code, gpus } = *place;
    let fail = vec![Fault::Call { function: function.into(), nth, code }];
    let gpu = SoftGpu::new(Settings { devices: gpus, fail, ..Settings::default() })?;
    let gpu = if always { gpu.failing_always() } else { gpu };
    let run = Process::run_in(fixture, &["--devices", "cuda:all"], &gpu.environment());
    Some((run.end(), gpu))
}

fn once(fixture: &Fixture, place: &Place, wanted: &Curve) {
    let began = Instant::now();
    let Some((ended, gpu)) = run(fixture, place, false) else { return };
    let deaths = ended.stderr.matches("a rank process died").count();
    let seconds = began.elapsed().as_secs_f64();
    println!("{place:?} once: exit code {:?}, {deaths} deaths, {seconds:.1} s", ended.code);
    assert_eq!(ended.code, Some(0), "{place:?}: {}", ended.stderr);
    assert_as_on_the_cpu(&format!("{place:?}"), &ended, wanted);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert_no_violation(&gpu);
}

fn always(fixture: &Fixture, place: &Place, wanted: &Curve) {
    let began = Instant::now();
    let Some((ended, gpu)) = run(fixture, place, true) else { return };
    let deaths = ended.stderr.matches("a rank process died").count();
    let seconds = began.elapsed().as_secs_f64();
    println!("{place:?} always: exit code {:?}, {deaths} deaths, {seconds:.1} s", ended.code);
    let name = place.function.trim_end_matches("_v2");
    match ended.code {
        // Kernels of the cache that cannot be loaded are compiled again, and a later sum is a later call.
        Some(0) => assert_as_on_the_cpu(&format!("{place:?}"), &ended, wanted),
        code => {
            assert_eq!(code, Some(1), "{place:?}: {}", ended.stderr);
            assert!(ended.stderr.contains(&format!("{name}: ")), "{place:?}: {}", ended.stderr);
        }
    }
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert_no_violation(&gpu);
}

#[test]
fn memory_that_is_refused_once_costs_a_restart_and_always_gives_one_clear_error() {
    let wanted = on_the_cpu(&short());
    let all = [false, true].into_iter().flat_map(|always| PLACES.map(|place| (place, always)));
    let places = Mutex::new(all);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let fixture = short();
                while let Some((place, is_always)) =
                    { places.lock().expect("held only for this").next() }
                {
                    if is_always {
                        always(&fixture, &place, &wanted);
                    } else {
                        once(&fixture, &place, &wanted);
                    }
                }
            });
        }
    });
}
