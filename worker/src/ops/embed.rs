//! Embedding: one row of a table per token.

use std::sync::Arc;

use rayon::prelude::*;

use super::{
    array::Array,
    error::{Error, Result},
    kernel,
    parameters::ParamId,
    pool,
    tape::{Backward, Op, Tape, Value},
};

impl Tape<'_> {
    /// Row `token` of `w` `[V, D]` for each token: `[T, D]`.
    ///
    /// # Errors
    /// [`Error::Token`] for an id that has no row.
    pub fn embed(&self, tokens: &[u32], w: ParamId) -> Result<Value> {
        let (vocabulary, width) = self.params().matrix("embed", w)?;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        let mut y = pool::take(tokens.len() * width);
        let table = self.params().elements_of(w);
        let table: &[f32] = &table;
        let rows = kernel::task_rows(width);
        y.par_chunks_mut(rows * width).zip(tokens.par_chunks(rows)).for_each(|(y, tokens)| {
            for (y, &token) in y.chunks_exact_mut(width).zip(tokens) {
                y.copy_from_slice(&table[token as usize * width..][..width]);
            }
        });
        let y = Array::new(y, tokens.len(), width)?;
        Ok(self.push(y, &[], &[w], |_| Embed { tokens: tokens.to_vec(), w }))
    }
}

struct Embed {
    tokens: Vec<u32>,
    w: ParamId,
}

impl Op for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn saved_bytes(&self) -> usize {
        size_of_val(&self.tokens[..])
    }

    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        let (dy, width) = (dy.read(), dy.cols());
        for (block, dw) in flow.row_blocks(self.w) {
            // In the order of the rows, on one thread: a token that occurs twice must not race, and
            // this is a thousandth of a step.
            kernel::vectorized(|| {
                for (dy, &token) in dy.chunks_exact(width).zip(&self.tokens) {
                    if block.contains(&(token as usize)) {
                        let dw = &mut dw[(token as usize - block.start) * width..][..width];
                        dw.iter_mut().zip(dy).for_each(|(dw, dy)| *dw += dy);
                    }
                }
            });
        }
        flow.release(self.w);
        Ok(())
    }
}
