//! Fields of records that are not read.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::visible;

/// The prefix of the names of fields of messages.
pub const OF_MESSAGES: &str = "messages[].";

/// The maximum number of names. Data that uses values as field names may have a different field in every record.
const NAMES: usize = 64;
/// The maximum length of a name in characters.
const CHARACTERS: usize = 64;

/// The number of records in which each field is not empty. If there are too many names, the first in sorted order are
/// kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Unread(BTreeMap<String, u64>);

impl Unread {
    /// Counts a field of one record.
    pub fn add(&mut self, name: &str) {
        let name: String = name.chars().take(CHARACTERS).collect();
        *self.0.entry(name).or_default() += 1;
        self.trim();
    }

    /// Whether every field was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each name, with the number of records in which the field is not empty.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, records)| (name.as_str(), *records))
    }

    pub(super) fn merge(&mut self, other: Unread) {
        for (name, records) in other.0 {
            *self.0.entry(name).or_default() += records;
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.0.len() > NAMES {
            self.0.pop_last();
        }
    }
}

/// Formats as `` `images` (3), `source` of messages (12) ``.
impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |(name, records): (&str, u64)| match name.strip_prefix(OF_MESSAGES) {
            Some(name) => format!("`{}` of messages ({records})", visible(name)),
            None => format!("`{}` ({records})", visible(name)),
        };
        let all: Vec<_> = self.iter().map(named).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_does_not_depend_on_the_order_of_merges() {
        let names: Vec<_> = (0..200).map(|i| format!("f{:03}", i * 37 % 100)).collect();
        let of = |names: &[String]| {
            let mut unread = Unread::default();
            names.iter().for_each(|name| unread.add(name));
            unread
        };
        let whole = of(&names);
        for cut in [0, 1, 50, 133, 200] {
            let (mut first, mut second) = (of(&names[..cut]), of(&names[cut..]));
            first.merge(second.clone());
            second.merge(of(&names[..cut]));
            assert_eq!((&first, &second), (&whole, &whole), "{cut}");
        }
        assert_eq!(whole.iter().count(), NAMES);
        assert!(whole.iter().all(|(_, records)| records == 2));
    }

    #[test]
    fn fields_of_messages_are_shown_as_such() {
        let mut unread = Unread::default();
        unread.add("images");
        unread.add("messages[].name");
        assert_eq!(unread.to_string(), "`images` (1), `name` of messages (1)");
    }
}
