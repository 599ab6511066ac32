//! RMSNorm (Zhang and Sennrich 2019), as in `transformers`' `LlamaRMSNorm`: `w x / sqrt(mean(x^2) + eps)`.

use super::array::Array;
use super::error::{Result, expect_shape};
use super::parameters::{ParamId, Parameters};
use super::tape::{Backward, Op, Tape, Value};
use crate::kernels::{Norm, Onto};
use std::sync::Arc;

impl Tape<'_> {
    /// Normalizes each group of as many features as `w` has: the whole row, or each head of it (QK norm).
    ///
    /// # Errors
    /// [`super::Error::Shape`] if the number of features is not a multiple of `w`'s length.
    pub fn rms_norm(&self, x: &Value, w: ParamId, eps: f32) -> Result<Value> {
        let width = self.params().elements(w);
        let fits = width > 0 && x.cols().is_multiple_of(width);
        let expected = || format!("a multiple of {width} features");
        expect_shape("rms_norm", fits, expected, || x.cols().to_string())?;

        let y = normed(self.params(), &x.array, (w, eps));
        let y = self.push(y, &[x], &[w], |_| RmsNorm { x: x.clone(), w, eps });
        let x = x.array.clone();
        Ok(self.cheap(y, move |params| normed(params, &x, (w, eps))))
    }
}

fn normed(params: &Parameters, x: &Array, (w, eps): (ParamId, f32)) -> Array {
    let kernels = params.kernels();
    let mut y = Array::take(kernels.device(), x.dtype(), x.rows(), x.cols());
    kernels.rms_norm(y.out(Onto::Fresh).to, x.all(), Norm { w: params.operand(w).all(), eps });
    y
}

struct RmsNorm {
    x: Value,
    w: ParamId,
    eps: f32,
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn saved_bytes(&self) -> usize {
        self.x.array.bytes()
    }

    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        let Self { x, w, eps } = *self;
        let kernels = flow.kernels();
        if let Some(dw) = flow.vector(w) {
            kernels.rms_norm_weight_back(dw, dy.all(), x.array.all(), eps);
        }
        flow.release(w);

        let mut dx = flow.open(x.grad);
        if let Some(dx) = &mut dx {
            let norm = Norm { w: flow.params().operand(w).all(), eps };
            kernels.rms_norm_back(dx.out(), dy.all(), x.array.all(), norm);
        }
        flow.close(x.grad, dx);
        Ok(())
    }
}
