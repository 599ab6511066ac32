//! Workers with different libraries do not train together.

use super::{SoftGpu, fixture};
use muster_tests::pool::{address, folder, serve};
use muster_tests::{Process, programs};
use rustix::process::Signal;
use softgpu::Settings;

fn with_nccl(nccl: (u32, u32, u32)) -> Option<SoftGpu> {
    SoftGpu::new(Settings { nccl, ..Settings::default() })
}

#[test]
fn a_worker_with_another_nccl_is_refused_by_name_before_training() {
    let (Some(new), Some(old)) = (with_nccl((2, 28, 9)), with_nccl((2, 27, 3))) else { return };
    let fixture = fixture();
    fixture.respec("name: small", "name: small\nworkers: {min: 2, max: 2}");
    let coordinator = serve(&folder(&fixture), "127.0.0.1:0", &[], &[]);
    let url = address(&coordinator);
    let worker = |name: &str, gpu: &SoftGpu| {
        let arguments =
            ["--coordinator", &url, "--devices", "cuda:0", "--threads", "1", "--name", name];
        Process::start_in(&programs::worker(), &arguments, &gpu.environment())
    };
    let ask = |arguments: &[&str]| {
        let arguments = [arguments, &["--coordinator", &url, "--json"]].concat();
        Process::start(&programs::coordinator(), &arguments).end().with_code(0)
    };
    let first = worker("first", &new);
    let mut listed = 0;
    while listed == 0 {
        listed = ask(&["list", "--workers"]).events.len();
    }

    // The supervisor does not start a refused rank again.
    let refused = worker("second", &old).end().with_code(2);
    for words in ["NCCL 2.27.3", "NCCL 2.28.9", "worker `first-0`", "hint: "] {
        assert!(refused.stderr.contains(words), "`{words}` in:\n{}", refused.stderr);
    }
    assert_eq!(refused.stderr.matches("refused this worker").count(), 1, "{}", refused.stderr);

    // The run waits for a second worker, and says so.
    let spec = fixture.path("spec.yaml");
    let answer = ask(&["submit", spec.to_str().expect("a path")]);
    let run = answer.events[0].text("run").to_owned();
    let waits = |status: &str| status.contains("1 of 2 workers");
    while !waits(ask(&["status", &run]).events[0].text("detail")) {}
    ask(&["cancel", &run]);
    let steps = fixture.facts(&run, "generation");
    assert_eq!(steps, 0, "no generation has begun");
    first.signal(Signal::TERM);
    first.end().with_code(75);
}
