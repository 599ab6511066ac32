//! How a chat template treats tool calls, found out by rendering one.
//!
//! Many templates do not support tool calls and render an answer that consists of a call as an
//! empty answer; some accept a call's arguments only as text. In neither case may a sample be lost
//! or refused silently.

use proto::receipt::Reason;
use serde_json::{Value, json};

use super::conversation::{Conversation, Message, Role};
use super::json as exact;
use super::record::Reject;
use super::template::Template;

/// A name that occurs in no template.
const NAME: &str = "probe_of_calls";

/// The form in which a template accepts tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// As objects. This is also chosen if neither form works: the template then rejects the calls.
    Objects,
    /// With their arguments as JSON text.
    Texts,
    /// Not at all: the template leaves them out.
    LeftOut,
}

impl Calls {
    /// Finds the form by rendering a call.
    pub(super) fn of(template: &Template) -> Calls {
        let object = probe(json!({"a": 1}));
        let shows = |conversation: &Conversation| {
            let rendered = template.render(conversation, conversation.messages.len(), false);
            rendered.map(|rendered| rendered.text.contains(NAME))
        };
        match shows(&object) {
            Ok(true) => Calls::Objects,
            Ok(false) => Calls::LeftOut,
            Err(_) => match shows(&with_texts(object)) {
                Ok(true) => Calls::Texts,
                Ok(false) | Err(_) => Calls::Objects,
            },
        }
    }

    /// Brings the conversation's calls into the form that the template accepts.
    ///
    /// # Errors
    /// A conversation whose calls would be left out.
    pub(super) fn fit(self, conversation: Conversation) -> Result<Conversation, Reject> {
        let calls = |message: &Message| {
            message
                .fields
                .get("tool_calls")
                .and_then(Value::as_array)
                .is_some_and(|c| !c.is_empty())
        };
        match (self, conversation.messages.iter().position(calls)) {
            (Calls::Objects, _) | (_, None) => Ok(conversation),
            (Calls::Texts, Some(_)) => Ok(with_texts(conversation)),
            (Calls::LeftOut, Some(i)) => {
                let detail = format!(
                    "the chat template leaves out the tool calls of message {}\n\
                     hint: set data.chat_template to one that supports them",
                    i + 1
                );
                Err(Reject::new(Reason::Malformed, detail))
            }
        }
    }
}

fn probe(arguments: Value) -> Conversation {
    let function = json!({"name": NAME, "arguments": arguments});
    // Nine letters and digits, because some templates insist on that.
    let call = json!({"id": "callprobe", "type": "function", "function": function});
    let mut answer = Message::new(Role::Assistant, "");
    answer.fields.insert("tool_calls".into(), json!([call]));
    Conversation::of([Message::new(Role::User, "a"), answer])
}

/// Replaces every call's arguments by JSON text.
fn with_texts(mut conversation: Conversation) -> Conversation {
    for message in &mut conversation.messages {
        let Some(Value::Array(calls)) = message.fields.get_mut("tool_calls") else {
            continue;
        };
        for call in calls {
            let bare = call.get("function").is_none();
            let function = if bare { Some(call) } else { call.get_mut("function") };
            if let Some(arguments) = function.and_then(|f| f.get_mut("arguments"))
                && arguments.is_object()
            {
                *arguments = exact::text(arguments).into();
            }
        }
    }
    conversation
}
