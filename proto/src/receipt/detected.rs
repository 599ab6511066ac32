//! How a source's objects are read, and what shows it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Place;
use crate::text::visible;

/// A way in which some of a source's objects are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detected {
    /// As the run spec names it: `alpaca`.
    pub format: String,
    /// How the objects hold their records: "JSON lines".
    pub container: String,
    /// What shows it: "has `instruction` and `output`", "as the run spec says".
    pub why: String,
    /// Objects that are read so; those without a record are in no format.
    pub objects: u64,
    /// The first of them by name.
    pub object: String,
    /// The record in it that `why` is said of; counted from the object's start, whatever range was read.
    #[serde(flatten)]
    pub place: Option<Place>,
}

impl Detected {
    /// Two ways are the same if all but the objects are.
    fn way(&self) -> (&str, &str, &str) {
        (&self.format, &self.container, &self.why)
    }
}

/// All ways in which a source's objects are read, each once, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Formats(Vec<Detected>);

impl Formats {
    /// Notes how further objects are read.
    pub fn add(&mut self, detected: Detected) {
        match self.0.binary_search_by(|known| known.way().cmp(&detected.way())) {
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

    /// Notes how another receipt's objects are read; in whatever order, the result is the same.
    pub fn merge(&mut self, other: Formats) {
        other.0.into_iter().for_each(|detected| self.add(detected));
    }

    /// Whether no object had a record.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each way, by format.
    pub fn iter(&self) -> impl Iterator<Item = &Detected> {
        self.0.iter()
    }
}

/// "alpaca, JSON lines: a.jsonl, line 1 has `instruction` and `output`; 2 more objects alike".
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
    fn the_same_way_is_told_once_whoever_saw_it_first() {
        let all = [
            detected("text", "b.jsonl", 1),
            detected("messages", "c.jsonl", 2),
            detected("text", "a.jsonl", 7),
            detected("text", "d.jsonl", 1),
        ];
        let mut parts = [&all[..1], &all[1..3], &all[3..]].map(of);
        let told = |parts: &[Formats]| {
            let mut merged = Formats::default();
            parts.iter().for_each(|part| merged.merge(part.clone()));
            merged.iter().map(Detected::to_string).collect::<Vec<_>>()
        };
        let expected = [
            "messages, JSON lines: c.jsonl, line 2 has `messages`",
            "text, JSON lines: a.jsonl, line 7 has `text`; 2 more objects alike",
        ];
        assert_eq!(told(&parts), expected);
        parts.reverse();
        assert_eq!(told(&parts), expected);
        assert_eq!(told(&[of(&all)]), expected);
    }

    #[test]
    fn what_the_spec_says_has_no_place_and_survives_json() {
        let said = Detected {
            why: "as the run spec says".into(),
            place: None,
            ..detected("messages", "a.jsonl", 1)
        };
        assert_eq!(said.to_string(), "messages, JSON lines: as the run spec says");
        for detected in [said, detected("text", "a.jsonl", 3)] {
            let formats = of(&[detected]);
            let json = serde_json::to_string(&formats).expect("plain data");
            let back: Formats = serde_json::from_str(&json).expect("our own");
            assert_eq!(back, formats, "{json}");
        }
    }
}
