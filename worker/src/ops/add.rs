//! The sum of two values: the residual connection.

use std::sync::Arc;

use rayon::prelude::*;

use super::{
    array::Array,
    error::{Result, expect_shape},
    kernel, pool,
    tape::{Backward, Op, Tape, Value},
};

impl Tape<'_> {
    /// `a + b`, of equal shapes.
    ///
    /// # Errors
    /// [`super::Error::Shape`] if they differ.
    pub fn add(&self, a: &Value, b: &Value) -> Result<Value> {
        let (rows, cols) = (a.rows(), a.cols());
        let fits = (b.rows(), b.cols()) == (rows, cols);
        let got = || format!("{} x {}", b.rows(), b.cols());
        expect_shape("add", fits, || format!("{rows} x {cols}"), got)?;

        let mut y = pool::take(rows * cols);
        let (a_data, b_data) = (a.array.read(), b.array.read());
        let (left, right): (&[f32], &[f32]) = (&a_data, &b_data);
        let len = kernel::TASK_ELEMENTS;
        y.par_chunks_mut(len).zip(left.par_chunks(len).zip(right.par_chunks(len))).for_each(
            |(y, (a, b))| {
                kernel::vectorized(|| {
                    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
                        *y = a + b;
                    }
                });
            },
        );
        Ok(self.push(Array::new(y, rows, cols)?, &[a, b], &[], |_| Add {
            inputs: [a.differentiated(), b.differentiated()],
        }))
    }
}

struct Add {
    inputs: [Option<Value>; 2],
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn saved_bytes(&self) -> usize {
        0
    }

    /// Both inputs share the gradient itself; the first that adds to it makes its own copy, unless
    /// it is the last.
    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        for input in self.inputs.into_iter().flatten() {
            flow.pass(&input, dy.clone())?;
        }
        Ok(())
    }
}
