//! The model: reads a Hugging Face folder, runs the decoder of the Llama family, and generates text.
//!
//! ```text
//! config.json  -> Config   all settings that affect the arithmetic; unimplemented ones are refused
//! Config       -> Layout   the ordered parameters, with transformers' names
//! safetensors  -> Parameters (f32), or random ones from a seed for training from scratch
//! tokens       -> loss on a tape (training), logits, or further tokens (generation)
//! ```
//!
//! There is no tokenizer and no optimizer here, and nothing writes folders: `replica` does that, in the order of
//! [`Parameters`] and with [`Dtype::encode`].

mod config;
mod decoder;
mod dtype;
mod error;
mod generate;
mod layout;
mod logits;
mod random;
mod sampling;
mod vocabulary;
mod weights;

pub use config::{Config, FILE as CONFIG_FILE, Family, Rope, Scaling};
pub use dtype::Dtype;
pub use error::Error;
pub use generate::{Continuation, Finish, Generation};
pub use sampling::Sampling;
pub use weights::{FILE as WEIGHTS_FILE, INDEX as WEIGHTS_INDEX};

use crate::kernels::Kernels;
use crate::ops::{ParamId, Parameters};
use layout::Layout;
use std::path::Path;
use std::sync::Arc;

/// A decoder and its parameters.
pub struct Model {
    config: Config,
    layout: Layout,
    parameters: Parameters,
    dtype: Dtype,
    rotary: decoder::KeptRotary,
}

impl Model {
    /// Reads a model folder: `config.json`, and `model.safetensors` or the files listed in its index.
    ///
    /// Every parameter is trainable and f32, converted from the stored type, on the device of `kernels`.
    ///
    /// # Errors
    /// Those of [`Config::read`]; [`Error::Weights`] if a tensor is missing, unknown, of another shape or not of a
    /// float type, or a file is truncated; [`Error::Read`] if a file cannot be read.
    pub fn load(folder: &Path, kernels: Arc<dyn Kernels>) -> Result<Self, Error> {
        let config = Config::read(folder)?;
        let (layout, slots) = Layout::new(&config);
        let mut parameters = Parameters::new(kernels);
        let dtype = weights::read(folder, &slots, &mut parameters)?;
        Ok(Self { config, layout, parameters, dtype, rotary: Default::default() })
    }

    /// An untrained model: norms are one, biases zero, and matrices normally distributed with the configuration's
    /// `initializer_range`.
    pub fn random(config: Config, seed: u64, kernels: Arc<dyn Kernels>) -> Self {
        let (layout, slots) = Layout::new(&config);
        let mut parameters = Parameters::new(kernels);
        weights::draw(&slots, config.initializer_range, seed, &mut parameters);
        let dtype = config.dtype.unwrap_or(Dtype::F32);
        Self { config, layout, parameters, dtype, rotary: Default::default() }
    }

    /// A model whose parameters are all zero, for a rehearsal.
    pub fn zeros(config: Config, kernels: Arc<dyn Kernels>) -> Self {
        let (layout, slots) = Layout::new(&config);
        let mut parameters = Parameters::new(kernels);
        for slot in &slots {
            parameters.push_zeros(&slot.name, &slot.shape);
        }
        let dtype = config.dtype.unwrap_or(Dtype::F32);
        Self { config, layout, parameters, dtype, rotary: Default::default() }
    }

    /// The configuration of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The parameters, in transformers' order and with transformers' names.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The parameters, for modification by an optimizer, a broadcast or a restore.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// The matrix that maps hidden states to logits; the embedding itself if the two are tied.
    pub fn head(&self) -> ParamId {
        self.layout.head
    }

    /// The type in which the weights were stored, and in which a folder is written again.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
}
