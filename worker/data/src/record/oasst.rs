//! Reads a tree of messages, as OpenAssistant has them. Of all its conversations, only the one that
//! follows the best-ranked reply at each step is read.

use std::collections::BTreeSet;

use proto::receipt::Reason;
use serde_json::{Map, Value};

use super::fields::{Fields, says_something};
use super::message::{Dialect, messages};
use super::{Reject, malformed};
use crate::conversation::{Message, Role};

/// The key of a tree's question, which is a message of the same shape as its replies.
pub(crate) const PROMPT: &str = "prompt";
/// The key of a message's replies.
pub(crate) const REPLIES: &str = "replies";

/// The fields that determine whether, and where, a message is read.
const READ: [&str; 9] = [
    "role",
    "text",
    REPLIES,
    "rank",
    "deleted",
    "review_result",
    "message_id",
    "parent_id",
    "message_tree_id",
];

/// The conversation of a tree, the fields from which nothing is read, and a note on the messages
/// that are not used.
pub(super) struct Path {
    pub(super) messages: Vec<Message>,
    pub(super) unread: Vec<String>,
    pub(super) note: Option<(Reason, String)>,
}

impl Path {
    /// # Errors
    /// A record that is not a tree, or that has no answer.
    pub(super) fn of(fields: &mut Fields<'_>, dialect: &Dialect<'_>) -> Result<Path, Reject> {
        let question = fields.object(PROMPT)?.ok_or_else(|| fields.missing(PROMPT))?;
        // These repeat what the question says.
        for name in ["message_tree_id", "tree_state"] {
            fields.forget(name);
        }
        let mut all = 0;
        let mut unread = BTreeSet::new();
        let mut path = Vec::new();
        let mut next = Some(question);
        while let Some(mut message) = next.take() {
            all += 1;
            unread.extend(unread_in(&message));
            let Value::Array(replies) = message.remove(REPLIES).unwrap_or(Value::Array(Vec::new()))
            else {
                return Err(malformed(format!("`{REPLIES}` must be a list of messages")));
            };
            let is_taken = !is_withdrawn(&message);
            path.push(Value::Object(said(message)));
            if !is_taken {
                // Nothing is read after a withdrawn message.
                path.pop();
                all += replies.iter().map(size).sum::<usize>();
                break;
            }
            let best = best(&replies);
            for (i, reply) in replies.into_iter().enumerate() {
                match reply {
                    Value::Object(reply) if Some(i) == best => next = Some(reply),
                    other => all += size(&other),
                }
            }
        }
        let mut messages = messages(path, PROMPT, dialect)?;
        while messages.last().is_some_and(|message| message.role != Role::Assistant) {
            messages.pop();
        }
        if messages.is_empty() {
            let detail = "no reply of the role `assistant`: nothing would be trained";
            return Err(Reject::new(Reason::Untrained, detail));
        }
        let others = all - messages.len();
        let note = (others > 0).then(|| {
            let found = format!(
                "{} of the tree's {all} messages are used: after each message the best-ranked reply",
                messages.len()
            );
            (Reason::OtherReplies, found)
        });
        Ok(Path { messages, unread: unread.into_iter().collect(), note })
    }
}

/// The index of the best reply: the one with the lowest rank, or the first if none has a rank.
fn best(replies: &[Value]) -> Option<usize> {
    let read = replies.iter().enumerate().filter_map(|(i, reply)| {
        let reply = reply.as_object().filter(|reply| !is_withdrawn(reply))?;
        let rank = reply.get("rank");
        let number = rank.and_then(|rank| rank.as_f64().or_else(|| rank.as_str()?.parse().ok()));
        Some((number.unwrap_or(f64::INFINITY), i))
    });
    read.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, i)| i)
}

/// Whether the message's author or its reviewers withdrew it.
fn is_withdrawn(message: &Map<String, Value>) -> bool {
    let says = |name: &str, wanted: bool| {
        // In a table of texts, these are words.
        let value = message.get(name);
        value.and_then(Value::as_bool) == Some(wanted)
            || value
                .and_then(Value::as_str)
                .is_some_and(|v| v.eq_ignore_ascii_case(&wanted.to_string()))
    };
    says("deleted", true) || says("review_result", false)
}

/// The number of messages in the tree that begins here.
fn size(message: &Value) -> usize {
    let replies = message.get(REPLIES).and_then(Value::as_array);
    1 + replies.into_iter().flatten().map(size).sum::<usize>()
}

fn said(message: Map<String, Value>) -> Map<String, Value> {
    message.into_iter().filter(|(name, _)| name == "role" || name == "text").collect()
}

fn unread_in(message: &Map<String, Value>) -> impl Iterator<Item = String> {
    let unread = message
        .iter()
        .filter(|(name, value)| !READ.contains(&name.as_str()) && says_something(value));
    unread.map(|(name, _)| format!("{PROMPT}.{name}"))
}
