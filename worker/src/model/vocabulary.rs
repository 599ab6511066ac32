//! Extends the vocabulary with rows for tokens that the base model has never seen.
//!
//! A new row is the mean of the existing rows, so that a new token starts as likely as an average one and does not
//! disturb existing ones. `transformers` does the same, and adds noise, which would need a seed. Rows that a base
//! model keeps in reserve are used unchanged.

use super::layout::Layout;
use super::{Config, Model};

impl Model {
    /// Returns the model with a row for every token id below `tokens` in the embedding and in the output matrix. A
    /// model that already has them is returned unchanged.
    ///
    /// The new rows are equal on every rank, since sums run in a fixed order in f64.
    pub fn with_vocabulary(self, tokens: usize) -> Self {
        if tokens <= self.config.vocab_size {
            return self;
        }
        let Self { config, mut parameters, dtype, rotary, .. } = self;
        let config = Config { vocab_size: tokens, ..config };
        let (layout, slots) = Layout::new(&config);
        for (p, slot) in parameters.ids().zip(&slots) {
            // Only the two matrices have a row per token.
            if parameters.shape(p) != slot.shape {
                let values = grown(&parameters.values(p).read(), &slot.shape);
                parameters.replace(p, &slot.shape, values);
            }
        }
        Self { config, layout, parameters, dtype, rotary }
    }
}

/// The existing rows, followed by copies of their mean until the matrix has its new shape.
fn grown(rows: &[f32], shape: &[usize]) -> Vec<f32> {
    let width = shape[1];
    let mut sums = vec![0.0f64; width];
    for row in rows.chunks_exact(width) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
    let count = (rows.len() / width) as f64;
    let mean: Vec<f32> = sums.into_iter().map(|sum| (sum / count) as f32).collect();
    let mut grown = Vec::with_capacity(shape.iter().product());
    grown.extend_from_slice(rows);
    grown.extend(mean.iter().cycle().take(grown.capacity() - rows.len()));
    grown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels;
    use std::path::Path;

    fn model(tied: bool) -> Model {
        let text = serde_json::json!({
            "model_type": "llama", "vocab_size": 3, "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2, "tie_word_embeddings": tied,
        });
        let config = Config::parse(Path::new("config.json"), &text.to_string()).expect("valid");
        Model::random(config, 7, kernels::host())
    }

    #[test]
    fn new_rows_are_the_mean_and_nothing_else_changes() {
        for (tied, matrices) in [(true, 1), (false, 2)] {
            let (old, new) = (model(tied), model(tied).with_vocabulary(5));
            assert_eq!(new.config().vocab_size, 5);
            let mut grew = 0;
            for p in old.parameters().ids() {
                let before = old.parameters().values(p).read::<f32>();
                let after = new.parameters().values(p).read::<f32>();
                assert_eq!(after[..before.len()], *before);
                if after.len() == before.len() {
                    continue;
                }
                grew += 1;
                assert_eq!(new.parameters().shape(p), [5, 8]);
                for (column, fresh) in after[24..].iter().enumerate() {
                    let column = column % 8;
                    // Three roundings to f32, in addition to f64's.
                    let mean = (before[column] + before[8 + column] + before[16 + column]) / 3.0;
                    assert!((fresh - mean).abs() < 1e-8, "{fresh} is not {mean}");
                }
            }
            assert_eq!(grew, matrices);
        }
    }

    #[test]
    fn reserved_rows_are_used_before_the_vocabulary_grows() {
        let same = model(true).with_vocabulary(2);
        assert_eq!(same.config().vocab_size, 3);
    }
}
