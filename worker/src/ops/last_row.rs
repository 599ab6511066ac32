//! Selects the last row of a value, to predict only the next token.

use super::error::{Error, Result};
use super::tape::{Tape, Value};
use crate::kernels::Onto;
use std::sync::Arc;

impl Tape<'_> {
    /// The last row of `x`: `[1, D]`.
    ///
    /// # Errors
    /// [`Error::NoBackward`] on a training tape, [`Error::Shape`] if there is no row.
    pub fn last_row(&self, x: &Value) -> Result<Value> {
        if self.records() {
            return Err(Error::NoBackward { op: "last_row" });
        }
        let Some(before) = x.rows().checked_sub(1) else {
            let (expected, got) = ("at least one row".into(), "none".into());
            return Err(Error::Shape { op: "last_row", expected, got });
        };
        let mut y = self.take(1, x.cols());
        let row = x.array.all().window(before * x.cols()..x.rows() * x.cols());
        self.kernels().copy(y.out(Onto::Fresh).to, row);
        Ok(self.input(Arc::new(y), false))
    }
}
