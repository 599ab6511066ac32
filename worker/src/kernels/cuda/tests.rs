//! All kernels on a software GPU, which checks every access: with the threads of a block in several orders, which must
//! not matter. The cases execute every line of the kernels.

use super::{Cuda, SOURCE};
use crate::device::Dtype;
use crate::device::cuda::{Gpu, compile_for_all, library, list};
use crate::kernels::cases;
use softgpu::coverage::{self, Line};
use softgpu::{Order, Settings};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Set in the processes that a test starts, since a software GPU is set up once per process.
const CHILD: &str = "MUSTER_TEST_SOFTGPU";
/// If it is set, tests use a GPU of this host instead of the software GPU; see `tests/gpu.sh`.
const REAL: &str = "MUSTER_TEST_GPU";

#[test]
fn kernels_match_the_references_in_every_order_of_threads() {
    const NAME: &str =
        "kernels::cuda::tests::kernels_match_the_references_in_every_order_of_threads";
    if std::env::var_os(REAL).is_some() {
        let kernels = on_a_real_gpu();
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let [first, again] = [(); 2].map(|()| cases::run(&kernels, dtype));
            assert_eq!(first, again, "equal bits");
            println!("figures: {dtype}: all cases pass, and have equal bits when they run again");
        }
        return;
    }
    if let Err(why) = softgpu::available() {
        eprintln!("skipped: there is no software GPU: {why}");
        return;
    }
    if std::env::var_os(CHILD).is_some() {
        let folder = tempfile::tempdir().expect("a folder");
        let kernels = kernels(folder.path());
        for dtype in [Dtype::F32, Dtype::Bf16] {
            println!("digest {:032x}", cases::run(&kernels, dtype));
        }
        return;
    }
    let counts = tempfile::tempdir().expect("a folder");
    let orders = [Order::Forward, Order::Reverse, Order::Seed(7)];
    let digests = orders.map(|order| {
        let coverage = Some(counts.path().to_owned());
        let settings = Settings { order, coverage, ..Settings::default() };
        let output = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", NAME, "--nocapture"])
            .env(CHILD, "1")
            .envs(settings.envs())
            .output()
            .expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{order:?}: {text}\n{errors}");
        let digests = text.lines().filter(|line| line.starts_with("digest"));
        digests.map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(digests[0].len(), 2);
    assert!(digests.iter().all(|d| *d == digests[0]), "{digests:?}");
    assert_every_line_was_executed(counts.path());
}

/// Judges the counts that processes have left in `folder`. The kernels of one macro share its line.
fn assert_every_line_was_executed(folder: &Path) {
    if let Err(why) = coverage::available() {
        eprintln!("skipped: lines of the kernels are not counted: {why}");
        return;
    }
    let mut lines = coverage::lines(folder).expect("the processes have left their counts");
    lines.retain(|line, _| !line.file.starts_with(coverage::SAMPLES));
    let files = lines.keys().map(|line| &*line.file).collect::<BTreeSet<_>>();
    assert!(SOURCE.matches("#line 1 ").count() == files.len(), "not all files: {files:?}");
    for file in &files {
        let own = || lines.iter().filter(|(line, _)| line.file == *file);
        let executed = own().filter(|(_, executed)| **executed).count();
        println!("{file}: {executed} of {} lines executed", own().count());
    }
    let missed = lines.iter().filter(|(_, executed)| !**executed);
    let missed = missed.map(|(Line { file, number, function }, _)| {
        format!("worker/src/kernels/cuda/{file}:{number}, in {function}")
    });
    let missed: Vec<_> = missed.collect();
    assert!(
        missed.is_empty(),
        "not everything was executed on these lines:\n{}",
        missed.join("\n")
    );
}

#[test]
fn kernels_compile_for_every_architecture() {
    const COMPILERS: &str = "MUSTER_TEST_NVRTC";
    let Some(compilers) = std::env::var_os(COMPILERS) else {
        return eprintln!("skipped: {COMPILERS} names no libnvrtc");
    };
    let mut all = BTreeSet::new();
    for path in std::env::split_paths(&compilers) {
        let (architectures, assembly) = compile_for_all(&path, SOURCE).expect("no errors");
        println!("{}: {architectures:?}", path.display());
        assert_no_contraction(&assembly);
        all.extend(architectures);
    }
    assert!(all.is_superset(&[80, 86, 89, 90, 100, 103, 110, 120, 121].into()), "{all:?}");
}

/// Checks in the compiler's assembly that the products and sums of an update stay apart, so that all ranks round alike.
fn assert_no_contraction(assembly: &str) {
    let start = assembly.find(".entry adamw").expect("the kernel of updates");
    let body = assembly[start..].split("\n}").next().expect("up to the end of the kernel");
    assert!(body.contains("mul.rn.f32") || body.contains("mul.f32"), "{body}");
    assert!(!body.contains("fma."), "{body}");
}

fn on_a_real_gpu() -> Cuda {
    let driver = library::Driver::load().expect("a driver");
    let libraries = library::Libraries::load(driver).expect("a complete set");
    let present = list(driver).expect("the driver works").remove(0);
    let gpu = Gpu::open(driver, libraries, &present).expect("it works");
    let cache = tempfile::tempdir().expect("a folder");
    Cuda::new(&gpu, cache.path()).expect("kernels")
}

/// The kernels for a software GPU whose libraries are in `folder`.
fn kernels(folder: &Path) -> Cuda {
    softgpu::install(folder).expect("links to the software GPU");
    let (driver, libraries) = library::in_folder(folder).expect("a complete set");
    let present = list(driver).expect("a driver").remove(0);
    let gpu = Gpu::open(driver, libraries, &present).expect("a GPU");
    Cuda::new(&gpu, &folder.join("cache")).expect("kernels")
}
