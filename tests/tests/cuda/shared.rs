//! Two nodes whose workers use the same GPU. NCCL takes them for nodes with a GPU each, and connects them by sockets.

use super::{assert_as_on_the_cpu, assert_no_violation, fixture, gpus, on_the_cpu};
use muster_tests::pool::{address, folder, serve};
use muster_tests::{Process, programs};
use rustix::process::Signal;

#[test]
fn two_nodes_with_a_gpu_train_together() {
    let Some(gpu) = gpus(1, Vec::new()) else { return };
    let fixture = fixture();
    let wanted = on_the_cpu(&fixture);
    fixture.respec("name: small", "name: small\nworkers: {min: 2, max: 2}");
    let coordinator = serve(&folder(&fixture), "127.0.0.1:0", &[], &[]);
    let url = address(&coordinator);
    let nodes = ["first", "second"].map(|name| {
        let mut environment = gpu.environment();
        environment.push(("NCCL_HOSTID", name.to_owned()));
        let arguments =
            ["--coordinator", &url, "--devices", "cuda:0", "--threads", "1", "--name", name];
        Process::start_in(&programs::worker(), &arguments, &environment)
    });
    let ask = |arguments: &[&str]| {
        let arguments = [arguments, &["--coordinator", &url, "--json"]].concat();
        Process::start(&programs::coordinator(), &arguments).end().with_code(0)
    };
    let spec = fixture.path("spec.yaml").display().to_string();
    let run = ask(&["submit", &spec]).events[0].text("run").to_owned();
    let ended = ask(&["watch", &run]);
    assert_as_on_the_cpu("two nodes", &ended, &wanted);
    for node in nodes {
        node.signal(Signal::TERM);
        node.end().with_code(75);
    }
    assert_no_violation(&gpu);
}
