//! Compares the model with `transformers` in f32: logits, loss, every gradient, and greedy generation.
//!
//! `tests/peer/parity.py` makes tiny models of every kind and their references. With MUSTER_TEST_MODEL it also makes
//! a reference of that model. Every pack has several documents, and the reference runs each of them by itself.
//! MUSTER_PEER_PYTHON names the interpreter (torch, transformers, safetensors); if it is unset, these tests say that
//! they are skipped.
//!
//! Tolerances: 1e-4 of max(1, largest logit) for logits; 1e-3 of its norm for the difference of a gradient. Two
//! correct f32 implementations that sum in different orders differ by a tenth of that or less.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use safetensors::SafeTensors;
use worker::device::{Buffer, Device, Dtype, WindowMut};
use worker::kernels;
use worker::model::{Continuation, Family, Finish, Generation, Model, Sampling};
use worker::ops::{Documents, Gradients, ParamId, Parameters, Recompute, Tape, Target};

const LOGIT_TOLERANCE: f64 = 1e-4;
const LOSS_TOLERANCE: f64 = 1e-5;
const GRADIENT_TOLERANCE: f64 = 1e-3;

/// The folder of references. It is made again whenever the script that makes it has changed.
static REFERENCES: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let Some(python) = std::env::var_os("MUSTER_PEER_PYTHON") else {
        println!("skipped: MUSTER_PEER_PYTHON is unset");
        return None;
    };
    let model = std::env::var_os("MUSTER_TEST_MODEL");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer/parity.py");
    let mut hasher = DefaultHasher::new();
    (std::fs::read(&script).expect("the script is there"), &model, &python).hash(&mut hasher);
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("parity-{:x}", hasher.finish()));
    let done = out.join("done");
    if !done.exists() {
        let mut peer = Command::new(python);
        peer.arg(script).arg(&out);
        peer.args(model.iter().flat_map(|folder| ["--model".as_ref(), folder.as_os_str()]));
        let output = peer.output().expect("MUSTER_PEER_PYTHON runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(done, "").expect("the mark is written");
    }
    Some(out)
});

/// The results of transformers for a pack.
struct Reference {
    bytes: Vec<u8>,
}

impl Reference {
    fn read(folder: &Path) -> Self {
        let bytes = std::fs::read(folder.join("reference.safetensors"));
        Self { bytes: bytes.expect("the script wrote a reference") }
    }

    fn elements<const N: usize, T>(&self, name: &str, element: impl Fn([u8; N]) -> T) -> Vec<T> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let view = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        view.data().as_chunks::<N>().0.iter().map(|bytes| element(*bytes)).collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.elements(name, f32::from_le_bytes)
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        self.elements(name, |bytes| i64::from_le_bytes(bytes) as u32)
    }

    fn loss(&self) -> f64 {
        self.elements("loss", f64::from_le_bytes)[0]
    }

    fn documents(&self) -> Documents {
        Documents::of_lengths(self.ids("lengths").into_iter().map(|length| length as usize))
    }

    fn targets(&self) -> Vec<Target> {
        let (rows, tokens) = (self.ids("target_row"), self.ids("target_token"));
        let places = rows.into_iter().zip(tokens);
        places
            .zip(self.floats("target_weight"))
            .map(|((row, token), weight)| Target { row, token, weight })
            .collect()
    }
}

/// Gradients by parameter, and how often each was reported as final.
struct Collected {
    slots: Vec<Buffer>,
    finished: Vec<usize>,
}

impl Collected {
    fn new(parameters: &Parameters) -> Self {
        let zeros = |p| Device::Host.zeros(Dtype::F32, parameters.elements(p));
        let slots = parameters.ids().map(zeros).collect();
        Self { slots, finished: vec![0; parameters.len()] }
    }
}

impl Gradients for Collected {
    fn slots(&mut self, p: ParamId) -> Vec<WindowMut<'_>> {
        vec![self.slots[p.0].all_mut()]
    }

    fn finished(&mut self, p: ParamId) {
        self.finished[p.0] += 1;
    }
}

/// Loss and gradients of the reference's pack.
fn differentiate(model: &Model, reference: &Reference, recompute: Recompute) -> (f64, Collected) {
    let tape = Tape::recomputing(model.parameters(), recompute);
    let (tokens, documents) = (reference.ids("tokens"), reference.documents());
    let hidden = model.hidden(&tape, &tokens, &documents).expect("the pack is sound");
    let loss = tape.linear_cross_entropy(&hidden, model.head(), &reference.targets());
    let mut gradients = Collected::new(model.parameters());
    let losses = tape.backward(loss.expect("the pack is sound"), &mut gradients);
    (losses.expect("the pack is sound").read(|_, _| {}), gradients)
}

/// Compares the model in `model` with the reference in `reference`, and returns the differences.
fn disagreements(name: &str, model: &Path, reference: &Path) -> Vec<String> {
    let model =
        Model::load(model, kernels::host()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let reference = Reference::read(reference);
    let mut wrong = Vec::new();

    let want = reference.floats("logits");
    let logits = model.logits(&reference.ids("tokens"), &reference.documents());
    let logits = logits.expect("the pack is sound").flatten_all().expect("a matrix");
    let logits = logits.to_vec1::<f32>().expect("f32");
    let largest = want.iter().fold(1.0f32, |most, logit| most.max(logit.abs()));
    assert_eq!(logits.len(), want.len(), "{name}: the number of logits");
    // NaN counts as larger than any tolerance here.
    let apart = logits.iter().zip(&want).fold(0.0f32, |most, (got, want)| {
        let apart = (got - want).abs();
        if apart <= most { most } else { apart }
    }) / largest;
    if !within(apart.into(), LOGIT_TOLERANCE) {
        wrong.push(format!("{name}: logits are {apart:e} of {largest} apart"));
    }

    let (loss, gradients) = differentiate(&model, &reference, Recompute::Off);
    let loss_apart = (loss / reference.loss() - 1.0).abs();
    if !within(loss_apart, LOSS_TOLERANCE) {
        wrong.push(format!("{name}: the loss is {loss}, and should be {}", reference.loss()));
    }
    let mut worst = 0.0f64;
    let parameters = model.parameters();
    assert!(!parameters.is_empty(), "{name} has no parameters");
    for p in parameters.ids() {
        let tensor = parameters.name(p);
        let got = gradients.slots[p.0].read::<f32>();
        let want = reference.floats(&format!("grad.{tensor}"));
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let size = norm(&mut want.iter().map(|v| f64::from(*v)));
        let pairs = got.iter().zip(&want);
        let apart = norm(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b))) / size;
        if !within(apart, GRADIENT_TOLERANCE) {
            wrong.push(format!("{name}: the gradient of {tensor} is {apart:e} apart"));
        }
        if got.iter().all(|value| *value == 0.0) || gradients.finished[p.0] != 1 {
            wrong.push(format!("{name}: {tensor} gets no gradient, or not once"));
        }
        worst = worst.max(apart);
    }
    println!(
        "{name:22} logits {apart:.1e} of {largest:.1}, loss {loss_apart:.1e}, \
         worst of {} gradients {worst:.1e}",
        parameters.len()
    );
    wrong
}

/// Whether a difference is within the tolerance; NaN is not.
fn within(apart: f64, tolerance: f64) -> bool {
    apart <= tolerance
}

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_tiny_model_agrees_with_transformers() {
    let Some(references) = &*REFERENCES else {
        return;
    };
    let mut cases: Vec<_> = std::fs::read_dir(references)
        .expect("the script made the folder")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|folder| folder.join("config.json").exists())
        .collect();
    cases.sort();
    assert!(cases.len() >= 12, "one folder per case of the script");
    for family in Family::ALL {
        let plain = references.join(family.name);
        assert!(cases.contains(&plain), "tests/peer/parity.py has no case `{}`", family.name);
    }
    let wrong: Vec<_> = cases
        .iter()
        .flat_map(|folder| {
            disagreements(
                &folder.file_name().expect("a case has a name").to_string_lossy(),
                folder,
                folder,
            )
        })
        .collect();
    assert_none(&wrong);
}

/// MUSTER_TEST_MODEL and the folder of its references.
fn smollm2() -> Option<(PathBuf, PathBuf)> {
    let references = REFERENCES.as_ref()?;
    let Some(model) = std::env::var_os("MUSTER_TEST_MODEL") else {
        println!("skipped: MUSTER_TEST_MODEL is unset");
        return None;
    };
    Some((model.into(), references.join("smollm2")))
}

#[test]
fn smollm2_agrees_with_transformers() {
    let Some((model, reference)) = smollm2() else {
        return;
    };
    assert_none(&disagreements("smollm2", &model, &reference));
}

#[test]
fn recomputation_changes_no_bit_of_a_gradient() {
    let Some(references) = &*REFERENCES else {
        return;
    };
    for case in ["llama", "qwen3-yarn-window"] {
        let folder = references.join(case);
        let model = Model::load(&folder, kernels::host()).expect("a sound folder");
        let reference = Reference::read(&folder);
        let kept = differentiate(&model, &reference, Recompute::Off);
        for recompute in [Recompute::Light, Recompute::On] {
            let again = differentiate(&model, &reference, recompute);
            assert_eq!(kept.0, again.0);
            for (kept, again) in kept.1.slots.iter().zip(&again.1.slots) {
                assert!(kept.read::<f32>() == again.read::<f32>(), "{case}, {recompute:?}");
            }
            assert_eq!(again.1.finished, vec![1; model.parameters().len()]);
        }
    }
}

#[test]
fn smollm2_generates_the_same_tokens_as_transformers() {
    let Some((model, reference)) = smollm2() else {
        return;
    };
    let model = Model::load(&model, kernels::host()).expect("a sound folder");
    let text = std::fs::read(reference.join("generation.json")).expect("the script wrote it");
    let expected: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let ids = |list: &serde_json::Value| -> Vec<u32> {
        let list = list.as_array().expect("a list");
        list.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
    };
    let stop = expected["stop"].as_u64().expect("an id") as u32;
    let continuations = expected["continuations"].as_array().expect("a list");
    assert!(!continuations.is_empty());
    for one in continuations {
        let mut want = ids(&one["greedy"]);
        let generation = Generation {
            sampling: Sampling::greedy(),
            max_new_tokens: want.len(),
            stop: vec![stop],
        };
        let mut shown = Vec::new();
        let got = model.generate(&ids(&one["prompt"]), &generation, |token| {
            shown.push(token);
            ControlFlow::Continue(())
        });
        let finish = match want.pop_if(|last| *last == stop) {
            Some(stop) => Finish::Stop(stop),
            None => Finish::Length,
        };
        let got = got.expect("a sound prompt");
        assert_eq!(shown, got.tokens);
        assert_eq!(got, Continuation { tokens: want, finish });
    }
}
