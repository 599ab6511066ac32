//! Places of records in their objects, and examples of records that were dropped or found.

use crate::text::visible;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The place of a record in its object, or in the range of the object that was read. All numbers count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Place {
    /// An element of a JSON array.
    Record {
        /// Its number in the array.
        record: u64,
        /// The line on which it starts.
        line: u64,
    },
    /// A row of a table in a format without lines.
    Row {
        /// Its number in the table.
        row: u64,
    },
    /// A record that starts on a line.
    Line {
        /// The line.
        line: u64,
    },
}

impl Place {
    /// The place of a record that starts on line `line`.
    pub fn line(line: u64) -> Place {
        Place::Line { line }
    }

    /// The number that a prepared shard stores for this place.
    pub fn position(self) -> u64 {
        match self {
            Place::Record { record, .. } => record,
            Place::Row { row } => row,
            Place::Line { line } => line,
        }
    }

    /// The same place, counted from `by` lines or rows earlier. Records of an array do not change, because an array
    /// is never divided into ranges.
    #[must_use]
    pub fn shifted(self, by: u64) -> Place {
        match self {
            Place::Record { .. } => self,
            Place::Row { row } => Place::Row { row: row + by },
            Place::Line { line } => Place::Line { line: line + by },
        }
    }

    /// The place of a record of an array of which only the number is known, not the line.
    pub fn record(record: u64) -> Place {
        Place::Record { record, line: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The line is unknown.
            Place::Record { record, line: 0 } => write!(f, "record {record}"),
            Place::Record { record, line } => write!(f, "record {record} (line {line})"),
            Place::Row { row } => write!(f, "row {row}"),
            Place::Line { line } => write!(f, "line {line}"),
        }
    }
}

/// One record that was dropped, truncated or found by a check, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Example {
    /// The object's name as the user would write it: `s3://d/7.jsonl`.
    pub object: String,
    /// The record's place in the object.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong, in one sentence.
    pub reason: String,
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: {}", visible(&self.object), self.place, visible(&self.reason))
    }
}
