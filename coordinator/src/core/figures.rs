//! Figures by source, put together from what all ranks measured.

use proto::event::number;
use proto::protocol::SourceSum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one source came to in a step, or in the held-out set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceFigures {
    /// Over its trained tokens, by weight.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Targets with a weight.
    pub trained_tokens: u64,
}

/// By the source's name; empty where there is only one, which the figures of all are about.
pub type BySource = BTreeMap<String, SourceFigures>;

/// Sums over all ranks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Total {
    loss_sum: f64,
    weight: f64,
    trained_tokens: u64,
}

impl Total {
    /// None where nothing has a weight.
    pub(super) fn mean(self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.loss_sum / self.weight)
    }

    fn add(&mut self, other: Self) {
        self.loss_sum += other.loss_sum;
        self.weight += other.weight;
        self.trained_tokens += other.trained_tokens;
    }
}

/// By source, of so many; a rank's sum of a source that there is not is left out.
pub(super) fn totals<'a>(sources: usize, sums: impl Iterator<Item = &'a SourceSum>) -> Vec<Total> {
    let mut totals = vec![Total::default(); sources];
    for SourceSum { source, loss_sum, weight, trained_tokens } in sums.copied() {
        if let Some(total) = totals.get_mut(source as usize) {
            total.add(Total { loss_sum, weight, trained_tokens });
        }
    }
    totals
}

/// All sources together.
pub(super) fn sum(totals: &[Total]) -> Total {
    let mut all = Total::default();
    totals.iter().for_each(|total| all.add(*total));
    all
}

/// By name: sources of one name count as one, as in the receipt.
pub(super) fn by_name(names: &[String], totals: &[Total]) -> BySource {
    if names.len() < 2 {
        return BySource::new();
    }
    let mut by_name = BTreeMap::<&String, Total>::new();
    for (name, total) in names.iter().zip(totals) {
        by_name.entry(name).or_default().add(*total);
    }
    let figures = |(name, total): (&String, Total)| {
        let trained_tokens = total.trained_tokens;
        total.mean().map(|loss| (name.clone(), SourceFigures { loss, trained_tokens }))
    };
    by_name.into_iter().filter_map(figures).collect()
}
