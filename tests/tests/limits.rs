//! Runs in a control group with little memory: micro-batches are fitted into its limit, or the run is refused.
//!
//! The group is made in the memory controller of this process's group, of either version, which needs its permission;
//! without it, the tests say that they skipped.

use muster_tests::{Fixture, Process, programs};
use std::path::{Path, PathBuf};

/// A control group, which is removed when this is dropped.
struct Group(PathBuf);

impl Group {
    /// A group for at most `limit` bytes; `None` if this process may not make one.
    fn of(limit: u64) -> Option<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let of_version_1 = groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|c| c == "memory").then_some(path)
        });
        let (root, path, file) = match of_version_1 {
            Some(path) => ("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"),
            None => {
                let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
                ("/sys/fs/cgroup", path, "memory.max")
            }
        };
        let parent = Path::new(root).join(path.trim_start_matches('/'));
        let folder = parent.join(format!("muster-{}", proto::id::unique()));
        if let Err(error) = std::fs::create_dir(&folder) {
            println!("skipped: {}: {error}", folder.display());
            return None;
        }
        let group = Self(folder);
        if let Err(error) = std::fs::write(group.0.join(file), limit.to_string()) {
            println!("skipped: {}/{file}: {error}", group.0.display());
            return None;
        }
        Some(group)
    }

    /// Starts a run in the group, whose log shows what the workers choose.
    fn run(&self, fixture: &Fixture, workers: &str) -> Process {
        let enter = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        let (coordinator, spec) = (programs::coordinator(), fixture.path("spec.yaml"));
        let program = [&self.0, &coordinator].map(|path| path.to_str().expect("a plain path"));
        let spec = spec.to_str().expect("a plain path");
        let [group, coordinator] = program;
        let arguments =
            ["-c", enter, group, coordinator, "run", spec, "--json", "--workers", workers];
        let environment = [("MUSTER_LOG", "info".to_owned())];
        Process::start_in(Path::new("/bin/sh"), &arguments, &environment)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Empty, since every process of a run has ended; otherwise the run itself has failed the test.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A run of a model of 22 million parameters, which in training has 350 MB of state.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    for (from, to) in [
        (r#""hidden_size": 192"#, r#""hidden_size": 768"#),
        (r#""intermediate_size": 512"#, r#""intermediate_size": 2048"#),
    ] {
        fixture.change("base/config.json", from, to);
    }
    fixture.respec("save_dtype: f32", "save_dtype: f32, init: random");
    fixture.respec("max_steps: 40", "max_steps: 2");
    fixture.respec("global_batch: 4\n  micro_batch: 1", "global_batch: 16");
    fixture
}

#[test]
fn micro_batches_are_fitted_into_the_limit() {
    let Some(group) = Group::of(1_000_000_000) else { return };
    let fixture = fixture();
    let ended = group.run(&fixture, "1").end().with_code(0);
    let chosen = ended.stderr.lines().find(|line| line.contains("chose the micro-batches"));
    let chosen = chosen.unwrap_or_else(|| panic!("nothing was chosen:\n{}", ended.stderr));
    assert!(!chosen.contains("packs=16 recompute=Off"), "{chosen}");
    let generations = ended.all("generation");
    assert_eq!(generations.len(), 1, "a worker was killed: {generations:?}\n{}", ended.stderr);
}

#[test]
fn a_run_that_does_not_fit_is_refused_with_what_would() {
    let Some(group) = Group::of(1 << 30) else { return };
    let fixture = fixture();
    let ended = group.run(&fixture, "2").end().with_code(2);
    for words in [
        "error: a worker needs ",
        "even with `train.micro_batch: 1` and `train.recompute: on`, but each of the 2 workers on this host may use ",
        "its control group is limited to 1.1 GB",
        "a single worker on this host needs ",
    ] {
        assert!(ended.stderr.contains(words), "`{words}` in:\n{}", ended.stderr);
    }
}
