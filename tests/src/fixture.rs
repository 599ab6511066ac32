//! A small run in its own folder, with the quick start's base and the first of its conversations.

use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Conversations in the data set; two packs of 256 tokens hold about 20.
pub const RECORDS: usize = 240;
/// Steps that [`SPEC`] plans.
pub const STEPS: u64 = 40;
/// Steps of a run after [`Fixture::long`].
pub const LONG: u64 = 160;
/// Steps between two checkpoints.
pub const EVERY: u64 = 8;

/// The run. Weights are saved as they are computed, so that equal files mean equal bits.
pub const SPEC: &str = "\
name: small
model: {base: ./base, save_dtype: f32}
data:
  train:
    - source: ./data.jsonl
      format: messages
  eval: {holdout: 0.1, every: checkpoint, at_start: true}
  max_tokens: 128
  max_dropped: 0.01
train:
  epochs: 20
  max_steps: 40
  global_batch: 4
  micro_batch: 1
  learning_rate: 1.0e-3
  seed: 20
checkpoint: {every: 8, keep: 100}
output: ./runs
";

/// A model that is small enough for a software GPU.
const TINY: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "vocab_size": 2048, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": true, "hidden_act": "silu", "eos_token_id": 0, "initializer_range": 0.05}"#;

/// A folder with `base/`, `data.jsonl` and `spec.yaml`, which is deleted when this is dropped.
pub struct Fixture {
    folder: TempDir,
}

impl Default for Fixture {
    fn default() -> Self {
        Self::new()
    }
}

impl Fixture {
    /// A run that succeeds.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let fixture = Self { folder };
        let quickstart = repository().join("deploy/quickstart");
        std::fs::create_dir(fixture.path("base")).expect("a fresh folder");
        for entry in quickstart.join("base").read_dir().expect("the repository has a base") {
            let from = entry.expect("the base can be listed").path();
            let name = Path::new("base").join(from.file_name().expect("it was listed"));
            std::fs::copy(&from, fixture.folder.path().join(name)).expect("the base can be copied");
        }
        let data = std::fs::read_to_string(quickstart.join("instructions.jsonl"));
        let data = data.expect("the repository has instructions");
        let lines: Vec<_> = data.lines().take(RECORDS).collect();
        assert_eq!(lines.len(), RECORDS);
        fixture.write("data.jsonl", &(lines.join("\n") + "\n"));
        fixture.write("spec.yaml", SPEC);
        fixture
    }

    /// A run of a tiny model for this number of steps, with a checkpoint after half of them.
    pub fn tiny(steps: u64) -> Self {
        let fixture = Self::new();
        fixture.write("base/config.json", TINY);
        fixture.respec("{base: ./base, ", "{base: ./base, init: random, ");
        fixture.respec("max_steps: 40", &format!("max_steps: {steps}"));
        fixture.respec("checkpoint: {every: 8,", &format!("checkpoint: {{every: {},", steps / 2));
        fixture
    }

    /// A path in the fixture's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, or overwrites it.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("the temporary folder can be written to");
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Replaces the only occurrence of `old` in a file.
    pub fn change(&self, name: &str, old: &str, new: &str) {
        let text = self.read(name);
        assert_eq!(text.matches(old).count(), 1, "`{old}` in {name}");
        self.write(name, &text.replace(old, new));
    }

    /// Replaces the only occurrence of `old` in the spec.
    pub fn respec(&self, old: &str, new: &str) {
        self.change("spec.yaml", old, new);
    }

    /// Makes the run long enough that a test can act while it is training.
    pub fn long(&self) {
        self.respec("max_steps: 40", &format!("max_steps: {LONG}"));
        self.respec("epochs: 20", "epochs: 80");
    }

    /// Number of facts of a kind in the journal of `run`.
    pub fn facts(&self, run: &str, kind: &str) -> usize {
        journal(&self.path("runs").join(run)).iter().filter(|f| f["event"] == kind).count()
    }

    /// What users asked for in the journal of `run`, and who they were.
    pub fn requests(&self, run: &str) -> Vec<(String, String)> {
        let facts = journal(&self.path("runs").join(run));
        let requested = facts.iter().filter(|fact| fact["event"] == "requested");
        let text =
            |fact: &serde_json::Value, name: &str| fact[name].as_str().expect("a text").to_owned();
        requested.map(|fact| (text(fact, "action"), text(fact, "by"))).collect()
    }

    /// The folders of runs under the output, oldest first.
    pub fn runs(&self) -> Vec<PathBuf> {
        let Ok(entries) = self.path("runs").read_dir() else { return Vec::new() };
        let mut runs: Vec<_> = entries
            .map(|e| e.expect("the output can be listed").path())
            .filter(|p| p.join("journal").is_dir() && !p.ends_with("pool"))
            .collect();
        runs.sort();
        runs
    }

    /// The folder of the only run.
    pub fn run(&self) -> PathBuf {
        let [run] = &self.runs()[..] else { panic!("one run, not {:?}", self.runs()) };
        run.clone()
    }
}

/// The repository, or what `MUSTER_TEST_REPOSITORY` names on a machine that has only a part of it.
fn repository() -> PathBuf {
    let named = std::env::var_os("MUSTER_TEST_REPOSITORY").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
}

/// Every file under `folder`, relative to it, sorted.
pub fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let Ok(entries) = next.read_dir() else { continue };
        for entry in entries {
            let path = entry.expect("the folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("found under it");
                found.push(name.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// The facts of a run's journal, in order.
pub fn journal(run: &Path) -> Vec<serde_json::Value> {
    let folder = run.join("journal");
    let mut facts = Vec::new();
    // A writer that was killed leaves `NAME#1`, which is not an entry.
    let entries = files(&folder).into_iter().filter(|name| !name.contains('#'));
    for (number, name) in entries.enumerate() {
        assert_eq!(name, format!("{number:010}.json"), "a journal has no gap");
        let text = std::fs::read(folder.join(&name)).expect("it was listed");
        let entry: serde_json::Value = serde_json::from_slice(&text)
            .unwrap_or_else(|e| panic!("the journal entry {name} is half-written: {e}"));
        facts.extend(entry["events"].as_array().expect("an entry has events").iter().cloned());
    }
    facts
}
