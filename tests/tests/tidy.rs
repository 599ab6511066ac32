//! The rules of the house that a machine can check, each with its reason.

#![allow(clippy::unwrap_used)]

#[path = "tidy/functions.rs"]
mod functions;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/language.rs"]
mod language;
#[path = "tidy/pages.rs"]
mod pages;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file that needs more is more than one idea.
const LINES: usize = 500;
/// Columns; a little over for what the formatter cannot break.
const COLUMNS: usize = 120;

/// The packages of the workspace, by folder.
const PACKAGES: [&str; 9] = [
    "proto",
    "proto/wire",
    "storage",
    "coordinator",
    "coordinator/kubernetes",
    "worker",
    "worker/data",
    "tests",
    "tests/softgpu",
];

struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        self.path.contains("/tests/")
            || self.path.ends_with("tests.rs")
            || self.path.ends_with("conformance.rs")
            || self.path.contains("/kernels/cases/")
    }

    /// The code without its unit tests.
    fn code(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap_or_default()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut paths = Vec::new();
    for folder in PACKAGES {
        for part in ["src", "tests", "benches", "examples"] {
            let folder = root.join(folder).join(part);
            if folder.is_dir() {
                walk(&folder, &mut paths);
            }
        }
    }
    let source = |path: PathBuf| Source {
        text: fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(&root).unwrap().to_string_lossy().into_owned(),
    };
    let sources: Vec<_> = paths.into_iter().map(source).collect();
    assert!(sources.len() > 50, "the walk found only {} files", sources.len());
    sources
}

/// Every source under `folder` in whose code a line matches.
fn offenders(folder: &str, bad: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| s.path.starts_with(folder) && !s.is_test()) {
        for (number, line) in (1..).zip(source.code().lines()) {
            let comment = line.trim_start().starts_with("//");
            if !comment && bad(line) {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    found
}

fn assert_none(found: Vec<String>, reason: &str) {
    assert!(found.is_empty(), "{reason}:\n{}", found.join("\n"));
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let silent = sources().into_iter().filter(|s| !s.text.starts_with("//!")).map(|s| s.path);
    assert_none(silent.collect(), "a newcomer should know what a file is for from its first line");
}

#[test]
fn files_stay_small() {
    let long = |s: &Source| !s.is_test() && s.code().lines().count() > LINES;
    let found = sources().into_iter().filter(long).map(|s| s.path).collect();
    assert_none(found, "more than 500 lines are more than one idea");
}

#[test]
fn lines_stay_short() {
    let sources = sources();
    let found = sources.iter().flat_map(|s| {
        let long = |(n, l): (usize, &str)| {
            (l.chars().count() > COLUMNS && !l.contains("error(\"") && !l.contains("#[error"))
                .then(|| format!("{}:{}", s.path, n + 1))
        };
        s.text.lines().enumerate().filter_map(long).collect::<Vec<_>>()
    });
    assert_none(found.collect(), "two files should fit beside each other");
}

#[test]
fn the_core_and_the_session_are_pure() {
    let impure = [
        "async ",
        ".await",
        "tokio",
        "Instant",
        "SystemTime",
        "HashMap",
        "HashSet",
        "std::fs",
        "std::net",
    ];
    for pure in ["coordinator/src/core/", "worker/src/session", "proto/src/plan"] {
        let found = offenders(pure, |line| impure.iter().any(|word| line.contains(word)));
        assert_none(found, "a replay and a simulation must decide as the original did");
    }
}

#[test]
fn the_coordinator_and_the_data_know_no_tensor() {
    const NETWORK: [&str; 5] = ["tonic", "tokio", "object_store", "reqwest", "candle-core"];
    for (package, known, strangers) in [
        ("coordinator", "wire", &["candle-core", "worker"][..]),
        ("data", "proto", &NETWORK),
        ("proto", "serde", &NETWORK),
    ] {
        let compiled = compiled_with(package);
        assert!(compiled.contains(known), "{package} compiles `{known}`, and the list lacks it");
        for stranger in strangers {
            assert!(!compiled.contains(*stranger), "{package} must not compile `{stranger}`");
        }
    }
}

/// Every package that is compiled for `package`, as cargo resolves the lock file.
fn compiled_with(package: &str) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--package", package, "--edges", "normal", "--prefix", "none"])
        .args(["--offline", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let lines = String::from_utf8(tree.stdout).unwrap();
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Dependencies that no source names, each with its reason.
const UNNAMED: [(&str, &str); 3] = [
    ("proc-macro2", "its feature gives `syn` the lines of what it parses"),
    ("prost", "the code that `wire/build.rs` generates names it"),
    ("tonic-prost", "the code that `wire/build.rs` generates names it"),
];
/// Crates whose library has another name than their package.
const RENAMED: [(&str, &str); 1] = [("md-5", "md5")];

#[test]
fn every_dependency_is_named_by_a_source() {
    let mut named_somewhere = Vec::new();
    for package in PACKAGES {
        let sources = package_text(package);
        let build = fs::read_to_string(root().join(package).join("build.rs")).unwrap_or_default();
        for (section, dependency) in dependencies(&root().join(package)) {
            let text = if section == "build-dependencies" { &build } else { &sources };
            let renamed = RENAMED.iter().find(|(package, _)| *package == dependency);
            let library = renamed.map_or(dependency.replace('-', "_"), |(_, name)| (*name).into());
            let known = UNNAMED.iter().any(|(name, _)| *name == dependency);
            assert!(
                known || names(text, &library),
                "{package}: no source names `{dependency}` of [{section}], which everyone compiles"
            );
            named_somewhere.push(dependency);
        }
    }
    assert!(named_somewhere.len() > 50, "{named_somewhere:?}");
    for (section, dependency) in dependencies(&root()) {
        assert!(
            named_somewhere.contains(&dependency),
            "[{section}] has `{dependency}`, which no package depends on"
        );
    }
}

/// Every source of a package, in one text.
fn package_text(package: &str) -> String {
    let parts = ["src", "tests", "benches", "examples"].map(|part| format!("{package}/{part}/"));
    let own = |s: &Source| parts.iter().any(|part| s.path.starts_with(part));
    sources().into_iter().filter(own).map(|s| s.text).collect()
}

/// The dependencies that the manifest in `folder` lists, each with its section.
fn dependencies(folder: &Path) -> Vec<(String, String)> {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let (mut section, mut found) = (String::new(), Vec::new());
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if section.ends_with("dependencies") && !line.starts_with('#') {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if !name.is_empty() {
                found.push((section.clone(), name.to_owned()));
            }
        }
    }
    found
}

/// Whether Rust code names a library: in a path, a `use`, or an attribute.
fn names(text: &str, library: &str) -> bool {
    text.match_indices(library).any(|(at, _)| {
        let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
        let (before, after) = (&text[..at], &text[at + library.len()..]);
        !before.ends_with(part_of_a_word)
            && ["::", ";", " as "].iter().any(|behind| after.starts_with(behind))
    })
}

#[test]
fn model_ops_and_collective_do_not_know_each_other() {
    let known = [
        // The model is written in operations.
        ("model", &["data::", "crate::collective", "crate::replica"][..]),
        ("ops", &["data::", "crate::model", "crate::collective", "crate::replica"]),
        (
            "kernels",
            &["data::", "crate::ops", "crate::model", "crate::collective", "crate::replica"],
        ),
        ("device", &["data::", "crate::kernels", "crate::ops", "crate::model", "crate::replica"]),
        (
            "collective",
            &["data::", "crate::model", "crate::ops", "crate::kernels", "crate::replica"],
        ),
    ];
    for (module, strangers) in known {
        let found = offenders(&format!("worker/src/{module}/"), |line| {
            strangers.iter().any(|s| line.contains(s))
        });
        assert_none(found, "`replica` joins them, so that each can be read and tested alone");
    }
}

#[test]
fn operations_name_no_slice_no_thread_and_no_configuration() {
    let found = offenders("worker/src/ops/", |line| {
        ["&[f32]", "&mut [f32]", "rayon", "cfg!", "candle"].iter().any(|word| line.contains(word))
    });
    assert_none(found, "what an operation is must not depend on where it is computed");
}

#[test]
fn async_code_touches_no_tensor_and_the_training_thread_never_awaits() {
    for module in [
        "worker/src/run.rs",
        "worker/src/replica/",
        "worker/src/kernels/",
        "worker/src/ops/",
        "worker/src/model/",
    ] {
        let found = offenders(module, |l| l.contains("async ") || l.contains(".await"));
        assert_none(found, "a computing thread that waits for a runtime stalls every rank");
    }
    for module in ["worker/src/agent/", "worker/src/session.rs"] {
        let found = offenders(module, |l| l.contains("Tensor") || l.contains("ops::"));
        assert_none(found, "a runtime thread that computes is late with its beats");
    }
}

#[test]
fn wire_types_are_named_only_at_the_edges() {
    let edges = [
        "proto/wire/",
        "coordinator/src/service/",
        "coordinator/src/takeover/holder.rs",
        "coordinator/src/cli/remote/",
        // They play workers, a user, and strangers.
        "tests/src/simulated.rs",
        "tests/tests/secure.rs",
        "tests/benches/crowd.rs",
        "tests/benches/idle.rs",
        "worker/src/agent/",
    ];
    // These modules know addresses and files, and no messages.
    let no_messages = ["wire::address", "wire::credentials"];
    let found = offenders("", |line| {
        line.contains("wire::") && !no_messages.iter().any(|module| line.contains(module))
    });
    let inside = found.into_iter().filter(|f| !edges.iter().any(|e| f.starts_with(e)));
    assert_none(inside.collect(), "what a peer sends is checked once, where it comes in");
}

#[test]
fn nothing_that_ranks_must_agree_on_asks_the_hosts_mathematical_library() {
    // A square root is exact everywhere; these are not.
    let inexact =
        ["powf", "powi", "exp", "exp2", "ln", "log", "log2", "log10", "sin", "cos", "tan"];
    let calls = |line: &str| {
        let called = |name: &&str| {
            line.contains(&format!(".{name}(")) || line.contains(&format!("f64::{name}("))
        };
        inexact.iter().any(called)
    };
    for module in [
        "proto/src/plan",
        "worker/src/kernels/cpu/optimizer.rs",
        "worker/src/model/random.rs",
        "worker/src/model/vocabulary.rs",
        "worker/src/replica/",
    ] {
        assert_none(
            offenders(module, calls),
            "ranks on different hosts would drift apart; use `libm`",
        );
    }
}

#[test]
fn nothing_is_printed_that_could_panic() {
    // Found in `eprintln!` and `eprint!` too.
    let macros = ["println!(", "print!("];
    for package in ["coordinator/src/", "worker/src/"] {
        let found = offenders(package, |line| macros.iter().any(|word| line.contains(word)));
        assert_none(found, "`println!` panics once its reader has gone: `proto::print` does not");
    }
}

#[test]
fn unsafe_code_is_named_and_explained() {
    let allowed = [
        "worker/src/collective/nccl/",
        "worker/src/device/cuda/",
        "worker/src/kernels/cpu/gemm.rs",
        "worker/src/kernels/cpu/gemm_bf16/amx.rs",
        "worker/src/kernels/cpu/gemm_bf16/dot.rs",
        "worker/src/kernels/cpu/gemm_bf16/pairs.rs",
        "worker/src/kernels/cpu/simd.rs",
        "worker/src/kernels/cuda/blas.rs",
        "worker/src/model/weights/",
        "worker/src/job/mapped.rs",
    ];
    for source in sources().iter().filter(|s| s.path.starts_with("worker/src")) {
        let blocks = source.text.matches("unsafe {").count();
        if blocks == 0 {
            continue;
        }
        assert!(allowed.iter().any(|a| source.path.starts_with(a)), "{}: unsafe", source.path);
        let reasons = source.text.matches("SAFETY:").count();
        assert!(reasons >= 1, "{}: no `// SAFETY:`", source.path);
    }
}
