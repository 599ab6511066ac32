//! The decoder: one forward pass for the whole Llama family, written in operations of the tape.
//!
//! ```text
//! decoder:  tokens -> embedding -> layers -> norm -> output matrix
//! layer:    x -> x + attention(norm x) -> x + feed-forward(norm x)
//! ```
//!
//! Training and generation differ only in how a layer attends, so `attend` is an argument of the layer. The
//! arithmetic is that of transformers' `modeling_llama.py`, `modeling_mistral.py`, `modeling_qwen2.py` and
//! `modeling_qwen3.py`.
//!
//! Shape letters: T tokens of all documents, concatenated; E width of the residual stream; Q width of all query
//! heads; K width of all key heads, and of all value heads; I width inside the feed-forward block.

#![allow(non_snake_case, reason = "tensor names have shape suffixes")]

use super::error::Error;
use super::layout::{Layer, Linear};
use super::{Config, Model};
use crate::device::Device;
use crate::ops::{self, Documents, Placement, Recompute, Rotary, Tape, Value};
use candle_core::Tensor;
use std::sync::{Arc, Mutex};

impl Model {
    /// Computes the logits of every row: `[tokens, vocabulary]`.
    ///
    /// # Errors
    /// [`Error::Ops`] for a token outside the vocabulary, or documents whose total length is not that of the tokens;
    /// [`Error::Tensor`] if the tensor library refuses the result.
    pub fn logits(&self, tokens: &[u32], documents: &Documents) -> Result<Tensor, Error> {
        let tape = Tape::inference(&self.parameters);
        let x_TE = self.hidden(&tape, tokens, documents)?;
        let logits_TV = tape.linear(&x_TE, self.layout.head, None)?;
        let shape = (logits_TV.rows(), logits_TV.cols());
        Ok(Tensor::from_slice(&logits_TV.read(), shape, &candle_core::Device::Cpu)?)
    }

    /// Computes the hidden states that [`Model::head`] maps to logits: `[tokens, E]`.
    ///
    /// `tokens` are the concatenated documents of a micro-batch.
    ///
    /// # Errors
    /// [`Error::Ops`] for a token outside the vocabulary, or documents whose total length is not that of the tokens.
    pub fn hidden<'p>(
        &'p self,
        tape: &Tape<'p>,
        tokens: &[u32],
        documents: &Documents,
    ) -> Result<Value, Error> {
        let device = self.parameters.kernels().device();
        let rotary = self.rotary.covering(&self.config, device, documents.longest())?;
        // The closure may run again in the backward, so it owns what it reads.
        let place = Arc::new(Placement::new(device, rotary, documents.clone()));
        let mut x_TE = tape.embed(tokens, self.layout.embedding)?;
        for layer in &self.layout.layers {
            let place = place.clone();
            let eps = self.config.rms_norm_eps;
            let forward = move |tape: &Tape<'p>, x_TE: &Value| {
                let _span = tracing::trace_span!("norms and element-wise forward").entered();
                layer.forward(tape, x_TE, eps, |qkv| {
                    let _span = tracing::trace_span!("attention forward").entered();
                    tape.attention(qkv, &place, &layer.attention)
                })
            };
            x_TE = match tape.recomputes() {
                Recompute::On => tape.recompute(&x_TE, forward)?,
                Recompute::Off | Recompute::Light => forward(tape, &x_TE)?,
            };
        }
        Ok(tape.rms_norm(&x_TE, self.layout.norm, self.config.rms_norm_eps)?)
    }
}

impl Layer {
    /// Runs one decoder layer; `attend` computes the output of the heads from queries, keys and values that are not
    /// yet rotated.
    pub(super) fn forward(
        &self,
        tape: &Tape<'_>,
        x_TE: &Value,
        eps: f32,
        attend: impl FnOnce([&Value; 3]) -> ops::Result<Value>,
    ) -> ops::Result<Value> {
        let normed_TE = tape.rms_norm(x_TE, self.attention_norm, eps)?;
        let mut q_TQ = self.query.forward(tape, &normed_TE)?;
        let mut k_TK = self.key.forward(tape, &normed_TE)?;
        let v_TK = self.value.forward(tape, &normed_TE)?;
        if let Some((query, key)) = self.qk_norm {
            q_TQ = tape.rms_norm(&q_TQ, query, eps)?;
            k_TK = tape.rms_norm(&k_TK, key, eps)?;
        }
        let heads_TQ = attend([&q_TQ, &k_TK, &v_TK])?;
        let x_TE = tape.add(x_TE, &self.output.forward(tape, &heads_TQ)?)?;

        let normed_TE = tape.rms_norm(&x_TE, self.mlp_norm, eps)?;
        let gate_TI = self.gate.forward(tape, &normed_TE)?;
        let up_TI = self.up.forward(tape, &normed_TE)?;
        let inner_TI = tape.swiglu(&gate_TI, &up_TI)?;
        tape.add(&x_TE, &self.down.forward(tape, &inner_TI)?)
    }
}

impl Linear {
    fn forward(&self, tape: &Tape<'_>, x: &Value) -> ops::Result<Value> {
        let _span = tracing::trace_span!("linear forward").entered();
        tape.linear(x, self.weight, self.bias)
    }
}

impl Config {
    /// The rotary tables for positions `0..positions`.
    pub(super) fn rotary(&self, device: &Device, positions: usize) -> ops::Result<Rotary> {
        let tables = self.rope.tables(self.head_dim, positions);
        Rotary::new(device, tables.cos, tables.sin, self.head_dim / 2)
    }
}

/// Rotary tables that are kept between passes, since computing them takes a tenth of a second for 32,768 positions.
#[derive(Default)]
pub(super) struct KeptRotary(Mutex<Option<Arc<Rotary>>>);

impl KeptRotary {
    /// Tables for at least `positions` positions; computed again only if the existing ones are too short.
    fn covering(
        &self,
        config: &Config,
        device: &Device,
        positions: usize,
    ) -> ops::Result<Arc<Rotary>> {
        let mut kept = self.0.lock().expect("computing tables does not panic");
        if let Some(tables) = kept.as_ref().filter(|tables| tables.positions() >= positions) {
            return Ok(tables.clone());
        }
        // The length at least doubles, so that slowly growing documents cost little.
        let tables = Arc::new(config.rotary(device, positions.next_power_of_two())?);
        Ok(kept.insert(tables).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_computed_again_only_for_longer_documents() {
        let text = r#"{"model_type": "llama", "vocab_size": 8, "hidden_size": 8,
            "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}"#;
        let config = Config::parse("config.json".as_ref(), text).expect("a sound configuration");
        let kept = KeptRotary::default();
        let covering =
            |positions| kept.covering(&config, &Device::Host, positions).expect("tables");
        let first = covering(100);
        assert_eq!(first.positions(), 128);
        assert!(Arc::ptr_eq(&first, &covering(3)) && Arc::ptr_eq(&first, &covering(128)));
        let longer = covering(129);
        assert_eq!(longer.positions(), 256);
        assert!(Arc::ptr_eq(&longer, &covering(100)));
    }
}
