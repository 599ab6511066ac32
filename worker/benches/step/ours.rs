//! Our step: the model's loss on a tape, gradients in one buffer per parameter, clipping, AdamW.

use std::path::Path;
use std::time::Instant;

use worker::device::{Buffer, Dtype, WindowMut};
use worker::kernels;
use worker::model::{Config, Model};
use worker::ops::{Documents, Gradients, ParamId, Tape, Target};
use worker::replica::MicroBatch;
use worker::replica::objective::sft;
use worker::replica::optimizer::{AdamW, Update, clip_factor};

use super::{BATCH, Step};

const SMOLLM2_135M: &str = r#"{
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000.0,
    "tie_word_embeddings": true, "hidden_act": "silu", "initializer_range": 0.04}"#;

const OPTIMIZER: AdamW = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
const LEARNING_RATE: f64 = 1e-5;
const WEIGHT_DECAY: f64 = 0.01;
const CLIP: f64 = 1.0;

pub(super) struct Trainer {
    pub(super) model: Model,
    pub(super) config: String,
    name: String,
    gradients: Flat,
    moments: Vec<[Buffer; 2]>,
    updates: u64,
}

/// Collects gradients in one buffer per parameter.
struct Flat(Vec<Buffer>);

impl Gradients for Flat {
    fn slots(&mut self, p: ParamId) -> Vec<WindowMut<'_>> {
        vec![self.0[p.0].all_mut()]
    }

    fn finished(&mut self, _: ParamId) {}
}

impl Trainer {
    pub(super) fn new(folder: Option<&Path>, dtype: Dtype) -> anyhow::Result<Self> {
        let (mut model, name) = match folder {
            Some(folder) => (Model::load(folder, kernels::host())?, folder.display().to_string()),
            None => {
                let config = Config::parse("config.json".as_ref(), SMOLLM2_135M)?;
                (
                    Model::random(config, 1, kernels::host()),
                    "random weights in the shape of SmolLM2-135M".to_owned(),
                )
            }
        };
        model.parameters_mut().set_dtype(dtype);
        let device = model.parameters().kernels().device();
        let zeros = |p| device.zeros(Dtype::F32, model.parameters().elements(p));
        let gradients = Flat(model.parameters().ids().map(zeros).collect());
        let moments = model.parameters().ids().map(|p| [zeros(p), zeros(p)]).collect();
        Ok(Self { model, config: SMOLLM2_135M.to_owned(), name, gradients, moments, updates: 0 })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The name of the type of activations in PyTorch.
    pub(super) fn dtype(&self) -> &'static str {
        match self.model.parameters().dtype() {
            Dtype::Bf16 => "bfloat16",
            _ => "float32",
        }
    }

    /// Token ids without short repetitions: multiples of a prime.
    pub(super) fn batch(&self) -> Vec<Vec<u32>> {
        let vocabulary = self.model.config().vocab_size as u64;
        let token = |at: usize| (at as u64 * 7919 % vocabulary) as u32;
        let (rows, length) = BATCH;
        (0..rows).map(|row| (0..length).map(|at| token(row * length + at + 1)).collect()).collect()
    }

    pub(super) fn step(&mut self, documents: &[Vec<u32>]) -> anyhow::Result<Step> {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let tokens = documents.concat();
        let lengths = Documents::of_lengths(documents.iter().map(Vec::len));
        let targets: Vec<_> = lengths
            .iter()
            .flat_map(|rows| rows.skip(1))
            .map(|at| Target { row: at as u32 - 1, token: tokens[at], weight: 1.0 })
            .collect();

        let kernels = self.model.parameters().kernels().clone();
        self.gradients.0.iter_mut().for_each(|gradient| kernels.clear(gradient.all_mut()));
        let weight = targets.len() as f64;
        let sources = vec![0; documents.len()];
        let micro_batch = MicroBatch { tokens, documents: lengths, sources, targets };
        let tape = Tape::training(self.model.parameters());
        let loss = sft::loss(&self.model, &tape, &micro_batch)?;
        let loss = tape.backward(loss, &mut self.gradients)?.read(|_, _| {});

        let span = tracing::trace_span!("optimizer").entered();
        let mut squares = kernels.device().take(Dtype::F64, self.gradients.0.len());
        for (i, gradient) in self.gradients.0.iter().enumerate() {
            kernels.sum_squares(squares.window_mut(i..i + 1), gradient.all());
        }
        let norm = squares.read::<f64>().iter().sum::<f64>().sqrt() / weight;
        self.updates += 1;
        let factors = OPTIMIZER.step(&Update {
            count: self.updates,
            lr: LEARNING_RATE,
            // PyTorch's AdamW, as the peer uses it, also decays norms.
            weight_decay: WEIGHT_DECAY,
            gradient_scale: clip_factor(norm, CLIP) / weight,
        });
        let parameters = self.model.parameters_mut();
        for p in parameters.ids() {
            let [m, v] = &mut self.moments[p.0];
            let state = [parameters.values_mut(p), m, v].map(Buffer::all_mut);
            kernels.adamw(state, None, self.gradients.0[p.0].all(), &factors);
        }
        parameters.round();
        drop(span);
        let seconds = start.elapsed().as_secs_f64();
        Ok(Step { seconds, cpu_seconds: cpu_seconds() - cpu, loss: loss / weight, norm })
    }
}

/// CPU time of this process so far, user and system, in seconds with a resolution of 0.01.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15, counted from the end of the program's name, which may contain anything.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
