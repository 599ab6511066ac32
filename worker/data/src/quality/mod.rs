//! The features of a record that the quality checks need, computed where its text is available.
//!
//! ```text
//! all texts                          --words-->  signature   near duplicates, contamination
//! the last answer, all before it     --words-->  exchange    contradictions, contamination
//! the last answer                    -------->   flaws       loops, incomplete answers
//! ```
//!
//! Features describe the content before the chat template, because what all conversations of a run
//! share says nothing about any two of them. For the same reason, the signature leaves out system
//! messages. Nothing is decided here: decisions need the whole data set, and are made by the
//! coordinator.

mod incomplete;
mod loops;
mod signature;
mod words;

use std::borrow::Cow;

use proto::prepared::{Exchange, Features, Flaws};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::conversation::{Conversation, Message, Role};
use super::record::Record;
use incomplete::is_incomplete;
use loops::is_looping;
use signature::{element, mix, signature};
use words::{Word, words};

/// The features of a record whose content has the hash `content`.
pub fn features(record: &Record, content: u64) -> Features {
    match record {
        Record::Conversation(conversation) => {
            of_turns(&turns(conversation), setting(conversation), content)
        }
        Record::Completion { prompt, completion } => {
            let turns =
                [(Role::User, prompt.as_str().into()), (Role::Assistant, completion.into())];
            of_turns(&turns, 0, content)
        }
        Record::Text(text) => {
            let mut said = Vec::new();
            words(text, &mut said);
            let signature = signature(&said, content);
            Features { content, exchange: None, flaws: Flaws::default(), signature }
        }
    }
}

/// A speaker, and the text.
type Turn<'a> = (Role, Cow<'a, str>);

fn of_turns(turns: &[Turn<'_>], setting: u64, content: u64) -> Features {
    let answer = turns.iter().rposition(|(role, _)| *role == Role::Assistant);
    let mut said = Vec::new();
    let (mut exchange, mut flaws) = (None, Flaws::default());
    let (mut instruction, mut asks) = (0, false);
    for (index, (role, text)) in turns.iter().enumerate() {
        let start = said.len();
        words(text, &mut said);
        let words = &said[start..];
        if answer == Some(index) {
            let answer = hash(words, text);
            exchange = asks.then_some(Exchange { setting, instruction, answer });
            flaws = Flaws { looping: is_looping(words), incomplete: is_incomplete(text) };
        }
        asks |= !text.trim().is_empty();
        instruction = mix(instruction ^ hash(words, text)).wrapping_add(*role as u64);
    }
    Features { content, exchange, flaws, signature: signature(&said, content) }
}

/// All turns except for system messages.
fn turns(conversation: &Conversation) -> Vec<Turn<'_>> {
    let messages = conversation.messages.iter().filter(|message| message.role != Role::System);
    messages.map(|message| (message.role, text(message))).collect()
}

/// A message's content and its tool calls.
fn text(message: &Message) -> Cow<'_, str> {
    let content = match message.fields.get("content") {
        None | Some(Value::Null) => "".into(),
        Some(Value::String(text)) => Cow::from(text),
        Some(parts) => parts.to_string().into(),
    };
    match message.fields.get("tool_calls") {
        None | Some(Value::Null) => content,
        Some(calls) => format!("{content}\n{calls}").into(),
    }
}

/// The hash of system messages and tools; 0 if there are none.
fn setting(conversation: &Conversation) -> u64 {
    let messages = conversation.messages.iter();
    let system = messages.filter(|message| message.role == Role::System).map(text);
    let system = system.filter(|text| !text.trim().is_empty()).map(|text| xxh3_64(text.as_bytes()));
    let tools = conversation.tools.iter().map(|tools| xxh3_64(tools.to_string().as_bytes()));
    system.chain(tools).fold(0, |setting, part| mix(setting ^ part))
}

/// The hash of a text's words, or of the text if it has no words.
fn hash(words: &[Word], text: &str) -> u64 {
    match words {
        [] => xxh3_64(text.trim().as_bytes()),
        words => element(words),
    }
}

#[cfg(test)]
mod tests;
