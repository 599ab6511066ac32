//! The mixture of a plan: each source's part of an epoch, sources that are not seen whole, and the plan's warnings.

use proto::plan::SourceSummary;
use serde::{Deserialize, Serialize};

/// A source in the plan's summary, as the coordinator announces it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Mixed {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) figures: SourceSummary,
}

/// A table with a line for each source. Empty without sources, and for a single source that an epoch sees once.
pub(super) fn table(sources: &[Mixed]) -> Vec<String> {
    if let [] | [Mixed { figures: SourceSummary { repeat: 1.0, .. }, .. }] = sources {
        return Vec::new();
    }
    let width = sources.iter().map(|s| s.name.chars().count()).max().unwrap_or(0).max(6);
    let header = format!("{:width$}  samples  trained tokens  repeat  share of an epoch", "source");
    let row = |Mixed { name, figures }: &Mixed| {
        let SourceSummary { samples, weight, repeat, share } = figures;
        let share = share * 100.0;
        format!("{name:width$}  {samples:>7}  {weight:>14.0}  {repeat:>6.3}  {share:>5.1} %")
    };
    std::iter::once(header).chain(sources.iter().map(row)).collect()
}

/// A warning for each source that `epochs` epochs do not show completely.
pub(super) fn unseen(sources: &[Mixed], epochs: usize) -> Vec<String> {
    let warning = |Mixed { name, figures }: &Mixed| {
        let seen = figures.repeat * epochs as f64;
        // Allows for rounding.
        (seen < 0.999).then(|| {
            format!(
                "{:.1} % of {name} is never seen; more `train.epochs`, or more of this source, shows more",
                (1.0 - seen) * 100.0
            )
        })
    };
    sources.iter().filter_map(warning).collect()
}

/// The coordinator's warnings about the plan; older versions wrote none.
pub(super) fn warnings(summary: &serde_json::Value) -> Vec<String> {
    Vec::deserialize(&summary["warnings"]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed(name: &str, repeat: f64) -> Mixed {
        let figures = SourceSummary { samples: 10, weight: 120.4, repeat, share: 0.25 };
        Mixed { name: name.into(), figures }
    }

    #[test]
    fn several_sources_or_a_repeat_are_shown_as_a_table() {
        assert_eq!(table(&[mixed("a", 1.0)]), [""; 0]);
        assert_eq!(
            table(&[mixed("a", 1.0), mixed("/b.jsonl", 2.5)]),
            [
                "source    samples  trained tokens  repeat  share of an epoch",
                "a              10             120   1.000   25.0 %",
                "/b.jsonl       10             120   2.500   25.0 %",
            ]
        );
        assert_eq!(table(&[mixed("a", 0.5)]).len(), 2);
    }

    #[test]
    fn a_source_that_is_not_seen_completely_causes_a_warning() {
        assert_eq!(unseen(&[mixed("a", 0.5), mixed("b", 0.25)], 2).len(), 1);
        let [warning] = &unseen(&[mixed("b", 0.25)], 3)[..] else { panic!("one") };
        assert!(warning.starts_with("25.0 % of b is never seen; "), "{warning}");
    }
}
