//! The last linear map fused with the cross-entropy, so that the batch's logits never exist as a whole.
//!
//! Only rows that predict a trained token are computed, one chunk at a time: the logits, their gradient in place, and
//! from it at once the gradients of `x` and `w`. Logits are f32; their gradient is rounded to the type of the operands
//! for the products with `x` and `w`. A training tape therefore computes the loss in its backward, since
//! asking for it earlier would compute the logits twice. The losses stay on the device until they are read, once per
//! step.

use super::error::{Error, Result, expect_shape};
use super::parameters::{ParamId, Parameters};
use super::tape::{Backward, Seed, Tape, Value};
use crate::device::{Buffer, Dtype, Window, WindowMut};
use crate::kernels::{Kernels, Onto, Operand, Out, Rows};
use std::borrow::Cow;

/// Limits on the logits that exist at one time.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Approximate number of logits in a chunk.
    pub(super) elements: usize,
    /// Number of rows that a chunk may always have, whatever the vocabulary. Each chunk reads and writes the whole
    /// gradient of the weight, which pays off only for many rows.
    pub(super) rows: usize,
}

/// 104 MiB of logits, or 512 rows: half a gigabyte for a vocabulary of 262,144.
const LIMITS: Limits = Limits { elements: 26 << 20, rows: 512 };

impl Limits {
    /// Number of chunks, which have about equal lengths.
    fn chunks(self, targets: usize, vocabulary: usize) -> usize {
        let by_elements = (targets * vocabulary).div_ceil(self.elements);
        by_elements.min(targets.div_ceil(self.rows)).max(1)
    }

    /// Rows of a chunk of at most `targets` targets, at most.
    fn room(self, targets: usize, vocabulary: usize) -> usize {
        targets.min(self.rows.max(self.elements.div_ceil(vocabulary.max(1))))
    }
}

/// A token to predict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The row whose logits predict it, which is that of the preceding token.
    pub row: u32,
    /// Id of the token.
    pub token: u32,
    /// Its weight in the loss.
    pub weight: f32,
}

/// A loss from which [`Tape::backward`] can start: the sum of `weight * nll` over targets.
pub struct LossSum<'p> {
    params: &'p Parameters,
    x: Value,
    w: ParamId,
    /// Rows and columns of `w`.
    vocabulary: usize,
    width: usize,
    targets: Vec<Target>,
    limits: Limits,
}

/// The outcome of a [`LossSum`]: each target's loss, still on the device.
pub struct Losses {
    targets: Vec<Target>,
    /// The losses in f64, one buffer per chunk of targets.
    chunks: Vec<Buffer>,
}

impl Losses {
    /// The losses on the device, one buffer per chunk of targets.
    pub fn chunks(&self) -> &[Buffer] {
        &self.chunks
    }

    /// The sum of the losses; `show` is called with each target and its weighted loss.
    pub fn read(&self, show: impl FnMut(&Target, f64)) -> f64 {
        self.sum(self.chunks.iter().map(Buffer::read), show)
    }

    /// As [`Losses::read`], if the elements of [`Losses::chunks`] were read already.
    pub fn sum<'a>(
        &self,
        chunks: impl IntoIterator<Item = Cow<'a, [f64]>>,
        mut show: impl FnMut(&Target, f64),
    ) -> f64 {
        let mut sum = 0.;
        let mut targets = self.targets.iter();
        for losses in chunks {
            sum += losses.iter().sum::<f64>();
            losses.iter().zip(&mut targets).for_each(|(loss, target)| show(target, *loss));
        }
        sum
    }
}

impl<'p> Tape<'p> {
    /// The loss of predicting `targets` from logits `x w^T`; targets of weight 0 are skipped.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not match or a target's row does not exist, [`Error::Token`] if a token id
    /// does not.
    pub fn linear_cross_entropy(
        &self,
        x: &Value,
        w: ParamId,
        targets: &[Target],
    ) -> Result<LossSum<'p>> {
        self.cross_entropy_within(LIMITS, x, w, targets)
    }

    pub(super) fn cross_entropy_within(
        &self,
        limits: Limits,
        x: &Value,
        w: ParamId,
        targets: &[Target],
    ) -> Result<LossSum<'p>> {
        const OP: &str = "linear_cross_entropy";
        let params = self.params();
        let (vocabulary, width) = params.matrix(OP, w)?;
        let expected = || format!("{width} features for `{}`", params.name(w));
        expect_shape(OP, x.cols() == width, expected, || x.cols().to_string())?;
        for target in targets {
            let fits = (target.row as usize) < x.rows();
            let expected = || format!("targets of {} rows", x.rows());
            expect_shape(OP, fits, expected, || format!("row {}", target.row))?;
            if target.token as usize >= vocabulary {
                return Err(Error::Token { token: target.token, vocabulary });
            }
        }
        self.use_param(w);
        let targets = targets.iter().copied().filter(|target| target.weight != 0.).collect();
        Ok(LossSum { params, x: x.clone(), w, vocabulary, width, targets, limits })
    }
}

/// The rows of some targets: their inputs, and their logits or the gradient of these.
struct Chunk<'a> {
    x: Operand<'a>,
    logits: Window<'a>,
    rows: Rows<'a>,
}

impl LossSum<'_> {
    /// Computes the value of the loss, for evaluation; each call computes it again.
    pub fn value(&self) -> f64 {
        let kernels = self.params.kernels();
        let losses = self.each_chunk(
            |losses, logits, [tokens, weights]| kernels.nll(losses, logits, tokens, weights),
            |_| {},
        );
        losses.read(|_, _| {})
    }

    /// Computes each chunk's logits and passes them to `loss`, which computes the losses and may replace the logits
    /// in place; then passes the chunk to `then`.
    fn each_chunk(
        &self,
        loss: impl Fn(WindowMut<'_>, WindowMut<'_>, [Window<'_>; 2]),
        mut then: impl FnMut(Chunk<'_>),
    ) -> Losses {
        let Self { vocabulary, width, .. } = *self;
        let kernels = self.params.kernels();
        let device = kernels.device();
        let w = Operand::new(self.params.operand(self.w).all(), vocabulary, width);
        let count = self.limits.chunks(self.targets.len(), vocabulary);
        let most = self.targets.len().div_ceil(count).max(1);
        // Room for as many targets as there are rows, so that every step takes the same memory.
        let room = self.limits.room(self.x.rows(), vocabulary);
        let mut x = device.take(self.params.dtype(), room * width);
        let mut logits = device.take(Dtype::F32, room * vocabulary);
        let mut chunks = Vec::with_capacity(count);
        for targets in self.targets.chunks(most) {
            let n = targets.len();
            let indices = device.stage::<u32>(targets.iter().map(|t| t.row).collect());
            let tokens = device.stage::<u32>(targets.iter().map(|t| t.token).collect());
            let weights = device.stage::<f32>(targets.iter().map(|t| t.weight).collect());
            let rows = Rows { indices: indices.all(), width };
            kernels.gather_rows(x.window_mut(0..n * width), self.x.array.all(), rows);
            let x = Operand::new(x.window(0..n * width), n, width);
            let to = logits.window_mut(0..n * vocabulary);
            kernels.gemm(Out { to, onto: Onto::Fresh }, x, w.t());
            // They are kept until the end of the step, and would lie in the way of other micro-batches.
            let mut losses = device.zeros(Dtype::F64, n);
            let to = logits.window_mut(0..n * vocabulary);
            loss(losses.all_mut(), to, [tokens.all(), weights.all()]);
            then(Chunk { x, logits: logits.window(0..n * vocabulary), rows });
            chunks.push(losses);
        }
        Losses { targets: self.targets.clone(), chunks }
    }
}

impl Seed for LossSum<'_> {
    type Outcome = Losses;

    fn backward(self, flow: &mut Backward<'_>) -> Result<Losses> {
        let _span = tracing::trace_span!("cross-entropy").entered();
        let Self { vocabulary, width, .. } = self;
        let kernels = flow.kernels();
        let dtype = self.params.dtype();
        let w = Operand::new(self.params.operand(self.w).all(), vocabulary, width);
        let mut dx = if self.targets.is_empty() { None } else { flow.open(self.x.grad) };
        let losses = self.each_chunk(
            |losses, logits, [tokens, weights]| kernels.nll_back(losses, logits, tokens, weights),
            |Chunk { x, logits, rows }| {
                let rounded = rounded(kernels, logits, dtype);
                let logits = rounded.as_ref().map_or(logits, Buffer::all);
                let logits = Operand::new(logits, x.rows(), vocabulary);
                for (block, dw) in flow.row_blocks(self.w) {
                    kernels.gemm(Out { to: dw, onto: Onto::Sum }, logits.cols(block).t(), x);
                }
                if let Some(dx) = &mut dx {
                    let mut part = kernels.device().take(dtype, x.rows() * width);
                    kernels.gemm(Out { to: part.all_mut(), onto: Onto::Fresh }, logits, w);
                    kernels.scatter_add_rows(dx.sum(kernels), 0, part.all(), rows);
                }
            },
        );
        flow.release(self.w);
        flow.close(self.x.grad, dx);
        Ok(losses)
    }
}

/// `x` rounded to `dtype`; `None` if it has that type already.
fn rounded(kernels: &dyn Kernels, x: Window<'_>, dtype: Dtype) -> Option<Buffer> {
    (x.dtype() != dtype).then(|| {
        let mut y = kernels.device().take(dtype, x.len());
        kernels.copy(y.all_mut(), x);
        y
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_may_have_512_rows_whatever_the_vocabulary() {
        let rows =
            |targets: usize, vocabulary| targets.div_ceil(LIMITS.chunks(targets, vocabulary));
        assert_eq!(rows(2048, 262_144), 512);
        assert_eq!(rows(2048, 151_936), 512);
        assert_eq!(rows(100, 262_144), 100);
        // A smaller vocabulary allows more rows.
        assert_eq!(rows(2048, 49_152), 512);
        assert_eq!(rows(2216, 49_152), 554);
        assert_eq!(rows(2048, 32_000), 683);
        assert_eq!(LIMITS.chunks(0, 49_152), 1);
        for (vocabulary, all) in [(262_144, 2048), (49_152, 2048), (96, 40), (32_000, 700)] {
            let room = LIMITS.room(all, vocabulary);
            assert!((1..=all).all(|targets| rows(targets, vocabulary) <= room), "{vocabulary}");
        }
    }
}
