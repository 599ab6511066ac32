//! A histogram of the lengths of samples.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Counts of values in logarithmic buckets, four per power of two. A bucket determines a value to within a quarter.
///
/// Adding, merging and removing commute. Serialized as a map from the lowest value of a bucket to its count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, u64>", into = "BTreeMap<u64, u64>")]
pub struct Histogram {
    buckets: BTreeMap<u64, u64>,
}

/// Reads buckets with string keys: for an internally tagged enum, serde buffers the object, and then its keys are no
/// longer parsed as numbers.
impl TryFrom<BTreeMap<String, u64>> for Histogram {
    type Error = std::num::ParseIntError;

    fn try_from(buckets: BTreeMap<String, u64>) -> Result<Self, Self::Error> {
        let bucket = |(from, count): (String, u64)| Ok((from.parse()?, count));
        buckets.into_iter().map(bucket).collect::<Result<_, _>>().map(|buckets| Self { buckets })
    }
}

impl From<Histogram> for BTreeMap<u64, u64> {
    fn from(histogram: Histogram) -> Self {
        histogram.buckets
    }
}

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        *self.buckets.entry(least(value)).or_default() += 1;
    }

    /// Removes a value that was added before.
    pub fn remove(&mut self, value: u64) {
        let bucket = least(value);
        if let Some(count) = self.buckets.get_mut(&bucket) {
            *count -= 1;
            if *count == 0 {
                self.buckets.remove(&bucket);
            }
        }
    }

    /// Adds all values of another.
    pub fn merge(&mut self, other: Histogram) {
        for (bucket, count) in other.buckets {
            *self.buckets.entry(bucket).or_default() += count;
        }
    }

    /// The number of values.
    pub fn len(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The buckets that are not empty, each as its lowest value, the lowest value of the next bucket, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.buckets.iter().map(|(&from, &count)| (from, next(from), count))
    }

    /// All buckets from the first to the last that is not empty, in the form of [`buckets`](Self::buckets).
    pub fn spanned(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let first = self.buckets.keys().next().copied();
        let last = self.buckets.keys().next_back().copied();
        let all = std::iter::successors(first, move |&from| {
            Some(next(from)).filter(|_| Some(from) < last)
        });
        all.map(|from| (from, next(from), self.buckets.get(&from).copied().unwrap_or(0)))
    }

    /// An upper bound for at least this share of the values, 0 to 1. `None` without values.
    pub fn below(&self, share: f64) -> Option<u64> {
        let wanted = (share * self.len() as f64).ceil() as u64;
        let mut counted = 0;
        let mut ends = self.buckets().map(|(_, end, count)| {
            counted += count;
            (end, counted)
        });
        ends.find(|(_, counted)| *counted >= wanted).map(|(end, _)| end)
    }
}

/// The lowest value of the bucket of a value, which consists of its three leading bits.
fn least(value: u64) -> u64 {
    match value.checked_ilog2() {
        Some(bits @ 2..) => value >> (bits - 2) << (bits - 2),
        Some(_) | None => value,
    }
}

/// The lowest value of the bucket after the one that begins at `least`.
fn next(least: u64) -> u64 {
    let width = least.checked_ilog2().map_or(0, |bits| bits.saturating_sub(2));
    least.saturating_add(1 << width)
}

/// Formats as `50% below 112, 90% below 256, all below 640, from 16 ▁▃█▅▂`, with a bar for each power of two.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(half), Some(most), Some(all)) =
            (self.below(0.5), self.below(0.9), self.below(1.0))
        else {
            return f.write_str("none");
        };
        let mut doublings = BTreeMap::<u32, u64>::new();
        for (from, _, count) in self.buckets() {
            *doublings.entry(from.checked_ilog2().unwrap_or(0)).or_default() += count;
        }
        let highest = doublings.values().copied().max().unwrap_or(1);
        let first = doublings.keys().next().copied().unwrap_or(0);
        let last = doublings.keys().next_back().copied().unwrap_or(0);
        write!(f, "50% below {half}, 90% below {most}, all below {all}, from {} ", 1u64 << first)?;
        for doubling in first..=last {
            let count = doublings.get(&doubling).copied().unwrap_or(0);
            let bar = match count {
                0 => ' ',
                // Rounded up, so that every count above 0 is visible.
                _ => BARS[((count * 8).div_ceil(highest) - 1) as usize],
            };
            write!(f, "{bar}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_round_trip_inside_an_internally_tagged_enum() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "event")]
        enum Tagged {
            Lengths { lengths: Histogram },
        }
        let mut lengths = Histogram::default();
        [3, 3, 100].into_iter().for_each(|value| lengths.add(value));
        let tagged = Tagged::Lengths { lengths };
        let json = serde_json::to_string(&tagged).expect("plain JSON");
        assert_eq!(json, r#"{"event":"Lengths","lengths":{"3":2,"96":1}}"#);
        assert_eq!(serde_json::from_str::<Tagged>(&json).expect("our own"), tagged);
    }

    #[test]
    fn buckets_have_no_gaps_and_determine_a_value_to_within_a_quarter() {
        let mut end = 0;
        for value in 0..100_000u64 {
            let from = least(value);
            assert!((from..next(from)).contains(&value));
            if from == value {
                assert_eq!(value, end, "a gap or an overlap");
                end = next(from);
            }
            assert!(next(from) - from <= 1.max(value / 4));
        }
        assert!(next(least(u64::MAX)) > least(u64::MAX));
    }

    #[test]
    fn values_can_be_removed_and_order_does_not_matter() {
        let of = |values: &[u64]| {
            let mut histogram = Histogram::default();
            values.iter().for_each(|&value| histogram.add(value));
            histogram
        };
        let mut parts = of(&[900, 3]);
        parts.merge(of(&[0, 17, 17]));
        assert_eq!(parts, of(&[17, 0, 3, 900, 17]));
        let spanned: Vec<_> = of(&[17, 7, 12, 13]).spanned().collect();
        assert_eq!(
            spanned,
            [(7, 8, 1), (8, 10, 0), (10, 12, 0), (12, 14, 2), (14, 16, 0), (16, 20, 1)]
        );
        assert_eq!(of(&[]).spanned().count(), 0);
        parts.remove(900);
        parts.remove(17);
        assert_eq!(parts, of(&[17, 3, 0]));
    }

    #[test]
    fn below_is_an_upper_bound_for_a_share() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.below(0.5), None);
        (1..=1000).for_each(|value| histogram.add(value));
        assert_eq!((histogram.below(0.5), histogram.below(1.0)), (Some(512), Some(1024)));
        assert_eq!(
            histogram.to_string(),
            "50% below 512, 90% below 1024, all below 1024, from 1 ▁▁▁▁▁▁▂▃▅█"
        );
        let json = serde_json::to_string(&histogram).expect("counts are JSON");
        assert!(json.starts_with(r#"{"1":1,"2":1,"3":1,"4":1,"#), "{json}");
        let back: Histogram = serde_json::from_str(&json).expect("and read back");
        assert_eq!(back, histogram);
    }
}
