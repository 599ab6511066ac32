//! Runs on GPUs, with all their processes: the coordinator, the supervisor and a rank for each GPU, on software GPUs
//! that end a process at the first access that is out of bounds, unordered or undefined.

use muster_tests::fixture::Fixture;
use muster_tests::gpu::SoftGpu;
use muster_tests::{Ended, Process};
use rustix::process::Signal;
use softgpu::{Fault, NcclAction, NcclPlace, Settings};

/// Steps of a run here.
const STEPS: u64 = 6;

fn fixture() -> Fixture {
    Fixture::tiny(STEPS)
}

fn gpus(count: usize, fail: Vec<Fault>) -> Option<SoftGpu> {
    SoftGpu::new(Settings { devices: count, fail, ..Settings::default() })
}

fn losses(ended: &Ended) -> Vec<f64> {
    ended.all("step").iter().map(|step| step.number("loss")).collect()
}

fn assert_close(got: &[f64], wanted: &[f64]) {
    assert_within(1e-5, got, wanted);
}

fn assert_within(tolerance: f64, got: &[f64], wanted: &[f64]) {
    assert_eq!((got.len(), wanted.len()), (STEPS as usize, STEPS as usize));
    for (step, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert!((got - wanted).abs() <= tolerance * wanted.abs(), "{step}: {got} and {wanted}");
    }
}

fn assert_no_violation(gpu: &SoftGpu) {
    let violations = gpu.report().violations;
    assert!(violations.is_empty(), "{violations:?}");
}

fn on_the_cpu(fixture: &Fixture) -> Vec<f64> {
    losses(&Process::run(fixture, &["--workers", "1"]).end().with_code(0))
}

/// The losses of a run on this number of GPUs.
fn on_gpus(fixture: &Fixture, count: usize) -> Option<Vec<f64>> {
    let gpu = gpus(count, Vec::new())?;
    let run = Process::run_in(fixture, &["--devices", "cuda:all"], &gpu.environment());
    let ended = run.end().with_code(0);
    assert_no_violation(&gpu);
    Some(losses(&ended))
}

#[test]
fn runs_on_gpus_have_the_losses_of_a_run_on_the_cpu() {
    let fixture = fixture();
    let wanted = on_the_cpu(&fixture);
    for count in [1, 2, 4] {
        let Some(losses) = on_gpus(&fixture, count) else { return };
        assert_close(&losses, &wanted);
    }
}

#[test]
fn a_run_with_sums_in_bf16_has_nearly_the_losses_of_sums_in_f32() {
    let fixture = fixture();
    let Some(exact) = on_gpus(&fixture, 2) else { return };
    fixture.respec("  seed: 20", "  seed: 20\n  reduce_dtype: bf16");
    let Some(rounded) = on_gpus(&fixture, 2) else { return };
    println!("{exact:?} in f32, {rounded:?} in bf16");
    assert_ne!(rounded, exact, "gradients are rounded");
    assert_within(1e-3, &rounded, &exact);
}

/// The losses of a run on two GPUs that meets a fault, and how it ended.
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
        let mut steps = ended.all("step");
        // A step that was taken again counts as it was taken last.
        steps.reverse();
        let loss = |step: u64| {
            let found = steps.iter().find(|event| event.count("step") == step);
            found.unwrap_or_else(|| panic!("{name}: no step {step}")).number("loss")
        };
        let losses: Vec<f64> = (1..=STEPS).map(loss).collect();
        assert_close(&losses, &wanted);
        assert_no_violation(&gpu);
        println!("{name}: {} steps reported", steps.len());
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
    let last = ended.all("step").last().expect("steps").number("loss");
    assert!((last - wanted[STEPS as usize - 1]).abs() < 1e-5 * last, "{last}");
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
            Some(0) => assert_close(&losses(&run), &wanted),
            _ => assert!(refused, "allocation {nth}: {}", run.stderr),
        }
        smaller += usize::from(run.stderr.contains("a smaller micro-batch is tried"));
        println!("allocation {nth}: exit code {:?}, refused {refused}", run.code);
        assert_no_violation(&gpu);
    }
    assert!(smaller > 0, "no refusal met the activations");
}
