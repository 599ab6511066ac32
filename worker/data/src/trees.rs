//! OpenAssistant's sets: trees of messages, one a record, or one row for each message, which names its parent. Rows of
//! a tree stand together, its question first; here they become the tree that they are rows of.
//!
//! ```text
//! rows | question | reply | reply | question | reply ...  -> { prompt: { text, replies: [..] } } ...
//! ```
//!
//! A tree belongs to the range in which its question begins: rows before a range's first question are another range's,
//! and the rows of its last tree are read on beyond its end.

use std::ops::Range;

use proto::receipt::Place;
use serde_json::{Map, Value};

use super::read::{Body, Object, Raw, ReadError};
use super::record::object;

/// Bytes of a tree's rows. What is larger is no conversation.
const TREE_BYTES: usize = 64 << 20;

type Row = Map<String, Value>;

/// The key of a tree's question, which is a message of the same shape as its replies.
pub(super) const PROMPT: &str = "prompt";
/// The key of a message's replies.
pub(super) const REPLIES: &str = "replies";
const ID: &str = "message_id";
const PARENT: &str = "parent_id";

/// Whether a record is a tree.
pub(super) fn is_tree(record: &Row) -> bool {
    record.get(PROMPT).is_some_and(|prompt| prompt.get(REPLIES).is_some())
}

/// Whether a record is one message of a tree.
pub(super) fn is_row(record: &Row) -> bool {
    [ID, PARENT, "role", "text"].iter().all(|name| record.contains_key(*name))
}

/// Puts the rows of a range together.
#[derive(Debug)]
pub(super) struct Trees {
    range: Range<u64>,
    /// None until the range's first question, whose rows before it are another range's.
    rows: Option<Vec<(Place, Row)>>,
    bytes: usize,
}

impl Trees {
    pub(super) fn new(range: Range<u64>) -> Trees {
        let rows = (range.start == 0).then(Vec::new);
        Trees { range, rows, bytes: 0 }
    }

    /// What has become whole with these records: trees, and what is none.
    pub(super) fn take(&mut self, raws: Vec<Raw<'_>>) -> Vec<Raw<'static>> {
        let mut done = Vec::new();
        for Raw { place, body, swallowed } in raws {
            match row(body) {
                Err(body) => done.push(Raw { place, body, swallowed }),
                Ok(record) if is_tree(&record) => {
                    done.extend(self.close());
                    self.rows = Some(Vec::new());
                    done.push(Raw { place, body: Body::Value(record), swallowed });
                }
                Ok(record) => {
                    if is_question(&record) {
                        done.extend(self.close());
                        self.rows = Some(Vec::new());
                    }
                    self.add(place, record);
                }
            }
        }
        done
    }

    /// The last tree, once its rows beyond the range are there too.
    ///
    /// # Errors
    /// The source's.
    pub(super) fn finish(&mut self, opened: &Object) -> Result<Vec<Raw<'static>>, ReadError> {
        let mut is_open = self.rows.as_ref().is_some_and(|rows| !rows.is_empty());
        let mut beyond = match is_open && self.range.end < opened.size() {
            true => Some(opened.blocks(self.range.end..opened.size())?),
            false => None,
        };
        while let (true, Some(blocks)) = (is_open, &mut beyond) {
            let Some(block) = blocks.next() else { break };
            for Raw { place, body, .. } in block?.take_raws() {
                match row(body) {
                    // What cannot be read is told where it stands.
                    Err(_) => {}
                    Ok(record) if is_tree(&record) || is_question(&record) => {
                        is_open = false;
                        break;
                    }
                    Ok(record) => self.add(place, record),
                }
            }
        }
        Ok(self.close())
    }

    fn add(&mut self, place: Place, record: Row) {
        if let Some(rows) = &mut self.rows {
            self.bytes +=
                record.values().map(|value| value.as_str().map_or(8, str::len)).sum::<usize>();
            if self.bytes <= TREE_BYTES || rows.is_empty() {
                rows.push((place, record));
            }
        }
    }

    /// The tree of the rows so far; and the rows that belong to none.
    fn close(&mut self) -> Vec<Raw<'static>> {
        let bytes = std::mem::take(&mut self.bytes);
        let rows = self.rows.take().unwrap_or_default();
        let Some((place, _)) = rows.first() else { return Vec::new() };
        let raw = |place, body| Raw { place, body, swallowed: 0 };
        if bytes > TREE_BYTES {
            let broken = Body::Broken("a tree of more than 64 MiB".into());
            return vec![raw(*place, broken)];
        }
        let place = *place;
        let (tree, strangers) = tree(rows);
        let tree = tree.map(|tree| raw(place, Body::Value(tree)));
        let stranger = |(place, parent): (Place, String)| {
            let reason = format!(
                "its parent `{parent}` is not among the rows since the last question\n\
                 hint: the rows of a tree must stand together, a message after its parent"
            );
            raw(place, Body::Broken(reason))
        };
        tree.into_iter().chain(strangers.into_iter().map(stranger)).collect()
    }
}

/// A record with its fields, or what it is instead.
fn row(body: Body<'_>) -> Result<Row, Body<'static>> {
    match body {
        Body::Json(json) => object(json).map_err(|reject| Body::Broken(reject.detail)),
        Body::Value(row) => Ok(row),
        Body::Text(_) => {
            Err(Body::Broken("a text, where a message with its fields is wanted".into()))
        }
        Body::Broken(reason) => Err(Body::Broken(reason)),
        Body::CutOff(reason) => Err(Body::CutOff(reason)),
    }
}

/// Whether a row answers nothing.
fn is_question(row: &Row) -> bool {
    parent(row).is_none()
}

fn parent(row: &Row) -> Option<&str> {
    // A table of texts has an empty one.
    row.get(PARENT).and_then(Value::as_str).filter(|parent| !parent.is_empty())
}

/// The tree that begins with the first row, and the rows whose parent is not in it.
fn tree(mut rows: Vec<(Place, Row)>) -> (Option<Row>, Vec<(Place, String)>) {
    let mut strangers = Vec::new();
    let mut is_known = std::collections::HashSet::new();
    rows.retain(|(place, row)| {
        let knows_parent = match parent(row) {
            None => true,
            Some(parent) => is_known.contains(parent),
        };
        if !knows_parent {
            strangers.push((*place, parent(row).unwrap_or_default().to_owned()));
        } else if let Some(id) = row.get(ID).and_then(Value::as_str) {
            is_known.insert(id.to_owned());
        }
        knows_parent
    });
    // From the last on, each goes into its parent's list, which comes before it.
    while rows.len() > 1
        && let Some((_, child)) = rows.pop()
    {
        let of = |row: &Row| row.get(ID).and_then(Value::as_str) == parent(&child);
        let Some((_, above)) = rows.iter_mut().rev().find(|(_, row)| of(row)) else { continue };
        let replies = above.entry(REPLIES).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(replies) = replies {
            replies.insert(0, Value::Object(child));
        }
    }
    let tree = rows.pop().map(|(_, mut question)| {
        question.entry(REPLIES).or_insert_with(|| Value::Array(Vec::new()));
        Map::from_iter([(PROMPT.to_owned(), Value::Object(question))])
    });
    (tree, strangers)
}
