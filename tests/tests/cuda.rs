//! Runs on GPUs, with all their processes: the coordinator, the supervisor and a rank for each GPU, on software GPUs
//! that end a process at the first access that is out of bounds, unordered or undefined.

#[path = "cuda/bare.rs"]
mod bare;
#[path = "cuda/mixed.rs"]
mod mixed;
#[path = "cuda/refused.rs"]
mod refused;
#[path = "cuda/saving.rs"]
mod saving;
#[path = "cuda/shared.rs"]
mod shared;

use muster_tests::fixture::Fixture;
use muster_tests::gpu::SoftGpu;
use muster_tests::{Ended, Event, Process};
use rustix::process::Signal;
use softgpu::{Fault, NcclAction, NcclPlace, Settings};
use std::collections::BTreeMap;

/// Steps of a run here.
const STEPS: u64 = 6;

fn fixture() -> Fixture {
    Fixture::tiny(STEPS)
}

fn gpus(count: usize, fail: Vec<Fault>) -> Option<SoftGpu> {
    SoftGpu::new(Settings { devices: count, fail, ..Settings::default() })
}

/// For each step, as it was committed last: the number of samples, their digest, and the loss.
type Curve = BTreeMap<u64, (u64, String, f64)>;

fn curve(ended: &Ended) -> Curve {
    let step = |e: &&Event| {
        let samples = (e.count("samples"), e.text("samples_digest").to_owned(), e.number("loss"));
        (e.count("step"), samples)
    };
    ended.all("step").iter().map(step).collect()
}

fn on_the_cpu(fixture: &Fixture) -> Curve {
    let wanted = curve(&Process::run(fixture, &["--workers", "1"]).end().with_code(0));
    assert!(!wanted.is_empty() && wanted.keys().copied().eq(1..=wanted.len() as u64));
    wanted
}

/// Checks that a run has trained on the same samples as on the CPU, step by step, with the same losses.
fn assert_as_on_the_cpu(name: &str, ended: &Ended, wanted: &Curve) {
    let got = curve(ended);
    let steps = |curve: &Curve| curve.keys().copied().collect::<Vec<_>>();
    assert_eq!(steps(&got), steps(wanted), "{name}");
    for ((step, got), wanted) in got.iter().zip(wanted.values()) {
        assert_eq!((got.0, &got.1), (wanted.0, &wanted.1), "{name}: samples of step {step}");
        let (got, wanted) = (got.2, wanted.2);
        let close = (got - wanted).abs() <= 1e-5 * wanted.abs();
        assert!(close, "{name}: step {step} has loss {got} instead of {wanted}");
    }
}

fn assert_no_violation(gpu: &SoftGpu) {
    let violations = gpu.report().violations;
    assert!(violations.is_empty(), "{violations:?}");
}

/// A run on this number of GPUs.
fn on_gpus(fixture: &Fixture, count: usize) -> Option<Ended> {
    let gpu = gpus(count, Vec::new())?;
    let run = Process::run_in(fixture, &["--devices", &gpu.devices()], &gpu.environment());
    let ended = run.end().with_code(0);
    assert_no_violation(&gpu);
    Some(ended)
}

#[test]
fn runs_on_gpus_have_the_losses_of_a_run_on_the_cpu() {
    let fixture = fixture();
    let wanted = on_the_cpu(&fixture);
    for count in [1, 2, 4] {
        let Some(ended) = on_gpus(&fixture, count) else { return };
        assert_as_on_the_cpu(&format!("{count} GPUs"), &ended, &wanted);
    }
}

#[test]
fn a_run_with_sums_in_bf16_has_nearly_the_losses_of_sums_in_f32() {
    let fixture = fixture();
    let losses = || Some(curve(&on_gpus(&fixture, 2)?).into_values().map(|(_, _, loss)| loss));
    let Some(exact) = losses() else { return };
    fixture.respec("  seed: 20", "  seed: 20\n  reduce_dtype: bf16");
    let Some(rounded) = losses() else { return };
    let [exact, rounded] = [exact, rounded].map(Iterator::collect::<Vec<f64>>);
    println!("{exact:?} in f32, {rounded:?} in bf16");
    assert_ne!(rounded, exact, "gradients are rounded");
    assert_eq!(rounded.len(), exact.len());
    for (rounded, exact) in rounded.iter().zip(&exact) {
        assert!((rounded - exact).abs() <= 1e-3 * exact, "{rounded} and {exact}");
    }
}

/// How a run on two GPUs ended that met a fault.
fn with_fault(fixture: &Fixture, fail: Vec<Fault>) -> Option<(Ended, SoftGpu)> {
    let gpu = gpus(2, fail)?;
    let run = Process::run_in(fixture, &["--devices", "cuda:all"], &gpu.environment());
    Some((run.end(), gpu))
}

#[test]
fn a_run_survives_whatever_happens_to_a_rank_in_nccl() {
    let fixture = fixture();
    let wanted = on_the_cpu(&fixture);
    let at = |place, action| vec![Fault::Nccl { rank: 1, place, action }];
    let faults = [
        at(NcclPlace::Init, NcclAction::Kill),
        at(NcclPlace::Collective(3), NcclAction::Kill),
        // ncclSystemError and ncclRemoteError.
        at(NcclPlace::Collective(4), NcclAction::Error(2)),
        at(NcclPlace::Init, NcclAction::Error(6)),
        at(NcclPlace::Init, NcclAction::Slow(3000)),
    ];
    for fault in faults {
        let name = format!("{fault:?}");
        let Some((ended, gpu)) = with_fault(&fixture, fault) else { return };
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
        assert_as_on_the_cpu(&name, &ended, &wanted);
        assert_no_violation(&gpu);
        println!("{name}: {} steps reported", ended.all("step").len());
    }
}

#[test]
fn a_rank_whose_gpu_fails_is_started_again() {
    let fixture = fixture();
    let wanted = on_the_cpu(&fixture);
    // An illegal address in the middle of a step.
    let fail = vec![Fault::Launch { kernel: "swiglu_f32".into(), nth: 9, code: 700 }];
    let Some((ended, gpu)) = with_fault(&fixture, fail) else { return };
    let ended = ended.with_code(0);
    assert_as_on_the_cpu("an illegal address", &ended, &wanted);
    assert!(ended.stderr.contains("cuda:"), "{}", ended.stderr);
    assert_no_violation(&gpu);
}

#[test]
fn a_damaged_gpu_is_set_aside() {
    let fixture = fixture();
    let Some(gpu) = gpus(2, vec![Fault::Ecc { nth: 700 }]) else { return };
    let run = Process::run_in(&fixture, &["--devices", "cuda:all"], &gpu.environment());
    run.wait_for_text("the device is damaged and is set aside");
    run.signal(Signal::TERM);
    run.end();
    assert_no_violation(&gpu);
}

#[test]
fn memory_that_is_refused_costs_a_smaller_micro_batch_or_gives_one_clear_error() {
    const OUT_OF_MEMORY: u32 = 2;
    let fixture = fixture();
    fixture.respec("micro_batch: 1", "micro_batch: 2");
    let wanted = on_the_cpu(&fixture);
    let mut smaller = 0;
    // There are three allocations of device memory in such a run.
    for nth in 1..=3 {
        // An allocation is tried twice, the second time after unused memory was given back.
        let refuse = |nth| Fault::Alloc { nth, code: OUT_OF_MEMORY };
        let Some(gpu) = gpus(1, vec![refuse(nth), refuse(nth + 1)]) else { return };
        let run = Process::run_in(&fixture, &["--devices", "cuda:0"], &gpu.environment()).end();
        let refused = run.stderr.contains("of GPU memory is not available");
        match run.code {
            Some(0) => assert_as_on_the_cpu(&format!("allocation {nth}"), &run, &wanted),
            _ => assert!(refused, "allocation {nth}: {}", run.stderr),
        }
        smaller += usize::from(run.stderr.contains("a smaller micro-batch is tried"));
        println!("allocation {nth}: exit code {:?}, refused {refused}", run.code);
        assert_no_violation(&gpu);
    }
    assert!(smaller > 0, "no refusal met the activations");
}
