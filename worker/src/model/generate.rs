//! Generation: continues a prompt's tokens, one token at a time.
//!
//! Keys and values of all tokens so far are kept in a cache, so a new token costs one row through the decoder. This
//! module deals with token ids only; text and the choice of stop tokens are up to the caller.

#![allow(non_snake_case, reason = "tensor names have shape suffixes, as in the decoder")]

use std::ops::ControlFlow;

use super::Model;
use super::error::Error;
use super::sampling::Sampling;
use crate::ops::{KvCache, Rotary, Tape};

/// Options of a generation.
#[derive(Clone, Debug)]
pub struct Generation {
    /// How each token is chosen.
    pub sampling: Sampling,
    /// Maximum number of tokens to generate.
    pub max_new_tokens: usize,
    /// Tokens that end the answer, and are not part of it.
    pub stop: Vec<u32>,
}

/// The continuation of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// The new tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// Why generation ended.
    pub finish: Finish,
}

/// Why a continuation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model generated this stop token.
    Stop(u32),
    /// `max_new_tokens` or the model's context length was reached.
    Length,
    /// The caller interrupted it.
    Interrupted,
}

impl Model {
    /// Continues `prompt`, and calls `show` with each token as it is generated.
    ///
    /// # Errors
    /// [`Error::Prompt`] for an empty prompt, one that fills the context, or logits that are not numbers;
    /// [`Error::Ops`] for a token outside the vocabulary.
    pub fn generate(
        &self,
        prompt: &[u32],
        generation: &Generation,
        mut show: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Continuation, Error> {
        let context = self.config.max_position_embeddings;
        if prompt.is_empty() || prompt.len() >= context {
            let got = prompt.len();
            let what = format!("a prompt must have 1 to {} tokens, got {got}", context - 1);
            return Err(Error::Prompt { what });
        }
        let room = generation.max_new_tokens.min(context - prompt.len());
        let mut reader = Reader::new(self, prompt.len() + room)?;
        let mut tokens = Vec::new();
        let mut unread = prompt.to_vec();
        while tokens.len() < room {
            let mut logits = reader.read(&unread)?;
            let token = generation.sampling.choose(&mut logits, tokens.len())?;
            if generation.stop.contains(&token) {
                return Ok(Continuation { tokens, finish: Finish::Stop(token) });
            }
            tokens.push(token);
            if show(token).is_break() {
                return Ok(Continuation { tokens, finish: Finish::Interrupted });
            }
            unread = vec![token];
        }
        Ok(Continuation { tokens, finish: Finish::Length })
    }
}

/// A model that has read part of a text.
struct Reader<'m> {
    model: &'m Model,
    rotary: Rotary,
    /// One cache per layer.
    caches: Vec<KvCache>,
}

impl<'m> Reader<'m> {
    /// A reader of at most `positions` tokens.
    fn new(model: &'m Model, positions: usize) -> Result<Self, Error> {
        let device = model.parameters.kernels().device();
        let caches = model.layout.layers.iter().map(|_| KvCache::default()).collect();
        Ok(Self { model, rotary: model.config.rotary(device, positions)?, caches })
    }

    /// Reads the next tokens, and returns the logits of the token that follows the last of them.
    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let Model { layout, config, parameters, .. } = self.model;
        let tape = Tape::inference(parameters);
        let mut x_TE = tape.embed(tokens, layout.embedding)?;
        for (layer, cache) in layout.layers.iter().zip(&mut self.caches) {
            x_TE = layer.forward(&tape, &x_TE, config.rms_norm_eps, |qkv| {
                tape.attention_cached(qkv, &self.rotary, cache, &layer.attention)
            })?;
        }
        // Only the last row predicts an unknown token.
        let last_1E = tape.rms_norm(&tape.last_row(&x_TE)?, layout.norm, config.rms_norm_eps)?;
        let logits_1V = tape.linear(&last_1E, layout.head, None)?;
        let logits = logits_1V.read().to_vec();
        Ok(logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels;
    use crate::model::Config;
    use crate::model::logits::argmax;
    use crate::ops::Documents;

    /// A model with a window shorter than the text, norms on heads, biases, and fewer key heads than query heads.
    fn model() -> Model {
        let text = r#"{
            "model_type": "qwen3", "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 8, "initializer_range": 0.4, "attention_bias": true,
            "use_sliding_window": true, "sliding_window": 5, "max_window_layers": 1,
            "max_position_embeddings": 40}"#;
        let config = Config::parse("config.json".as_ref(), text).expect("a sound configuration");
        Model::random(config, 11, kernels::host())
    }

    fn generation(sampling: Sampling) -> Generation {
        Generation { sampling, max_new_tokens: 20, stop: Vec::new() }
    }

    fn go_on(_: u32) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn the_cache_changes_no_token() {
        let model = model();
        let mut text = vec![3, 14, 15, 9, 26, 5];
        let generation = generation(Sampling::greedy());
        let got = model.generate(&text, &generation, go_on).expect("a sound prompt").tokens;
        for token in &got {
            // Run the whole text again for each token, with the forward pass of training.
            let documents = Documents::of_lengths([text.len()]);
            let logits = model.logits(&text, &documents).expect("a sound text");
            let last = logits.to_vec2::<f32>().expect("a matrix").pop().expect("a row");
            assert_eq!(argmax(&last), Some(*token as usize));
            text.push(*token);
        }
        assert_eq!(got.len(), 20);
        assert!(got.iter().any(|token| *token != got[0]), "not the same token over and over");
    }

    #[test]
    fn equal_seeds_draw_equal_texts() {
        let model = model();
        let draw = |seed| {
            let sampling = Sampling::nucleus(1.0, 0.95, seed).expect("sound");
            model.generate(&[1, 2], &generation(sampling), go_on).expect("sound").tokens
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn generation_ends_at_a_stop_token_an_interruption_or_the_context_end() {
        let model = model();
        let mut generation = generation(Sampling::greedy());
        let whole = model.generate(&[7], &generation, go_on).expect("sound").tokens;
        let stopped = model.generate(&[7], &generation, |_| ControlFlow::Break(())).expect("sound");
        assert_eq!((stopped.tokens, stopped.finish), (whole[..1].to_vec(), Finish::Interrupted));

        generation.stop = vec![whole[2]];
        let first = whole.iter().position(|token| *token == whole[2]).expect("it is there");
        let stopped = model.generate(&[7], &generation, go_on).expect("sound");
        assert_eq!(
            (stopped.tokens, stopped.finish),
            (whole[..first].to_vec(), Finish::Stop(whole[2]))
        );

        let long = [1; 38];
        generation.stop.clear();
        let full = model.generate(&long, &generation, go_on).expect("sound");
        assert_eq!((full.tokens.len(), full.finish), (2, Finish::Length));
        assert!(model.generate(&[], &generation, go_on).is_err());
        assert!(model.generate(&[1; 40], &generation, go_on).is_err());
        assert!(model.generate(&[31], &generation, go_on).is_err(), "outside the vocabulary");
    }
}
