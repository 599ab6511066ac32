//! Our step: the model's loss on a tape, gradients into one buffer per parameter, clipping, AdamW.

use std::path::Path;
use std::time::Instant;

use worker::model::{Config, Model};
use worker::ops::optimizer::{AdamW, Update, clip_factor, square_norm};
use worker::ops::{Documents, Gradients, ParamId, Tape, Target};

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
    moments: Vec<(Vec<f32>, Vec<f32>)>,
    updates: u64,
}

/// One buffer per parameter.
struct Flat(Vec<Vec<f32>>);

impl Gradients for Flat {
    fn slots(&mut self, p: ParamId) -> Vec<&mut [f32]> {
        vec![&mut self.0[p.0]]
    }

    fn finished(&mut self, _: ParamId) {}
}

impl Trainer {
    pub(super) fn new(folder: Option<&Path>) -> anyhow::Result<Self> {
        let (model, name) = match folder {
            Some(folder) => (Model::load(folder)?, folder.display().to_string()),
            None => {
                let config = Config::parse("config.json".as_ref(), SMOLLM2_135M)?;
                (
                    Model::random(config, 1)?,
                    "random weights in the shape of SmolLM2-135M".to_owned(),
                )
            }
        };
        let zeros = |p| vec![0.0; model.parameters().elements(p)];
        let gradients = Flat(model.parameters().ids().map(zeros).collect());
        let moments = model.parameters().ids().map(|p| (zeros(p), zeros(p))).collect();
        Ok(Self { model, config: SMOLLM2_135M.to_owned(), name, gradients, moments, updates: 0 })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Token ids that repeat nothing for long: multiples of a prime.
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

        self.gradients.0.iter_mut().for_each(|gradient| gradient.fill(0.0));
        let tape = Tape::training(self.model.parameters());
        let loss = self.model.loss(&tape, &tokens, &lengths, &targets, false)?;
        let loss = tape.backward(loss, &mut self.gradients)?;

        let weight = targets.len() as f64;
        let span = tracing::trace_span!("optimizer").entered();
        let squares: f64 = self.gradients.0.iter().map(|gradient| square_norm(gradient)).sum();
        let norm = squares.sqrt() / weight;
        self.updates += 1;
        let update = Update {
            count: self.updates,
            lr: LEARNING_RATE,
            weight_decay: WEIGHT_DECAY,
            gradient_scale: clip_factor(norm, CLIP) / weight,
        };
        let parameters = self.model.parameters_mut();
        for p in parameters.ids() {
            // PyTorch's AdamW, as the peer calls it, decays norms too.
            let (m, v) = &mut self.moments[p.0];
            let g = &self.gradients.0[p.0];
            parameters.write(p, |values| OPTIMIZER.update(&update, values, g, m, v));
        }
        drop(span);
        let seconds = start.elapsed().as_secs_f64();
        Ok(Step { seconds, cpu_seconds: cpu_seconds() - cpu, loss: loss / weight, norm })
    }
}

/// Processor time of this process so far, user and system, in hundredths.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15, counted behind the program's name, which may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
