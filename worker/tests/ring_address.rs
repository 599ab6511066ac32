//! `worker --ring-address` with an address on which no rank can listen: the supervisor reports one error at once.

#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::process::Command;

/// The error of a node that is started with this address.
fn refused(address: &str, devices: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_worker"))
        .args(["--ring-address", address, "--devices", devices])
        .args(["--coordinator", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    stderr
}

#[test]
fn an_address_at_which_no_rank_could_listen_is_exit_code_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = taken.local_addr().unwrap().to_string();
    let stderr = refused(&in_use, "cpu");
    assert!(
        stderr.starts_with(&format!("error: `{in_use}` has too few free ports: 0")),
        "{stderr}"
    );
    let stderr = refused("127.0.0.1:7100-7101", "cpu:3");
    assert!(
        stderr.starts_with(
            "error: `127.0.0.1:7100-7101` has too few ports: 2, and this node needs 3"
        ),
        "{stderr}"
    );
    let stderr = refused("no.such.host.invalid", "cpu");
    assert!(stderr.starts_with("error: `no.such.host.invalid` cannot be resolved"), "{stderr}");
    let stderr = refused("2001:db8::1", "cpu");
    assert!(stderr.contains("put an IPv6 address in brackets"), "{stderr}");
}
