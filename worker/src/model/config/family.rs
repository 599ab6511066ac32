//! The supported model types. Each is one row of a table; nothing else in this folder asks for a model type.

use super::fields::Fields;
use crate::model::error::Error;

/// A model type: what transformers fixes for it, and what it assumes for keys that a `config.json` omits.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// The value of `model_type` in a `config.json`.
    pub name: &'static str,
    /// The default of `max_position_embeddings`.
    pub(super) max_positions: usize,
    /// The default of `num_key_value_heads`; `None` for the number of query heads.
    pub(super) kv_heads: Option<usize>,
    /// The default of `head_dim`; `None` for the hidden size divided by the number of query heads.
    pub(super) head_dim: Option<usize>,
    /// Whether the query, key and value projections have biases.
    pub(super) qkv_bias: Switch,
    /// Whether the attention's output projection has a bias.
    pub(super) output_bias: Switch,
    /// Whether the feed-forward projections have biases.
    pub(super) mlp_bias: Switch,
    /// Whether every query and key head is normalized before the rotation.
    pub(super) qk_norm: bool,
    sliding: Sliding,
}

/// A property that a model type fixes, or leaves to a key of the `config.json`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// The same in every model, whatever the `config.json` says.
    Always(bool),
    /// The value of this key, false by default.
    Key(&'static str),
}

/// Which layers limit the attention to a window.
#[derive(Debug, PartialEq, Eq)]
enum Sliding {
    /// None of them.
    No,
    /// All of them, unless `sliding_window` is null.
    All,
    /// Those from `max_window_layers` on if `use_sliding_window` is set, or those that `layer_types` names.
    ByLayer,
}

impl Family {
    /// Every supported model type.
    pub const ALL: &'static [Self] = &[
        // Llama 2 and 3, SmolLM.
        Self {
            name: "llama",
            max_positions: 2048,
            kv_heads: None,
            head_dim: None,
            qkv_bias: Switch::Key("attention_bias"),
            output_bias: Switch::Key("attention_bias"),
            mlp_bias: Switch::Key("mlp_bias"),
            qk_norm: false,
            sliding: Sliding::No,
        },
        Self {
            name: "mistral",
            max_positions: 4096 * 32,
            kv_heads: Some(8),
            head_dim: None,
            qkv_bias: Switch::Always(false),
            output_bias: Switch::Always(false),
            mlp_bias: Switch::Always(false),
            qk_norm: false,
            sliding: Sliding::All,
        },
        // Qwen2 and 2.5.
        Self {
            name: "qwen2",
            max_positions: 32768,
            kv_heads: Some(32),
            head_dim: None,
            qkv_bias: Switch::Always(true),
            output_bias: Switch::Always(false),
            mlp_bias: Switch::Always(false),
            qk_norm: false,
            sliding: Sliding::ByLayer,
        },
        Self {
            name: "qwen3",
            max_positions: 32768,
            kv_heads: Some(32),
            head_dim: Some(128),
            qkv_bias: Switch::Key("attention_bias"),
            output_bias: Switch::Key("attention_bias"),
            mlp_bias: Switch::Always(false),
            qk_norm: true,
            sliding: Sliding::ByLayer,
        },
    ];

    pub(super) fn parse(fields: Fields<'_>) -> Result<&'static Self, Error> {
        let supported: Vec<_> = Self::ALL.iter().map(|family| family.name).collect();
        let supported = supported.join(", ");
        let Some(name) = fields.text("model_type")? else {
            return Err(fields.wrong("model_type", "one of ".to_owned() + &supported));
        };
        let hint = || format!("the model types {supported} are supported");
        let found = Self::ALL.iter().find(|family| family.name == name);
        found.ok_or_else(|| fields.not_implemented("model_type", hint()))
    }

    /// Per layer, the number of positions that a token attends to, including its own; `None` for all.
    pub(super) fn windows(
        &self,
        fields: Fields<'_>,
        layers: usize,
    ) -> Result<Vec<Option<usize>>, Error> {
        let (window, first_sliding) = match self.sliding {
            Sliding::No => (None, 0),
            Sliding::All => (fields.size("sliding_window", 4096)?, 0),
            Sliding::ByLayer => {
                let used = fields.flag("use_sliding_window", false)?;
                let window = fields.size("sliding_window", 4096)?.filter(|_| used);
                (window, fields.count("max_window_layers", 28)?)
            }
        };
        let windows = fields.layer_types(layers, |layer| layer >= first_sliding, window)?;
        // Only `Sliding::ByLayer` reads `layer_types` in transformers; the others use one window for all layers.
        if self.sliding != Sliding::ByLayer && windows.iter().any(|layer| *layer != window) {
            let hint = format!("`{}` has one window for all layers", self.name);
            return Err(fields.not_implemented("layer_types", hint));
        }
        Ok(windows)
    }
}

impl Switch {
    pub(super) fn read(&self, fields: Fields<'_>) -> Result<bool, Error> {
        match self {
            Self::Always(fixed) => Ok(*fixed),
            Self::Key(key) => fields.flag(key, false),
        }
    }
}
