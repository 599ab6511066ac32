//! The model: a Hugging Face folder as parameters, the decoder of the Llama family, and generation.
//!
//! ```text
//! config.json  -> Config   what changes the arithmetic; what is not implemented is refused
//! Config       -> Layout   parameters in order, by transformers' names
//! safetensors  -> Parameters (f32), or a seed for training from scratch
//! tokens       -> loss on a tape (training), logits, or more tokens (generate)
//! ```
//!
//! Here is no tokenizer, no optimizer, and no writing of folders: `checkpoint` writes them, in
//! [`Parameters`]' order and with [`Dtype::encode`].

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
    /// Reads a model folder: `config.json`, and `model.safetensors` or the files that its index
    /// names.
    ///
    /// Every parameter is trainable and f32, widened from what the files hold, on the device of `kernels`.
    ///
    /// # Errors
    /// Those of [`Config::read`]; [`Error::Weights`] where a tensor is missing, superfluous, of
    /// another shape or of a type that is not float, or a file is cut short; [`Error::Read`] where
    /// the system refuses.
    pub fn load(folder: &Path, kernels: Arc<dyn Kernels>) -> Result<Self, Error> {
        let config = Config::read(folder)?;
        let (layout, slots) = Layout::new(&config);
        let mut parameters = Parameters::new(kernels);
        let dtype = weights::read(folder, &slots, &mut parameters)?;
        Ok(Self { config, layout, parameters, dtype, rotary: Default::default() })
    }

    /// A model that knows nothing yet: norms at one, biases at zero, matrices normal with the
    /// configuration's `initializer_range`.
    pub fn random(config: Config, seed: u64, kernels: Arc<dyn Kernels>) -> Self {
        let (layout, slots) = Layout::new(&config);
        let mut parameters = Parameters::new(kernels);
        weights::draw(&slots, config.initializer_range, seed, &mut parameters);
        let dtype = config.dtype.unwrap_or(Dtype::F32);
        Self { config, layout, parameters, dtype, rotary: Default::default() }
    }

    /// What `config.json` said.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The parameters, in transformers' order and by transformers' names.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The parameters, to be changed by an optimizer, a broadcast or a restore.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// The matrix that turns hidden states into logits; the embedding itself where they are tied.
    pub fn head(&self) -> ParamId {
        self.layout.head
    }

    /// The type that the weights were stored in, in which a folder is written again.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
}
