//! The autograd tape, and every operation as a forward/backward pair.
//!
//! ```text
//! forward    Tape::embed, linear, rms_norm, attention, ...: each records an Op that saves what its backward needs
//! backward   Tape::backward walks the ops in reverse; activations are freed once used, parameter gradients go to
//!            Gradients::slots, and Gradients::finished is called for each one that is final
//! ```
//!
//! An operation decides shapes, what is saved, and where gradients flow. Its arithmetic lives in `kernels`, its
//! memory in `device`. All activations are row-major `[rows, features]`; the rows are the tokens of a micro-batch's
//! documents, concatenated without padding. There is no model, loss scaling or communication here: a model calls
//! these operations, and `replica` implements [`Gradients`].
//!
//! Shape letters: T tokens, D features in, F features out, H query heads, K key-value heads, E features per head, V
//! vocabulary.

mod add;
mod again;
mod array;
mod attention;
mod cross_entropy;
mod embed;
mod error;
mod last_row;
mod linear;
mod parameters;
mod placement;
mod recompute;
mod rms_norm;
mod swiglu;
mod tape;
#[cfg(test)]
mod tests;

pub use attention::KvCache;
pub use cross_entropy::{LossSum, Losses, Target};
pub use error::{Error, Result};
pub use parameters::{ParamId, Parameters};
pub use placement::{Documents, Placement, Rotary};
pub use tape::{Backward, Gradients, Recompute, Seed, Tape, Value};
