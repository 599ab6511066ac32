//! Joins the rows of OpenAssistant's message trees. Its data sets come in two forms: a record is a
//! whole tree, or each row is one message and names its parent. The rows of a tree are adjacent and
//! begin with its question; this module makes them into the tree.
//!
//! ```text
//! rows | question | reply | reply | question | reply ...  -> { prompt: { text, replies: [..] } } ...
//! ```
//!
//! A tree belongs to the range in which its question begins. Rows before a range's first question
//! belong to another range, and the rows of the range's last tree are read beyond the range's end.

use std::collections::HashMap;
use std::ops::Range;

use proto::receipt::Place;
use serde_json::{Map, Value};

use super::read::{Body, Object, Raw, ReadError, size_of};
use super::record::{PROMPT, REPLIES, object};

/// The most bytes in a tree's rows. Anything larger is not a conversation.
const TREE_BYTES: usize = 64 << 20;
/// The most messages on the way from a tree's question to a reply: functions that walk a tree
/// recurse once for each.
const DEEPEST: usize = 200;

type Row = Map<String, Value>;

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

/// Joins the rows of a range into trees.
#[derive(Debug)]
pub(super) struct Trees {
    range: Range<u64>,
    /// None until the range's first question, because the rows before it belong to another range.
    rows: Option<Vec<Placed>>,
    bytes: usize,
    swallowed: u64,
}

/// A row and its place.
#[derive(Debug)]
struct Placed {
    place: Place,
    row: Row,
}

impl Trees {
    pub(super) fn new(range: Range<u64>) -> Trees {
        let rows = (range.start == 0).then(Vec::new);
        Trees { range, rows, bytes: 0, swallowed: 0 }
    }

    /// Takes records and returns those that are complete now: trees, and records that are not rows
    /// of a tree.
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
                Ok(row) => {
                    if is_question(&row) {
                        done.extend(self.close());
                        self.rows = Some(Vec::new());
                    }
                    self.swallowed += swallowed;
                    self.add(Placed { place, row });
                }
            }
        }
        done
    }

    /// Completes the last tree with its rows beyond the range, which itself has `positions`
    /// positions.
    ///
    /// # Errors
    /// Those of the source.
    pub(super) fn finish(
        &mut self,
        opened: &Object,
        positions: u64,
    ) -> Result<Vec<Raw<'static>>, ReadError> {
        let mut is_open = self.rows.as_ref().is_some_and(|rows| !rows.is_empty());
        let mut beyond = match is_open && self.range.end < opened.size() {
            true => Some(opened.blocks(self.range.end..opened.size())?),
            false => None,
        };
        while let (true, Some(blocks)) = (is_open, &mut beyond) {
            let Some(block) = blocks.next() else { break };
            for Raw { place, body, swallowed } in block?.take_raws() {
                match row(body) {
                    // A record that cannot be read is reported by the range to which it belongs.
                    Err(_) => {}
                    Ok(record) if is_tree(&record) || is_question(&record) => {
                        is_open = false;
                        break;
                    }
                    Ok(row) => {
                        self.swallowed += swallowed;
                        self.add(Placed { place: place.shifted(positions), row });
                    }
                }
            }
        }
        Ok(self.close())
    }

    fn add(&mut self, placed: Placed) {
        if let Some(rows) = &mut self.rows {
            self.bytes += placed.row.iter().map(|(k, v)| k.len() + size_of(v)).sum::<usize>();
            if self.bytes <= TREE_BYTES || rows.is_empty() {
                rows.push(placed);
            }
        }
    }

    /// The tree of the rows so far, followed by the rows that belong to no tree.
    fn close(&mut self) -> Vec<Raw<'static>> {
        let (bytes, swallowed) =
            (std::mem::take(&mut self.bytes), std::mem::take(&mut self.swallowed));
        let rows = self.rows.take().unwrap_or_default();
        let Some(Placed { place, .. }) = rows.first() else { return Vec::new() };
        let place = *place;
        if bytes > TREE_BYTES {
            let body = Body::Broken("a tree of more than 64 MiB".into());
            return vec![Raw { place, body, swallowed }];
        }
        let Joined { tree, strangers } = Joined::of(rows);
        let tree = tree.map(|tree| Raw { place, body: Body::Value(tree), swallowed });
        let broken = |(place, reason)| Raw { place, body: Body::Broken(reason), swallowed: 0 };
        tree.into_iter().chain(strangers.into_iter().map(broken)).collect()
    }
}

/// The fields of a record, or a body that says why there are none.
fn row(body: Body<'_>) -> Result<Row, Body<'static>> {
    match body {
        Body::Json(json) => object(json).map_err(|reject| Body::Broken(reject.detail)),
        Body::Value(row) => Ok(row),
        Body::Text(_) => Err(Body::Broken("expected a message with fields, got a text".into())),
        Body::Broken(reason) => Err(Body::Broken(reason)),
        Body::CutOff(reason) => Err(Body::CutOff(reason)),
    }
}

/// Whether a row is not a reply.
fn is_question(row: &Row) -> bool {
    id(row, PARENT).is_none()
}

/// The id in one of a message's fields.
fn id(row: &Row, name: &str) -> Option<String> {
    match row.get(name)? {
        // In a table of texts, a missing id is an empty text.
        Value::String(id) => (!id.is_empty()).then(|| id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// The tree that begins with the first row, and the rows that are not in it, each with the reason.
struct Joined {
    tree: Option<Row>,
    strangers: Vec<(Place, String)>,
}

impl Joined {
    fn of(rows: Vec<Placed>) -> Joined {
        let mut strangers = Vec::new();
        // The index in `messages` and the depth of each message in the tree.
        let mut known: HashMap<String, (usize, usize)> = HashMap::new();
        let mut messages: Vec<Row> = Vec::new();
        let mut parents = Vec::new();
        for Placed { place, row } in rows {
            let above = id(&row, PARENT).map(|parent| (known.get(&parent).copied(), parent));
            let (parent, depth) = match above {
                None => (0, 0),
                Some((Some((parent, depth)), _)) if depth < DEEPEST => (parent, depth + 1),
                Some((Some(_), _)) => {
                    let reason =
                        format!("it is more than {DEEPEST} messages below its tree's question");
                    strangers.push((place, reason));
                    continue;
                }
                Some((None, parent)) => {
                    let reason = format!(
                        "its parent `{parent}` is not among the rows since the last question\n\
                         hint: the rows of a tree must be adjacent, each message after its parent"
                    );
                    strangers.push((place, reason));
                    continue;
                }
            };
            if let Some(id) = id(&row, ID) {
                known.insert(id, (messages.len(), depth));
            }
            messages.push(row);
            parents.push(parent);
        }
        // Backwards, because all replies to a message come after it.
        let mut replies: Vec<Vec<Value>> = messages.iter().map(|_| Vec::new()).collect();
        let mut tree = None;
        while let (Some(mut message), Some(mut mine)) = (messages.pop(), replies.pop()) {
            mine.reverse();
            message.insert(REPLIES.to_owned(), Value::Array(mine));
            match parents.pop() {
                Some(parent) if !messages.is_empty() => {
                    replies[parent].push(Value::Object(message))
                }
                _ => tree = Some(Map::from_iter([(PROMPT.to_owned(), Value::Object(message))])),
            }
        }
        Joined { tree, strangers }
    }
}
