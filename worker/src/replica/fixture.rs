//! A training state so small that a test can hold several, and the smallest possible change to it.

use super::State;
use crate::device::Buffer;
use crate::kernels;
use crate::model::{Config, Model};
use crate::ops::ParamId;
use std::path::Path;

/// The state of a model of one layer before its first step; the same at every call.
pub(crate) fn state() -> State {
    state_with(&[])
}

/// The same state with some parameters frozen.
pub(crate) fn state_with(frozen: &[ParamId]) -> State {
    let text = serde_json::json!({
        "model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "tie_word_embeddings": true,
    });
    let config = Config::parse(Path::new("config.json"), &text.to_string()).expect("valid");
    let mut model = Model::random(config, 7, kernels::host());
    frozen.iter().for_each(|p| model.parameters_mut().freeze(*p));
    State::new(model)
}

/// Flips the last bit of an element's mantissa.
pub(crate) fn flip(buffer: &mut Buffer, at: usize) {
    let value = f32::from_bits(buffer.read::<f32>()[at].to_bits() ^ 1);
    buffer.write(at, &[value]);
}
