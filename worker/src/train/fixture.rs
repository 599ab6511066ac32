//! A training so small that a test can hold several, and a change to it that is as small as a change can be.

use super::{Recipe, Trainer};
use crate::model::{Config, Model};
use crate::ops::ParamId;
use crate::ops::optimizer::AdamW;
use std::path::Path;

/// A model of one layer that has taken no step; the same at every call.
pub(crate) fn trainer() -> Trainer {
    trainer_with(&[])
}

/// The same, of which some parameters are frozen.
pub(crate) fn trainer_with(frozen: &[ParamId]) -> Trainer {
    let text = serde_json::json!({
        "model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "tie_word_embeddings": true,
    });
    let config = Config::parse(Path::new("config.json"), &text.to_string()).expect("valid");
    let recipe = Recipe {
        adamw: AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8 },
        weight_decay: 0.1,
        clip_norm: 1.0,
        recompute: false,
        bucket_elements: 64,
    };
    let mut model = Model::random(config, 7).expect("drawn");
    frozen.iter().for_each(|p| model.parameters_mut().freeze(*p));
    Trainer::new(model, recipe)
}

/// Flips the last bit of the mantissa.
pub(crate) fn flip(value: &mut f32) {
    *value = f32::from_bits(value.to_bits() ^ 1);
}
