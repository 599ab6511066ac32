//! How long samples are, in a few numbers.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Counts of values in buckets that grow with them: four to every doubling, so that a bucket tells
/// a value to a quarter.
///
/// Adding, merging and taking away commute. Stored as a map from a bucket's least value to its
/// count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, u64>", into = "BTreeMap<u64, u64>")]
pub struct Histogram {
    buckets: BTreeMap<u64, u64>,
}

/// From names, since those of an object are texts to a reader that holds it back, as one of an enum
/// by its tag does.
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

    /// Takes a value back that was added.
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

    /// The values counted.
    pub fn len(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// Whether no value was counted.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The buckets that are not empty: the least value, the least value of the next bucket, and
    /// the count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.buckets.iter().map(|(&from, &count)| (from, next(from), count))
    }

    /// All buckets from the first to the last that is not empty, likewise.
    pub fn spanned(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let first = self.buckets.keys().next().copied();
        let last = self.buckets.keys().next_back().copied();
        let all = std::iter::successors(first, move |&from| {
            Some(next(from)).filter(|_| Some(from) < last)
        });
        all.map(|from| (from, next(from), self.buckets.get(&from).copied().unwrap_or(0)))
    }

    /// A bound that at least this share of the values, 0 to 1, lies below; none without values.
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

/// The least value of the bucket that a value is in: its three leading bits.
fn least(value: u64) -> u64 {
    match value.checked_ilog2() {
        Some(bits @ 2..) => value >> (bits - 2) << (bits - 2),
        Some(_) | None => value,
    }
}

/// The least value of the bucket after the one that begins at `least`.
fn next(least: u64) -> u64 {
    let width = least.checked_ilog2().map_or(0, |bits| bits.saturating_sub(2));
    least.saturating_add(1 << width)
}

/// `50% below 112, 90% below 256, all below 640, from 16 ▁▃█▅▂`: a bar for every doubling.
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
                // Rounded up: what is there is seen.
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
    fn histogram_is_read_back_also_from_within_an_enum_that_is_told_by_a_tag() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "event")]
        enum Told {
            Lengths { lengths: Histogram },
        }
        let mut lengths = Histogram::default();
        [3, 3, 100].into_iter().for_each(|value| lengths.add(value));
        let told = Told::Lengths { lengths };
        let json = serde_json::to_string(&told).expect("plain JSON");
        assert_eq!(json, r#"{"event":"Lengths","lengths":{"3":2,"96":1}}"#);
        assert_eq!(serde_json::from_str::<Told>(&json).expect("our own"), told);
    }

    #[test]
    fn buckets_tile_the_numbers_and_tell_a_value_to_a_quarter() {
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
    fn what_was_added_can_be_taken_back_and_order_does_not_matter() {
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
    fn shares_are_bounded_from_above() {
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
