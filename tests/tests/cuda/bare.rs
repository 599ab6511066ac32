//! The programs where there is nothing: no environment, no libraries of NVIDIA, or files that only have their names.

use super::{SoftGpu, gpus};
use muster_tests::programs;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The exit code of a program in an environment with these variables only, and what it printed.
fn run(
    program: &Path,
    arguments: &[&str],
    variables: &[(&str, String)],
) -> (Option<i32>, String, String) {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(variables.iter().map(|(name, value)| (name, value)));
    let output = command.output().expect("it starts");
    let [out, err] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).expect("text"));
    (output.status.code(), out, err)
}

/// The report of `worker devices --json`.
fn devices(variables: &[(&str, String)]) -> Value {
    let (code, out, err) = run(&programs::worker(), &["devices", "--json"], variables);
    assert_eq!((code, &*err), (Some(0), ""), "{out}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[test]
fn programs_start_in_an_empty_environment() {
    for (program, name) in
        [(programs::worker(), "worker"), (programs::coordinator(), "coordinator")]
    {
        let version = format!("{name} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(run(&program, &["--version"], &[]), (Some(0), version, String::new()));
    }
    let report = devices(&[]);
    let (code, text, err) = run(&programs::worker(), &["devices"], &[]);
    assert_eq!((code, &*err), (Some(0), ""), "{text}");
    if report["driver"] != Value::Null {
        println!("skipped: this host has a driver of NVIDIA: {}", report["driver"]);
        return;
    }
    println!("{text}{report:#}");
    let sentence = "no NVIDIA driver: libcuda.so.1 is not installed";
    assert!(text.starts_with("problem ") && text.contains(sentence), "{text}");
    let problems = report["problems"].as_array().expect("a list");
    assert!(problems.iter().any(|p| p.as_str().is_some_and(|p| p.contains(sentence))), "{report}");
    let (code, out, err) = run(&programs::worker(), &["--devices", "cuda:0"], &[]);
    println!("{err}");
    assert_eq!((code, &*out), (Some(2), ""), "{err}");
    assert!(err.starts_with("error: ") && err.contains(sentence), "{err}");
}

/// Replaces the library `name` of a software GPU by a file with these bytes.
fn replace(gpu: &SoftGpu, name: &str, bytes: &[u8]) {
    let path = gpu.libraries().join(name);
    std::fs::remove_file(&path).expect("it is a link");
    std::fs::write(&path, bytes).expect("the folder is the test's own");
}

/// This test, for another kind of processor.
fn of_another_processor() -> Vec<u8> {
    const MACHINE: std::ops::Range<usize> = 18..20;
    const S390: u16 = 22;
    let mut bytes =
        std::fs::read(std::env::current_exe().expect("a file")).expect("it is readable");
    bytes[MACHINE].copy_from_slice(&S390.to_ne_bytes());
    bytes.truncate(4096);
    bytes
}

/// A library without any of NVIDIA's functions.
fn without_symbols() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux");
    let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let found = paths.map(PathBuf::from).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libgcc_s.so"))
    });
    found.expect("every program of Rust has it")
}

#[test]
fn a_library_that_is_none_is_named_with_the_reason() {
    let broken: [(&str, Vec<u8>, &str); 3] = [
        ("empty", Vec::new(), "file too short"),
        ("another processor", of_another_processor(), "another kind of processor"),
        ("no symbols", std::fs::read(without_symbols()).expect("it is mapped"), "has no function"),
    ];
    for library in ["libcuda.so.1", "libnvrtc.so.13", "libcublas.so.13", "libnccl.so.2"] {
        for (what, bytes, reason) in &broken {
            let Some(gpu) = gpus(2, Vec::new()) else { return };
            replace(&gpu, library, bytes);
            let environment = gpu.environment();
            let (code, text, err) = run(&programs::worker(), &["devices"], &environment);
            println!("{library}, {what}: {code:?}\n{text}{err}");
            assert_eq!((code, &*err), (Some(0), ""), "{library}, {what}: {text}");
            let path = gpu.libraries().join(library).display().to_string();
            assert!(text.contains(&path) && text.contains(reason), "{library}, {what}: {text}");
            assert!(devices(&environment).is_object());
        }
        let Some(gpu) = gpus(2, Vec::new()) else { return };
        std::fs::remove_file(gpu.libraries().join(library)).expect("it is a link");
        let (code, text, err) = run(&programs::worker(), &["devices"], &gpu.environment());
        println!("{library}, missing: {code:?}\n{text}{err}");
        assert_eq!((code, &*err), (Some(0), ""), "{library}, missing: {text}");
        assert!(text.contains(library), "{library}, missing: {text}");
    }
}
