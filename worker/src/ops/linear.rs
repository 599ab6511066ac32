//! The linear map, with or without a bias.

use super::again::Saved;
use super::array::Array;
use super::error::{Result, expect_shape};
use super::parameters::ParamId;
use super::tape::{Backward, Grad, Op, Tape, Value};
use crate::kernels::{Onto, Operand, Out};
use std::sync::Arc;

impl Tape<'_> {
    /// `x w^T + bias`: from `[T, D]` to `[T, F]`, with `w` `[F, D]` (PyTorch's layout) and `bias` `[F]`.
    ///
    /// # Errors
    /// [`super::Error::Shape`] if the shapes do not match.
    pub fn linear(&self, x: &Value, w: ParamId, bias: Option<ParamId>) -> Result<Value> {
        let params = self.params();
        let (outs, ins) = params.matrix("linear", w)?;
        let expected = || format!("{ins} features for `{}`", params.name(w));
        expect_shape("linear", x.cols() == ins, expected, || x.cols().to_string())?;
        if let Some(bias) = bias {
            let fits = params.shape(bias) == [outs];
            let expected = || format!("`{}` of shape [{outs}]", params.name(bias));
            expect_shape("linear", fits, expected, || format!("{:?}", params.shape(bias)))?;
        }

        let mut y = self.take(x.rows(), outs);
        let onto = match bias {
            None => Onto::Fresh,
            Some(bias) => {
                self.kernels().repeat_row(y.out(Onto::Fresh).to, params.operand(bias).all());
                Onto::Sum
            }
        };
        self.kernels().gemm(
            y.out(onto),
            Operand::new(x.array.all(), x.rows(), ins),
            Operand::new(params.operand(w).all(), outs, ins).t(),
        );

        let used: Vec<_> = [w].into_iter().chain(bias).collect();
        Ok(self.push(y, &[x], &used, |_| Linear {
            input: x.grad,
            x: params.trainable(w).then(|| x.saved()),
            w,
            bias,
        }))
    }
}

struct Linear {
    /// The input's gradient, if one flows to it.
    input: Option<Grad>,
    /// The input's elements, if the weight is trained.
    x: Option<Saved>,
    w: ParamId,
    bias: Option<ParamId>,
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn saved_bytes(&self) -> usize {
        self.x.as_ref().map_or(0, Saved::bytes)
    }

    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        let kernels = flow.kernels();
        let (rows, outs) = (dy.rows(), dy.cols());
        let ins = flow.params().shape(self.w)[1];
        let dy_matrix = Operand::new(dy.all(), rows, outs);

        if let Some(bias) = self.bias {
            if let Some(db) = flow.vector(bias) {
                kernels.sum_rows(db, dy.all());
            }
            flow.release(bias);
        }
        if let Some(x) = &self.x {
            let x = x.elements(flow.params());
            let _span = tracing::trace_span!("linear dW").entered();
            for (block, dw) in flow.row_blocks(self.w) {
                let dw = Out { to: dw, onto: Onto::Sum };
                kernels.gemm(dw, dy_matrix.cols(block).t(), Operand::new(x.all(), rows, ins));
            }
        }
        flow.release(self.w);
        drop(self.x);

        let mut dx = flow.open(self.input);
        if let Some(dx) = &mut dx {
            let _span = tracing::trace_span!("linear dX").entered();
            let w = Operand::new(flow.params().operand(self.w).all(), outs, ins);
            kernels.gemm(dx.out(), dy_matrix, w);
        }
        flow.close(self.input, dx);
        Ok(())
    }
}
