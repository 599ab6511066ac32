//! Turns prepared samples into what the training step takes: documents side by side in one row.
//!
//! ```text
//! tokens   a b c d | x y z          two documents of a pack
//! starts   0         4       7      each document's first row, and the end
//! targets  row 1 -> c, row 2 -> d, row 5 -> z    row r predicts token r + 1 of its own document
//! ```

use proto::prepared::Sample;

/// A row of the batch's logits, the token that it should predict, and how much that counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Index into the batch's tokens.
    pub row: u32,
    /// The token after it.
    pub token: u32,
    /// The target's weight, above 0.
    pub weight: f32,
}

/// Documents side by side; nothing crosses from one to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// All documents' tokens.
    pub tokens: Vec<u32>,
    /// The index at which each document starts, followed by the number of tokens.
    pub starts: Vec<u32>,
    /// The trained targets only, in the order of their rows.
    pub targets: Vec<Target>,
}

impl Batch {
    /// The sum of the targets' weights, in f64 like the plan's.
    pub fn weight(&self) -> f64 {
        self.targets.iter().map(|target| f64::from(target.weight)).sum()
    }

    /// Each token's position in its document.
    pub fn positions(&self) -> Vec<u32> {
        let lengths = self.starts.windows(2).map(|ends| ends[1] - ends[0]);
        lengths.flat_map(|length| 0..length).collect()
    }
}

/// Puts the samples of one or more packs side by side, in their order.
pub fn assemble<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Batch {
    let mut batch = Batch { starts: vec![0], ..Batch::default() };
    for sample in samples {
        let start = batch.tokens.len() as u32;
        let weighted = sample.tokens.iter().zip(&sample.weights);
        let targets = (start..).zip(weighted.skip(1)).map(|(row, (&token, &weight))| Target {
            row,
            token,
            weight,
        });
        batch.targets.extend(targets.filter(|target| target.weight > 0.0));
        batch.tokens.extend_from_slice(&sample.tokens);
        batch.starts.push(batch.tokens.len() as u32);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_predicts_the_next_token_of_its_own_document() {
        let sample = |tokens: &[u32], weights: &[f32]| Sample {
            tokens: tokens.to_vec(),
            weights: weights.to_vec(),
            ..Sample::default()
        };
        let samples = [
            sample(&[10, 11, 12, 13], &[0.0, 0.0, 1.0, 0.5]),
            sample(&[], &[]),
            sample(&[20, 21, 22], &[0.0, 0.0, 1.0]),
        ];
        let batch = assemble(&samples);
        let target = |row, token, weight| Target { row, token, weight };
        assert_eq!(batch.tokens, [10, 11, 12, 13, 20, 21, 22]);
        assert_eq!(batch.starts, [0, 4, 4, 7]);
        assert_eq!(batch.targets, [target(1, 12, 1.0), target(2, 13, 0.5), target(5, 22, 1.0)]);
        assert_eq!(batch.positions(), [0, 1, 2, 3, 0, 1, 2]);
        assert_eq!(batch.weight(), 2.5);
    }
}
