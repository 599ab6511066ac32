//! Figures by source, summed over all ranks.

use proto::event::number;
use proto::protocol::SourceSum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The figures of one source in a step or in the held-out set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceFigures {
    /// The mean loss over the source's trained tokens, by weight.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Number of targets with a weight.
    pub trained_tokens: u64,
}

/// Figures by the source's name. Empty if there is only one source, whose figures are those of the whole.
pub type BySource = BTreeMap<String, SourceFigures>;

/// The sums of one source, or of all sources, over all ranks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Total {
    loss_sum: f64,
    weight: f64,
    trained_tokens: u64,
}

impl Total {
    /// The mean loss; `None` if no target has a weight.
    pub(super) fn mean(self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.loss_sum / self.weight)
    }

    fn add(&mut self, other: Self) {
        self.loss_sum += other.loss_sum;
        self.weight += other.weight;
        self.trained_tokens += other.trained_tokens;
    }
}

/// The totals of each of `sources` sources. Sums that name any other source are left out.
pub(super) fn totals<'a>(sources: usize, sums: impl Iterator<Item = &'a SourceSum>) -> Vec<Total> {
    let mut totals = vec![Total::default(); sources];
    for SourceSum { source, loss_sum, weight, trained_tokens } in sums.copied() {
        if let Some(total) = totals.get_mut(source as usize) {
            total.add(Total { loss_sum, weight, trained_tokens });
        }
    }
    totals
}

/// The total over all sources.
pub(super) fn sum(totals: &[Total]) -> Total {
    let mut all = Total::default();
    totals.iter().for_each(|total| all.add(*total));
    all
}

/// Figures by source name. Sources of the same name count as one, as in the receipt.
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
