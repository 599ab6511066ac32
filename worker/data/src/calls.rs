//! What a chat template does with tool calls, found out by rendering one.
//!
//! Many templates know none, and render an answer that is nothing but a call as an empty answer;
//! some take a call's arguments as a text only. A sample must be neither lost nor refused for it
//! without a word.

use proto::receipt::Reason;
use serde_json::{Value, json};

use super::conversation::{Conversation, Message, Role};
use super::json as exact;
use super::record::Reject;
use super::template::Template;

/// A name that no template holds.
const NAME: &str = "probe_of_calls";

/// How a template takes tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// As objects, or it says itself what it does not take.
    Objects,
    /// With their arguments as a JSON text.
    Texts,
    /// It leaves them out.
    LeftOut,
}

impl Calls {
    /// Renders a call.
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

    /// The conversation as the template takes it.
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
                     hint: set data.chat_template to one that knows them",
                    i + 1
                );
                Err(Reject::new(Reason::Malformed, detail))
            }
        }
    }
}

fn probe(arguments: Value) -> Conversation {
    let function = json!({"name": NAME, "arguments": arguments});
    // Nine letters and digits: some templates insist.
    let call = json!({"id": "callprobe", "type": "function", "function": function});
    let mut answer = Message::new(Role::Assistant, "");
    answer.fields.insert("tool_calls".into(), json!([call]));
    Conversation::of([Message::new(Role::User, "a"), answer])
}

/// Every call's arguments as a JSON text.
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
