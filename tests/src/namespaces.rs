//! A network for one test, which has nothing to do with the host's: hosts with an address each, on one bridge.
//!
//! ```text
//! the host's network    the test as cargo starts it; nothing changes here
//! the node's network    the same test, started again with `run_alone`; it has the bridge
//! a host's network      a program that the test starts with `Network::enter`, and the processes that it starts
//! ```
//!
//! Namespaces have no names, and the test is the first process of its process namespace. So however it ends, the kernel
//! ends all its processes, and with them all namespaces, interfaces and mounts. Tests cannot disturb each other either.

use crate::ignored::run_ignored_under;
use std::net::Ipv4Addr;
use std::process::Command;

/// The first two bytes of the addresses of pods.
pub const PODS: [u8; 2] = [10, 88];
/// The address of the node, which is the test's own.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 1);
/// The address of the object store.
pub const STORE: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 2);
/// The length of the prefix that all these addresses share.
const PREFIX: &str = "15";

/// Starts a program in namespaces of its own, and kills it if this process ends.
const ALONE: [&str; 10] = [
    "setpriv",
    "--pdeathsig=KILL",
    "unshare",
    "--net",
    "--mount",
    "--uts",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
];
/// Makes the node's network.
const NODE_SCRIPT: &str = "set -e
ip link set lo up
ip link add pods type bridge
ip address add \"$1\" dev pods
ip link set pods up";
/// Connects a new network to that of the node, whose process has the id 1, and goes on as another program.
const HOST_SCRIPT: &str = "set -e
ip link set lo up
ip link add eth0 type veth peer name \"$1\" netns 1
ip address add \"$2\" dev eth0
ip link set eth0 up
nsenter --net=/proc/1/ns/net ip link set \"$1\" master pods up
shift 2
exec \"$@\"";

/// Runs the ignored test `name` of the calling test's file, with these variables, in a network of its own. If this
/// user may not make one, prints that `test` is skipped.
///
/// # Errors
/// The test fails, does not exist, or prints a secret.
pub fn run_alone(test: &str, name: &str, environment: &[(&str, String)]) -> anyhow::Result<()> {
    let enter = Network.enter(STORE);
    let command = [words(&ALONE), node(), enter, words(&["true"])].concat();
    let tried = Command::new(&command[0]).args(&command[1..]).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        println!("{test}: skipped, this user may not make network namespaces");
        return Ok(());
    }
    run_ignored_under(&ALONE, name, environment)
}

/// The network of the node, in which the test runs.
pub struct Network;

impl Network {
    /// Makes the network of a test that [`run_alone`] has started.
    pub fn make() -> Self {
        assert_eq!(std::process::id(), 1, "`run_alone` starts this test");
        run(&[node(), words(&["true"])].concat());
        Self
    }

    /// The beginning of a command line that starts a program on a new host with this address.
    pub fn enter(&self, address: Ipv4Addr) -> Vec<String> {
        let host =
            words(&["unshare", "--net", "--mount", "--uts", "sh", "-c", HOST_SCRIPT, "host"]);
        [host, vec![cable(address), format!("{address}/{PREFIX}")]].concat()
    }

    /// Pulls the cable of a host. Its peers hear nothing more from it, not even that its connections are closed.
    pub fn unplug(&self, address: Ipv4Addr) {
        run(&words(&["ip", "link", "delete", &cable(address)]));
    }
}

/// The node's end of a host's cable.
fn cable(address: Ipv4Addr) -> String {
    let [_, net, high, low] = address.octets();
    format!("to-{net}-{high}-{low}")
}

/// The beginning of a command line that makes the node's network first.
fn node() -> Vec<String> {
    // The process of the node must not become another program: hosts find its network by its id.
    let script = format!("{NODE_SCRIPT}\nshift\n\"$@\"\nexit");
    let address = format!("{NODE}/{PREFIX}");
    words(&["sh", "-c", &script, "node", &address])
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn run(command: &[String]) {
    let output = Command::new(&command[0]).args(&command[1..]).output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
