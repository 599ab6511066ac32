//! The linear map, with or without a bias.

use std::sync::Arc;

use super::{
    array::Array,
    error::{Result, expect_shape},
    kernel::{self, Matrix, MatrixMut, gemm_parallel},
    parameters::ParamId,
    pool,
    tape::{Backward, Onto, Op, Tape, Value},
};

impl Tape<'_> {
    /// `x w^T + bias`: from `[T, D]` to `[T, F]`, with `w` `[F, D]` as PyTorch keeps it and `bias`
    /// `[F]`.
    ///
    /// # Errors
    /// [`super::Error::Shape`] if they do not fit.
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

        let rows = x.rows();
        let mut y = pool::take(rows * outs);
        let onto = match bias {
            None => Onto::Fresh,
            Some(bias) => {
                let bias = params.elements_of(bias);
                y.chunks_exact_mut(outs).for_each(|y| y.copy_from_slice(&bias));
                Onto::Sum
            }
        };
        gemm_parallel(
            MatrixMut::new(&mut y, rows, outs),
            onto,
            Matrix::new(&x.read(), rows, ins),
            Matrix::new(&params.elements_of(w), outs, ins).t(),
        );

        let used: Vec<_> = [w].into_iter().chain(bias).collect();
        Ok(self.push(Array::new(y, rows, outs)?, &[x], &used, |_| Linear {
            input: x.differentiated(),
            x: params.trainable(w).then(|| x.array.clone()),
            w,
            bias,
        }))
    }
}

struct Linear {
    /// Where the gradient goes on, if it does.
    input: Option<Value>,
    /// What the weight's gradient needs, if the weight is trained.
    x: Option<Arc<Array>>,
    w: ParamId,
    bias: Option<ParamId>,
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn saved_bytes(&self) -> usize {
        self.x.as_ref().map_or(0, |x| x.bytes())
    }

    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        let (rows, outs) = (dy.rows(), dy.cols());
        let ins = flow.params().shape(self.w)[1];
        let dy = dy.read();
        let dy_matrix = Matrix::new(&dy, rows, outs);

        if let Some(bias) = self.bias {
            if let Some(db) = flow.vector(bias) {
                kernel::add_rows(db, &dy);
            }
            flow.release(bias);
        }
        if let Some(x) = &self.x {
            let _span = tracing::trace_span!("linear dW").entered();
            let x = x.read();
            for (block, dw) in flow.row_blocks(self.w) {
                let dw = MatrixMut::new(dw, block.len(), ins);
                let dy = dy_matrix.cols(block);
                gemm_parallel(dw, Onto::Sum, dy.t(), Matrix::new(&x, rows, ins));
            }
        }
        flow.release(self.w);
        drop(self.x);

        let Some(input) = &self.input else {
            return Ok(());
        };
        let mut dx = flow.open(input);
        if let Some(dx) = &mut dx {
            let _span = tracing::trace_span!("linear dX").entered();
            let w = flow.params().elements_of(self.w);
            let c = MatrixMut::new(&mut dx.data, rows, ins);
            gemm_parallel(c, dx.onto, dy_matrix, Matrix::new(&w, outs, ins));
        }
        flow.close(input, dx)
    }
}
