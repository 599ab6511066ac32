//! Sets of completion indexes in their compressed text form, such as `1,3-5,7`.

use std::collections::BTreeSet;
use std::fmt;

/// A set of indexes as ordered, disjoint, non-adjacent intervals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Indexes(Vec<(u32, u32)>);

impl Indexes {
    /// Reads the text of a status, leniently: fragments that are no numbers are skipped, and indexes at or above
    /// `completions` are cut off.
    pub(crate) fn parse(text: &str, completions: u32) -> Self {
        let mut intervals: Vec<(u32, u32)> = Vec::new();
        for fragment in text.split(',').filter(|_| !text.is_empty()) {
            let mut limits = fragment.split('-').map(|limit| limit.parse::<u32>().ok());
            let Some(first) = limits.next().flatten() else { continue };
            if first >= completions {
                break;
            }
            let last = match limits.next() {
                Some(Some(last)) => last.min(completions.saturating_sub(1)),
                Some(None) => continue,
                None => first,
            };
            match intervals.last_mut() {
                Some(previous) if previous.1 + 1 == first => previous.1 = last,
                Some(_) | None => intervals.push((first, last)),
            }
        }
        Self(intervals)
    }

    pub(crate) fn len(&self) -> u32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, index: u32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// The union with single indexes.
    pub(crate) fn with(&self, indexes: &BTreeSet<u32>) -> Self {
        self.union(&Self(indexes.iter().map(|index| (*index, *index)).collect()))
    }

    /// The union of two sets.
    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut all: Vec<(u32, u32)> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (first, last) in all {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => {
                    previous.1 = previous.1.max(last)
                }
                Some(_) | None => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// The number of indexes that are in both sets.
    pub(crate) fn overlap(&self, other: &Self) -> u32 {
        let pairs = self.0.iter().flat_map(|one| other.0.iter().map(move |two| (one, two)));
        pairs.map(|(one, two)| (one.1.min(two.1) + 1).saturating_sub(one.0.max(two.0))).sum()
    }

    /// The first `count` indexes below `completions` that are not in the set.
    pub(crate) fn first_missing(&self, count: usize, completions: u32) -> Vec<u32> {
        (0..completions).filter(|index| !self.contains(*index)).take(count).collect()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                1 => write!(f, "{separator}{first},{last}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// Checks the text strictly and returns how many indexes it names; used by validation.
///
/// # Errors
/// The message of the first violation.
pub(crate) fn check_format(text: &str, completions: i64) -> Result<i64, String> {
    let mut total = 0;
    let mut previous: Option<i64> = None;
    for fragment in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = check_interval(fragment, completions)?;
        if let Some(previous) = previous.filter(|previous| *previous >= first) {
            return Err(format!("non-increasing order, previous: {previous}, current: {first}"));
        }
        total += last - first + 1;
        previous = Some(last);
    }
    Ok(total)
}

fn check_interval(fragment: &str, completions: i64) -> Result<(i64, i64), String> {
    let limits: Vec<&str> = fragment.split('-').collect();
    if limits.len() > 2 {
        return Err(format!(
            "the fragment \"{fragment}\" violates the requirement that an index interval can have at most two parts \
             separated by '-'"
        ));
    }
    let number = |text: &str| {
        let parsed = text.parse::<i64>();
        let index = parsed
            .map_err(|_| format!("cannot convert string to integer for index: \"{text}\""))?;
        if index >= completions { Err(format!("too large index: \"{text}\"")) } else { Ok(index) }
    };
    let first = number(limits[0])?;
    let last = limits.get(1).map_or(Ok(first), |text| number(text))?;
    if limits.len() == 2 && first >= last {
        return Err(format!("non-increasing order, previous: {first}, current: {last}"));
    }
    Ok((first, last))
}

/// The first index that is both completed and failed.
pub(crate) fn first_overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let intervals = |text: &str| -> Vec<(i64, i64)> {
        text.split(',').filter_map(|fragment| check_interval(fragment, completions).ok()).collect()
    };
    let failed = intervals(failed);
    let shared = intervals(completed).into_iter().flat_map(|(first, last)| {
        failed
            .iter()
            .filter(move |(other_first, other_last)| first <= *other_last && *other_first <= last)
            .map(move |(other_first, _)| first.max(*other_first))
    });
    shared.min()
}
