//! The last linear map and the cross-entropy, in one: the batch's logits never exist.
//!
//! Only rows that predict a trained token are computed, a chunk at a time: logits, their gradient
//! in place, and from it at once the gradients of `x` and `w`. So a training tape computes the loss
//! in its backward; asking for it earlier would compute the logits twice.

use rayon::prelude::*;

use super::{
    error::{Error, Result, expect_shape},
    kernel::{self, Matrix, MatrixMut, gemm_parallel, vectorized},
    parameters::{ParamId, Parameters},
    pool,
    tape::{Backward, Onto, Tape, Value},
};

/// How many logits exist at one time.
#[derive(Clone, Copy)]
struct Limits {
    /// About so many, in all rows of a chunk.
    elements: usize,
    /// Rows that a chunk may have whatever the vocabulary: each chunk reads and writes the whole
    /// gradient of the weight, which is worth it for many rows only.
    rows: usize,
}

/// 104 MiB of logits, or 512 rows: half a gigabyte for a vocabulary of 262,144.
const LIMITS: Limits = Limits { elements: 26 << 20, rows: 512 };
/// Few, so that the small cases of the tests have several chunks.
const LIMITS_OF_TESTS: Limits = Limits { elements: 1 << 10, rows: 1 };

impl Limits {
    /// Chunks of about equal length.
    fn chunks(self, targets: usize, vocabulary: usize) -> usize {
        let by_elements = (targets * vocabulary).div_ceil(self.elements);
        by_elements.min(targets.div_ceil(self.rows)).max(1)
    }
}

/// A token to predict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The row whose logits predict it: the token before it.
    pub row: u32,
    /// The token.
    pub token: u32,
    /// Its weight in the loss.
    pub weight: f32,
}

/// A loss that [`Tape::backward`] starts from: the sum of `weight * nll` over targets.
pub struct LossSum<'p> {
    params: &'p Parameters,
    x: Value,
    w: ParamId,
    targets: Vec<Target>,
}

impl<'p> Tape<'p> {
    /// The loss of predicting `targets` from logits `x w^T`; targets of weight 0 are left out.
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes do not fit or a target's row does not exist, [`Error::Token`] if
    /// its token does not.
    pub fn linear_cross_entropy(
        &self,
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
        Ok(LossSum { params, x: x.clone(), w, targets })
    }
}

impl LossSum<'_> {
    /// Its value, for evaluation; computed at every call.
    ///
    /// # Errors
    /// None at present.
    pub fn value(&self) -> Result<f64> {
        let mut sum = 0.;
        self.for_each_chunk(|chunk| sum += chunk.losses.iter().sum::<f64>(), nll);
        Ok(sum)
    }

    /// Its value; its gradients go to `x` and `w`, and each target's loss to `show`.
    pub(super) fn backward(
        self,
        flow: &mut Backward<'_>,
        show: &mut dyn FnMut(&Target, f64),
    ) -> Result<f64> {
        let (vocabulary, width) = self.params.matrix("linear_cross_entropy", self.w)?;
        let w = self.params.elements_of(self.w);
        let mut dx = if self.targets.is_empty() { None } else { flow.open(&self.x) };
        if let Some(dx) = &mut dx
            && dx.onto == Onto::Fresh
        {
            dx.data.fill(0.);
        }
        let mut sum = 0.;
        self.for_each_chunk(
            |Chunk { targets, x, logits, losses }| {
                sum += losses.iter().sum::<f64>();
                targets.iter().zip(losses).for_each(|(target, loss)| show(target, *loss));
                let dlogits = Matrix::new(logits, targets.len(), vocabulary);
                for (block, dw) in flow.row_blocks(self.w) {
                    let dw = MatrixMut::new(dw, block.len(), width);
                    let x = Matrix::new(x, targets.len(), width);
                    gemm_parallel(dw, Onto::Sum, dlogits.cols(block).t(), x);
                }
                if let Some(dx) = &mut dx {
                    let mut part = pool::take(x.len());
                    let c = MatrixMut::new(&mut part, targets.len(), width);
                    gemm_parallel(c, Onto::Fresh, dlogits, Matrix::new(&w, vocabulary, width));
                    for (part, target) in part.chunks_exact(width).zip(targets) {
                        let row = &mut dx.data[target.row as usize * width..][..width];
                        row.iter_mut().zip(part).for_each(|(row, part)| *row += part);
                    }
                    pool::give(part);
                }
            },
            nll_gradient,
        );
        flow.release(self.w);
        flow.close(&self.x, dx)?;
        Ok(sum)
    }

    /// Computes each chunk's logits, turns every row of them into a loss by `loss`, and shows the
    /// chunk.
    fn for_each_chunk(
        &self,
        mut show: impl FnMut(Chunk<'_>),
        loss: impl Fn(&mut [f32], &Target) -> f64 + Sync,
    ) {
        let [vocabulary, width] = *self.params.shape(self.w) else {
            return;
        };
        let (w, rows) = (self.params.elements_of(self.w), self.x.array.read());
        let limits = if cfg!(test) { LIMITS_OF_TESTS } else { LIMITS };
        let chunks = limits.chunks(self.targets.len(), vocabulary);
        let most = self.targets.len().div_ceil(chunks).max(1);
        let (mut x, mut logits) = (pool::take(most * width), pool::take(most * vocabulary));
        for targets in self.targets.chunks(most) {
            let (x, logits) =
                (&mut x[..targets.len() * width], &mut logits[..targets.len() * vocabulary]);
            for (x, target) in x.chunks_exact_mut(width).zip(targets) {
                x.copy_from_slice(&rows[target.row as usize * width..][..width]);
            }
            gemm_parallel(
                MatrixMut::new(logits, targets.len(), vocabulary),
                Onto::Fresh,
                Matrix::new(x, targets.len(), width),
                Matrix::new(&w, vocabulary, width).t(),
            );
            let losses: Vec<_> = logits
                .par_chunks_mut(vocabulary)
                .zip(targets)
                .map(|(logits, target)| vectorized(|| loss(logits, target)))
                .collect();
            show(Chunk { targets, x, logits, losses: &losses });
        }
        pool::give(x);
        pool::give(logits);
    }
}

/// Some targets, the rows that predict them, and what became of those rows' logits.
struct Chunk<'a> {
    targets: &'a [Target],
    x: &'a [f32],
    logits: &'a [f32],
    losses: &'a [f64],
}

/// The weighted loss of one row of logits, of which exponentials remain.
#[inline(always)]
fn nll(logits: &mut [f32], target: &Target) -> f64 {
    weighted(logits, target).0
}

/// The same; the row becomes the loss's gradient: `weight (softmax - one-hot)`.
#[inline(always)]
fn nll_gradient(logits: &mut [f32], target: &Target) -> f64 {
    let (loss, sum) = weighted(logits, target);
    let factor = target.weight / sum;
    logits.iter_mut().for_each(|x| *x *= factor);
    logits[target.token as usize] -= target.weight;
    loss
}

/// The weighted loss and the sum of the exponentials that replace the logits.
#[inline(always)]
fn weighted(logits: &mut [f32], target: &Target) -> (f64, f32) {
    let own = logits[target.token as usize];
    let all = 0..logits.len();
    let (largest, sum) = kernel::exponentials(logits, all);
    let nll = f64::from(sum).ln() + f64::from(largest) - f64::from(own);
    (f64::from(target.weight) * nll, sum)
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
        // Of a smaller vocabulary there are more.
        assert_eq!(rows(2048, 49_152), 512);
        assert_eq!(rows(2216, 49_152), 554);
        assert_eq!(rows(2048, 32_000), 683);
        assert_eq!(LIMITS.chunks(0, 49_152), 1);
    }
}
