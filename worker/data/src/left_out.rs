//! Finds what a chat template leaves out of a record: thoughts of earlier answers, tools, whole
//! messages. Nothing here changes a sample; the finding is for the user. A text that stands
//! anywhere in the sample counts as present, even where it comes from another part that says the
//! same.

use memchr::memmem;
use serde_json::Value;

use super::conversation::{Conversation, Message};

/// The marks at the beginning and the end of thoughts within a message's content.
const THOUGHTS: (&str, &str) = ("<think>", "</think>");

/// A text in a record that its samples should contain.
struct Said<'a> {
    part: Part,
    text: &'a str,
}

/// The part of the record that a text belongs to; messages count from 1.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Content(usize),
    Thoughts(usize),
    Tool,
}

impl Said<'_> {
    /// The part's name in a finding.
    fn name(&self) -> String {
        match self.part {
            Part::Content(message) => format!("the content of message {message}"),
            Part::Thoughts(message) => format!("the thoughts of message {message}"),
            Part::Tool => format!("the tool `{}`", self.text),
        }
    }
}

/// Describes what is in none of the texts of the conversation's samples, with a hint. None if
/// nothing is missing.
pub(super) fn left_out(conversation: &Conversation, texts: &[String]) -> Option<String> {
    let mut cursors = vec![0; texts.len()];
    let mut missing = Vec::new();
    for (message, number) in conversation.messages.iter().zip(1..) {
        let said = of_message(message, number);
        missing.extend(said.into_iter().filter(|said| !is_there(said.text, texts, &mut cursors)));
    }
    let tools = conversation.tools.as_ref().and_then(Value::as_array).into_iter().flatten();
    missing
        .extend(tools.filter_map(of_tool).filter(|said| !is_there(said.text, texts, &mut cursors)));
    let first = missing.first()?;
    let bytes: usize = missing.iter().map(|said| said.text.len()).sum();
    let more = match missing.len() {
        1 => String::new(),
        all => format!(", and {} more", all - 1),
    };
    let hint =
        if missing.iter().all(|said| matches!(said.part, Part::Thoughts(_))) && texts.len() == 1 {
            "`data.turns: each` makes a sample of every answer with its thoughts, or set \
         data.chat_template to one that shows them"
        } else {
            "set data.chat_template to one that shows it"
        };
    let name = first.name();
    Some(format!("the chat template leaves out {name}{more}: {bytes} bytes\nhint: {hint}"))
}

fn of_message(message: &Message, number: usize) -> Vec<Said<'_>> {
    let mut all = Vec::new();
    let (content, thoughts) = (Part::Content(number), Part::Thoughts(number));
    let mut add = |part, text| all.push(Said { part, text });
    let field = |name: &str| message.fields.get(name).and_then(Value::as_str);
    for name in super::template::REASONING {
        if let Some(text) = field(name) {
            add(thoughts, text);
        }
    }
    // A template may combine the parts of such a question by itself.
    match (field("instruction"), field("input")) {
        (Some(instruction), Some(input)) => {
            add(content, instruction);
            add(content, input);
        }
        _ => match parted(message.content()) {
            Some((before, within, after)) => {
                add(content, before);
                add(thoughts, within);
                add(content, after);
            }
            None => add(content, message.content()),
        },
    }
    all
}

/// Splits a content with thoughts into the texts before, inside and after them.
fn parted(content: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = content.split_once(THOUGHTS.0)?;
    let (thoughts, after) = rest.split_once(THOUGHTS.1)?;
    Some((before, thoughts, after))
}

fn of_tool(tool: &Value) -> Option<Said<'_>> {
    let text = tool.get("function").unwrap_or(tool).get("name")?.as_str()?;
    Some(Said { part: Part::Tool, text })
}

/// Whether one of the texts contains `said`, apart from white space around it. Texts mostly occur
/// in the order in which the record has them, so `cursors` keeps where the previous one was found.
fn is_there(said: &str, texts: &[String], cursors: &mut [usize]) -> bool {
    let said = said.trim();
    if said.is_empty() {
        return true;
    }
    let finder = memmem::Finder::new(said);
    for (text, cursor) in texts.iter().zip(cursors) {
        let text = text.as_bytes();
        let found = finder.find(&text[*cursor..]).map(|at| *cursor + at);
        if let Some(at) = found.or_else(|| finder.find(text)) {
            *cursor = at;
            return true;
        }
    }
    // It may be written differently: with other white space, or as JSON.
    let json = Value::from(said).to_string();
    let quoted = &json[1..json.len() - 1];
    let squashed = squash(said);
    texts.iter().any(|text| text.contains(quoted) || squash(text).contains(&squashed))
}

fn squash(text: &str) -> String {
    text.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;

    fn found(messages: &[(&str, &str)], tools: Option<Value>, text: &str) -> Option<String> {
        let message = |(name, content): &(&str, &str)| {
            let mut message = Message::new(Role::Assistant, "A");
            message.fields.insert((*name).to_owned(), Value::from(*content));
            message
        };
        let conversation = Conversation { tools, ..Conversation::of(messages.iter().map(message)) };
        let found = left_out(&conversation, &[text.to_owned()])?;
        Some(found.lines().next().unwrap_or_default().to_owned())
    }

    #[test]
    fn missing_text_is_named_by_the_part_it_belongs_to() {
        let said = |what: &str| Some(format!("the chat template leaves out {what} bytes"));
        assert_eq!(found(&[("content", " a\n")], None, "<a>"), None);
        assert_eq!(found(&[("content", "a b")], None, "a\n  b"), None, "other white space");
        assert_eq!(found(&[("content", "a\"b")], None, r#"a\"b"#), None, "as JSON");
        assert_eq!(
            found(&[("content", "a"), ("content", "b")], None, "a"),
            said("the content of message 2: 1")
        );
        let thoughts = [("thinking", "Five twice.")];
        assert_eq!(found(&thoughts, None, "A"), said("the thoughts of message 1: 11"));
        let within = [("content", "<think>\nFive.\n</think>\n\n10")];
        assert_eq!(found(&within, None, "10"), said("the thoughts of message 1: 7"));
        assert_eq!(found(&within, None, "Five. 10"), None);
        let tools = serde_json::json!([{"function": {"name": "f1"}}, {"name": "f2"}]);
        assert_eq!(
            found(&[("content", "a")], Some(tools.clone()), "a f2"),
            said("the tool `f1`: 2")
        );
        let both = said("the tool `f1`, and 1 more: 4");
        assert_eq!(found(&[("content", "a")], Some(tools), "a"), both);
    }
}
