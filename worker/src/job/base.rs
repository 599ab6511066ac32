//! Reads the base: the model before its first step, and the other files of its folder.

use super::companions::{self, Companion, Tuned};
use crate::device;
use crate::inputs::{options, trouble};
use crate::kernels::Kernels;
use crate::model::{Config, Dtype, Model};
use crate::session::Trouble;
use proto::error::chain;
use proto::protocol::Cause;
use proto::spec::{self, Init, SaveDtype, Spec};
use std::path::Path;
use std::sync::Arc;

/// Returns the model, the dtype to save it in, and the other files of its folder.
pub(super) fn read(
    base: &Path,
    spec: &Spec,
    template: Option<String>,
    kernels: Arc<dyn Kernels>,
) -> Result<(Model, Dtype, Vec<Companion>), Trouble> {
    let refuse = trouble(Cause::Model);
    let folder = data::Folder::read(base).map_err(|e| refuse(chain(&e)))?;
    let preparer = data::Preparer::new(&folder, options(spec, template)?);
    let preparer = preparer.map_err(|e| refuse(chain(&e)))?;
    let last = preparer.new_tokens().iter().map(|token| token.id).max();
    let model = read_model(base, spec, last.map_or(0, |id| id as usize + 1), kernels)?;
    let dtype = match spec.model().save_dtype {
        None => model.dtype(),
        Some(SaveDtype::F32) => Dtype::F32,
        Some(SaveDtype::F16) => Dtype::F16,
        Some(SaveDtype::Bf16) => Dtype::Bf16,
    };
    let vocab_size = model.config().vocab_size;
    let tokens = preparer.new_tokens().len();
    if tokens > 0 {
        tracing::info!(tokens, vocab_size, "added the tokens that tokenizer.json lacks");
    }
    let tuned = Tuned { dtype, vocab_size, preparer: &preparer };
    let companions = companions::of(base, &tuned)?;
    Ok((model, dtype, companions))
}

/// Reads or draws the model that training begins with, with an embedding row for every token id below `tokens`.
pub(super) fn read_model(
    base: &Path,
    spec: &Spec,
    tokens: usize,
    kernels: Arc<dyn Kernels>,
) -> Result<Model, Trouble> {
    let model = match spec.model().init {
        Init::Pretrained => Model::load(base, kernels).map(|model| model.with_vocabulary(tokens)),
        Init::Random => Config::read(base).map(|mut config| {
            config.vocab_size = config.vocab_size.max(tokens);
            Model::random(config, spec.train().seed, kernels)
        }),
    };
    let mut model = model.map_err(|e| trouble(Cause::Model)(chain(&e)))?;
    if spec.model().dtype == spec::Dtype::Bf16 {
        model.parameters_mut().set_dtype(device::Dtype::Bf16);
    }
    Ok(model)
}
