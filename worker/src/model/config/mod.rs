//! The settings of a Hugging Face `config.json` that affect the arithmetic of a model.
//!
//! Both spellings are read: that of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and that of
//! transformers 5 (`rope_parameters`, `dtype`). An absent key has transformers' default for its model type. A value
//! that would change the arithmetic but is not implemented is refused by name; settings that do not affect the
//! arithmetic are ignored.

mod family;
mod fields;
mod rope;

use std::io;
use std::path::Path;

pub use family::Family;
use fields::Fields;
pub use rope::{Rope, Scaling};

use super::Dtype;
use super::error::{Error, NO_MODEL_HINT};

/// The name of the file in a model folder.
pub const FILE: &str = "config.json";

/// A decoder's shape and arithmetic. Fields are named as in `config.json` where it has them.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The model type.
    pub family: &'static Family,
    /// Number of rows of the embedding; token ids are smaller than this.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads, each shared by `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head; not necessarily `hidden_size / heads`.
    pub head_dim: usize,
    /// Number of positions that the model was trained for; the rotary embedding itself has no limit.
    pub max_position_embeddings: usize,
    /// The epsilon that norms add to the mean square.
    pub rms_norm_eps: f32,
    /// The rotary position embedding.
    pub rope: Rope,
    /// Per layer, the number of positions that a token attends to, including its own; `None` for all.
    pub windows: Vec<Option<usize>>,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether every query and key head is normalized before the rotation.
    pub qk_norm: bool,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of randomly initialized weights.
    pub initializer_range: f32,
    /// The type of the weights according to the configuration; the stored weights may differ.
    pub dtype: Option<Dtype>,
}

impl Config {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// [`Error::NoModel`], [`Error::Read`] or [`Error::Json`] if there is no readable file; [`Error::Config`] for an
    /// invalid value; [`Error::NotImplemented`], with a hint, for arithmetic that this program does not implement.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let file = folder.join(FILE);
        let text = std::fs::read_to_string(&file).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NoModel {
                folder: folder.to_owned(),
                what: format!("no {FILE} in it"),
                hint: NO_MODEL_HINT.to_owned(),
            },
            _ => Error::Read { file: file.clone(), source },
        })?;
        Self::parse(&file, &text)
    }

    /// Reads a configuration from its text; `file` is only named in errors.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Config`] and [`Error::NotImplemented`], as for [`Config::read`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        let object = serde_json::from_str(text)
            .map_err(|source| Error::Json { file: file.to_owned(), source })?;
        let fields = Fields::new(file, &object);
        let family = Family::parse(fields)?;
        refuse_other_arithmetic(fields)?;
        let layers = fields.required("num_hidden_layers")?;
        let max_position_embeddings = fields
            .size("max_position_embeddings", family.max_positions)?
            .unwrap_or(family.max_positions);
        let (heads, kv_heads, head_dim) = heads(fields, family)?;
        Ok(Self {
            family,
            vocab_size: fields.required("vocab_size")?,
            hidden_size: fields.required("hidden_size")?,
            intermediate_size: fields.required("intermediate_size")?,
            heads,
            kv_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: fields.number("rms_norm_eps", 1e-6)? as f32,
            rope: Rope::parse(fields, head_dim, max_position_embeddings)?,
            windows: family.windows(fields, layers)?,
            qkv_bias: family.qkv_bias.read(fields)?,
            output_bias: family.output_bias.read(fields)?,
            mlp_bias: family.mlp_bias.read(fields)?,
            qk_norm: family.qk_norm,
            tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
            initializer_range: fields.number("initializer_range", 0.02)? as f32,
            dtype: dtype(fields)?,
        })
    }

    /// Number of decoder layers.
    pub fn layers(&self) -> usize {
        self.windows.len()
    }
}

fn heads(fields: Fields<'_>, family: &Family) -> Result<(usize, usize, usize), Error> {
    let heads = fields.required("num_attention_heads")?;
    let kv_default = family.kv_heads.unwrap_or(heads);
    let kv_heads = fields.size("num_key_value_heads", kv_default)?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        let must = format!("a divisor of num_attention_heads, {heads}");
        return Err(fields.wrong("num_key_value_heads", must));
    }
    let split = fields.required("hidden_size")? / heads;
    let head_dim = fields.size("head_dim", family.head_dim.unwrap_or(split))?.unwrap_or(split);
    if head_dim % 2 != 0 || head_dim == 0 {
        return Err(fields
            .wrong("head_dim", format!("even, since heads are rotated by halves ({head_dim})")));
    }
    Ok((heads, kv_heads, head_dim))
}

/// Refuses every setting that would change the result of a layer but that no layer here implements.
fn refuse_other_arithmetic(fields: Fields<'_>) -> Result<(), Error> {
    let activation = fields.text("hidden_act")?.unwrap_or("silu");
    if !matches!(activation, "silu" | "swish") {
        return Err(fields.not_implemented("hidden_act", "`silu` is supported".to_owned()));
    }
    if fields.number("attention_dropout", 0.0)? != 0.0 {
        let hint = "set it to 0.0; the weights stay valid".to_owned();
        return Err(fields.not_implemented("attention_dropout", hint));
    }
    if fields.number("partial_rotary_factor", 1.0)? != 1.0 {
        let hint = "only models that rotate whole heads are supported".to_owned();
        return Err(fields.not_implemented("partial_rotary_factor", hint));
    }
    for (key, hint) in [
        ("quantization_config", "use the model's float16, bfloat16 or float32 release"),
        ("per_layer_config", "only models whose layers are all alike are supported"),
        ("rope_interleaved", "only heads that are rotated by halves are supported"),
        ("is_encoder_decoder", "only decoder-only models are supported"),
    ] {
        if fields.is_set(key) {
            return Err(fields.not_implemented(key, hint.to_owned()));
        }
    }
    Ok(())
}

fn dtype(fields: Fields<'_>) -> Result<Option<Dtype>, Error> {
    let key = if fields.is_set("dtype") { "dtype" } else { "torch_dtype" };
    let Some(name) = fields.text(key)? else {
        return Ok(None);
    };
    let dtype = Dtype::from_name(name.trim_start_matches("torch."));
    match dtype {
        Some(dtype) => Ok(Some(dtype)),
        None => Err(fields
            .not_implemented(key, "`float32`, `bfloat16` and `float16` are supported".to_owned())),
    }
}

#[cfg(test)]
mod tests;
