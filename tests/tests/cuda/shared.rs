//! Two nodes whose workers use the same GPU. NCCL takes them for nodes with a GPU each, and connects them by sockets.
//! Their ring addresses differ, as those of two hosts do.

use super::{SoftGpu, assert_as_on_the_cpu, assert_no_violation, fixture, gpus, on_the_cpu};
use muster_tests::pool::{address, folder, serve};
use muster_tests::process::Ended;
use muster_tests::{Fixture, Process, programs};
use rustix::process::Signal;

struct Nodes {
    url: String,
    nodes: [Process; 2],
    _coordinator: Process,
}

impl Nodes {
    fn start(fixture: &Fixture, gpu: &SoftGpu, more: &[&str]) -> Self {
        let coordinator = serve(&folder(fixture), "127.0.0.1:0", &[], &[]);
        let url = address(&coordinator);
        let nodes = [("first", "127.0.0.1"), ("second", "127.0.0.2")].map(|(name, host)| {
            let mut environment = gpu.environment();
            environment.push(("NCCL_HOSTID", name.to_owned()));
            let own = ["--devices", "cuda:0", "--threads", "1", "--name", name];
            let arguments =
                [&["--coordinator", &url, "--ring-address", host], &own[..], more].concat();
            Process::start_in(&programs::worker(), &arguments, &environment)
        });
        Self { url, nodes, _coordinator: coordinator }
    }

    /// Submits the run of this spec, and follows it to its end.
    fn run(&self, fixture: &Fixture, code: i32) -> Ended {
        let spec = fixture.path("spec.yaml").display().to_string();
        let arguments = ["submit", &spec, "--follow", "--coordinator", &self.url, "--json"];
        Process::start(&programs::coordinator(), &arguments).end().with_code(code)
    }

    fn end(self) {
        for node in self.nodes {
            node.signal(Signal::TERM);
            node.end().with_code(75);
        }
    }
}

#[test]
fn two_nodes_with_a_gpu_train_together() {
    let Some(gpu) = gpus(1, Vec::new()) else { return };
    let fixture = fixture();
    let wanted = on_the_cpu(&fixture);
    fixture.respec("name: small", "name: small\nworkers: {min: 2, max: 2}");
    let nodes = Nodes::start(&fixture, &gpu, &["--trust-network"]);
    assert_as_on_the_cpu("two nodes", &nodes.run(&fixture, 0), &wanted);
    nodes.end();
    assert_no_violation(&gpu);
}

#[test]
fn gpus_of_two_hosts_send_nothing_without_encryption_unless_allowed_to() {
    let Some(gpu) = gpus(1, Vec::new()) else { return };
    let fixture = fixture();
    fixture.respec("name: small", "name: small\nworkers: {min: 2, max: 2}");
    let nodes = Nodes::start(&fixture, &gpu, &[]);
    let refused = nodes.run(&fixture, 1).stderr;
    assert!(refused.contains("hint: ") && refused.contains("--trust-network"), "{refused}");
    nodes.end();

    fixture.respec("max: 2}", "max: 2}\nring: {encrypt: true}");
    let nodes = Nodes::start(&fixture, &gpu, &["--trust-network"]);
    let refused = nodes.run(&fixture, 2).stderr;
    assert!(refused.contains("ring.encrypt: NCCL"), "{refused}");
    nodes.end();
    assert_no_violation(&gpu);
}
