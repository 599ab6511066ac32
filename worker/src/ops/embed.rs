//! Embedding: looks up one row of a table per token.

use super::array::Array;
use super::error::{Error, Result};
use super::parameters::ParamId;
use super::tape::{Backward, Op, Tape, Value};
use crate::device::Buffer;
use crate::kernels::{Onto, Rows};
use std::sync::Arc;

impl Tape<'_> {
    /// Looks up row `token` of `w` `[V, D]` for each token: `[T, D]`.
    ///
    /// # Errors
    /// [`Error::Token`] for an id that has no row.
    pub fn embed(&self, tokens: &[u32], w: ParamId) -> Result<Value> {
        let (vocabulary, width) = self.params().matrix("embed", w)?;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        let mut y = self.take(tokens.len(), width);
        let tokens = self.device().stage(tokens.to_vec());
        let rows = Rows { indices: tokens.all(), width };
        self.kernels().gather_rows(y.out(Onto::Fresh).to, self.params().operand(w).all(), rows);
        Ok(self.push(y, &[], &[w], |_| Embed { tokens, w }))
    }
}

struct Embed {
    tokens: Buffer,
    w: ParamId,
}

impl Op for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn saved_bytes(&self) -> usize {
        self.tokens.bytes()
    }

    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        let kernels = flow.kernels();
        let rows = Rows { indices: self.tokens.all(), width: dy.cols() };
        for (block, dw) in flow.row_blocks(self.w) {
            kernels.scatter_add_rows(dw, block.start, dy.all(), rows);
        }
        flow.release(self.w);
        Ok(())
    }
}
