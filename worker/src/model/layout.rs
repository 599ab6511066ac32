//! The parameters of a configuration: their names (those of transformers), their order and their shapes.
//!
//! The order is that of transformers' `state_dict`. Everything that iterates over parameters (buckets, checkpoints,
//! optimizer state) uses this order.

use crate::kernels::Attention;
use crate::ops::ParamId;

use super::Config;

/// Name of the embedding, and also of the output matrix if the two are tied.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the output matrix if it is not tied to the embedding.
pub(super) const HEAD: &str = "lm_head.weight";

/// How new weights are initialized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fresh {
    /// Drawn from a normal distribution, for matrices.
    Normal,
    /// Zero, for biases.
    Zero,
    /// One, for norms.
    One,
}

/// A parameter before it has values.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) fresh: Fresh,
}

/// A matrix `[out, in]` with an optional bias `[out]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    pub(super) weight: ParamId,
    pub(super) bias: Option<ParamId>,
}

/// The parameters of one decoder layer, and the settings of its attention.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) output: Linear,
    /// Norms of each query head and each key head.
    pub(super) qk_norm: Option<(ParamId, ParamId)>,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) attention_norm: ParamId,
    pub(super) mlp_norm: ParamId,
    pub(super) attention: Attention,
}

/// The parameters of each part of the decoder.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) embedding: ParamId,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: ParamId,
    /// The output matrix; the embedding itself if the two are tied.
    pub(super) head: ParamId,
}

impl Layout {
    /// The parameters of `config` in order, and the decoder, which refers to them by their index.
    pub(super) fn new(config: &Config) -> (Self, Vec<Slot>) {
        let mut slots = Slots(Vec::new());
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embedding = slots.push(EMBEDDING.to_owned(), &[vocab, hidden], Fresh::Normal);
        let windows = config.windows.iter().enumerate();
        let layers = windows.map(|(layer, window)| slots.layer(config, layer, *window)).collect();
        let norm = slots.norm("model.norm", hidden);
        let head = match config.tie_word_embeddings {
            true => embedding,
            false => slots.push(HEAD.to_owned(), &[vocab, hidden], Fresh::Normal),
        };
        (Self { embedding, layers, norm, head }, slots.0)
    }
}

struct Slots(Vec<Slot>);

impl Slots {
    fn push(&mut self, name: String, shape: &[usize], fresh: Fresh) -> ParamId {
        self.0.push(Slot { name, shape: shape.to_vec(), fresh });
        ParamId(self.0.len() - 1)
    }

    fn norm(&mut self, module: &str, size: usize) -> ParamId {
        self.push(format!("{module}.weight"), &[size], Fresh::One)
    }

    fn linear(&mut self, module: String, out: usize, from: usize, bias: bool) -> Linear {
        let weight = self.push(format!("{module}.weight"), &[out, from], Fresh::Normal);
        let bias = bias.then(|| self.push(format!("{module}.bias"), &[out], Fresh::Zero));
        Linear { weight, bias }
    }

    fn layer(&mut self, config: &Config, layer: usize, window: Option<usize>) -> Layer {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (heads, kv_heads, head_dim) = (config.heads, config.kv_heads, config.head_dim);
        let attn = format!("model.layers.{layer}.self_attn");
        let mlp = format!("model.layers.{layer}.mlp");
        let (bias, kv) = (config.qkv_bias, kv_heads * head_dim);
        Layer {
            query: self.linear(format!("{attn}.q_proj"), heads * head_dim, hidden, bias),
            key: self.linear(format!("{attn}.k_proj"), kv, hidden, bias),
            value: self.linear(format!("{attn}.v_proj"), kv, hidden, bias),
            output: self.linear(
                format!("{attn}.o_proj"),
                hidden,
                heads * head_dim,
                config.output_bias,
            ),
            qk_norm: config.qk_norm.then(|| {
                let query = self.norm(&format!("{attn}.q_norm"), head_dim);
                (query, self.norm(&format!("{attn}.k_norm"), head_dim))
            }),
            gate: self.linear(format!("{mlp}.gate_proj"), inner, hidden, config.mlp_bias),
            up: self.linear(format!("{mlp}.up_proj"), inner, hidden, config.mlp_bias),
            down: self.linear(format!("{mlp}.down_proj"), hidden, inner, config.mlp_bias),
            attention_norm: self.norm(&format!("model.layers.{layer}.input_layernorm"), hidden),
            mlp_norm: self.norm(&format!("model.layers.{layer}.post_attention_layernorm"), hidden),
            attention: Attention {
                heads,
                kv_heads,
                head_dim,
                scale: (head_dim as f32).sqrt().recip(),
                window,
            },
        }
    }
}
