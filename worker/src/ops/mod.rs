//! The tape, and every operation as a forward/backward pair.
//!
//! ```text
//! forward    Tape::embed, linear, rms_norm, attention, ...: each records an Op that keeps what its
//!            backward needs
//! backward   Tape::backward walks the ops in reverse; activations die as they are used, gradients
//!            of parameters go to Gradients::slot, final ones are told to Gradients::finished
//! ```
//!
//! All activations are row-major `[rows, features]` f32; the rows are the tokens of a micro-batch's
//! documents laid end to end, without padding. Here is no model, no loss scale and no
//! communication: a model calls these operations, `train` implements [`Gradients`].
//!
//! Shape letters: T tokens, D features in, F features out, H query heads, K key-value heads, E
//! features per head, V vocabulary.
//!
//! Order of summation: no result depends on the number of threads. Sums over rows are cut into
//! blocks that depend on the shapes alone; matrix products are split over rows and columns of the
//! result, never over the summed index.

mod add;
mod array;
mod attention;
mod cross_entropy;
mod embed;
mod error;
mod kernel;
mod linear;
mod logits;
pub mod optimizer;
mod parameters;
mod pool;
mod recompute;
mod rms_norm;
mod rotary;
mod swiglu;
mod tape;
#[cfg(test)]
mod tests;

pub use attention::{Attention, KvCache};
pub use cross_entropy::{LossSum, Target};
pub use error::{Error, Result};
pub use logits::{argmax, log_softmax};
pub use parameters::{ParamId, Parameters};
pub use rotary::{Documents, Rotary};
pub use tape::{Gradients, Tape, Value};
