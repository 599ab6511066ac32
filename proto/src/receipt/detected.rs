//! The formats in which a source's objects are read, and how they were detected.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Place;
use crate::text::visible;

/// A detected format, with the objects of a source that have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detected {
    /// The format's name in a run spec: `alpaca`.
    pub format: String,
    /// The container of the records: "JSON lines".
    pub container: String,
    /// What shows the format: "has `instruction` and `output`", "as the run spec says".
    pub why: String,
    /// Number of objects that are read this way. Objects without records have no format.
    pub objects: u64,
    /// The first of these objects by name.
    pub object: String,
    /// The record of that object to which `why` refers, counted from the start of the object.
    #[serde(flatten)]
    pub place: Option<Place>,
}

impl Detected {
    /// The key by which formats are merged: everything except the objects.
    fn key(&self) -> (&str, &str, &str) {
        (&self.format, &self.container, &self.why)
    }
}

/// All detected formats of a source's objects, sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Formats(Vec<Detected>);

impl Formats {
    /// Adds the format of further objects.
    pub fn add(&mut self, detected: Detected) {
        match self.0.binary_search_by(|known| known.key().cmp(&detected.key())) {
            Err(at) => self.0.insert(at, detected),
            Ok(at) => {
                let known = &mut self.0[at];
                known.objects += detected.objects;
                if (&detected.object, detected.place) < (&known.object, known.place) {
                    (known.object, known.place) = (detected.object, detected.place);
                }
            }
        }
    }

    /// Adds the formats of another receipt. The result does not depend on the order of merges.
    pub fn merge(&mut self, other: Formats) {
        other.0.into_iter().for_each(|detected| self.add(detected));
    }

    /// Whether no format was detected, because no object had a record.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The detected formats, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Detected> {
        self.0.iter()
    }
}

/// Formats as "alpaca, JSON lines: a.jsonl, line 1 has `instruction` and `output`; 2 more objects alike".
impl fmt::Display for Detected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: ", self.format, self.container)?;
        if let Some(place) = self.place {
            write!(f, "{}, {place} ", visible(&self.object))?;
        }
        f.write_str(&visible(&self.why))?;
        match self.objects.saturating_sub(1) {
            0 => Ok(()),
            1 => f.write_str("; 1 more object alike"),
            more => write!(f, "; {more} more objects alike"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detected(format: &str, object: &str, line: u64) -> Detected {
        Detected {
            format: format.into(),
            container: "JSON lines".into(),
            why: format!("has `{format}`"),
            objects: 1,
            object: object.into(),
            place: Some(Place::line(line)),
        }
    }

    fn of(all: &[Detected]) -> Formats {
        let mut formats = Formats::default();
        all.iter().for_each(|detected| formats.add(detected.clone()));
        formats
    }

    #[test]
    fn equal_formats_are_merged_in_any_order() {
        let all = [
            detected("text", "b.jsonl", 1),
            detected("messages", "c.jsonl", 2),
            detected("text", "a.jsonl", 7),
            detected("text", "d.jsonl", 1),
        ];
        let mut parts = [&all[..1], &all[1..3], &all[3..]].map(of);
        let shown = |parts: &[Formats]| {
            let mut merged = Formats::default();
            parts.iter().for_each(|part| merged.merge(part.clone()));
            merged.iter().map(Detected::to_string).collect::<Vec<_>>()
        };
        let expected = [
            "messages, JSON lines: c.jsonl, line 2 has `messages`",
            "text, JSON lines: a.jsonl, line 7 has `text`; 2 more objects alike",
        ];
        assert_eq!(shown(&parts), expected);
        parts.reverse();
        assert_eq!(shown(&parts), expected);
        assert_eq!(shown(&[of(&all)]), expected);
    }

    #[test]
    fn formats_of_the_spec_have_no_place_and_round_trip_through_json() {
        let in_spec = Detected {
            why: "as the run spec says".into(),
            place: None,
            ..detected("messages", "a.jsonl", 1)
        };
        assert_eq!(in_spec.to_string(), "messages, JSON lines: as the run spec says");
        for detected in [in_spec, detected("text", "a.jsonl", 3)] {
            let formats = of(&[detected]);
            let json = serde_json::to_string(&formats).expect("plain data");
            let back: Formats = serde_json::from_str(&json).expect("our own");
            assert_eq!(back, formats, "{json}");
        }
    }
}
