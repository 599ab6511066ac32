//! A conversation as the chat template sees it, with its author's choices about training on it.

use serde::Serialize;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

/// The speaker of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructs the model for the whole conversation.
    System,
    /// Instructs too: OpenAI's newer name for the system role, which templates see unchanged.
    Developer,
    /// Asks the questions.
    User,
    /// Gives the answers, which are trained.
    Assistant,
    /// Returns the result of a tool.
    Tool,
}

impl Role {
    /// The role's name in chat templates.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// The role with this name; the inverse of [`name`](Self::name).
    pub fn parse(name: &str) -> Option<Role> {
        let all = [Role::System, Role::Developer, Role::User, Role::Assistant, Role::Tool];
        all.into_iter().find(|role| role.name() == name)
    }
}

/// A message with the record's choices about training on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The speaker.
    pub role: Role,
    /// All fields that the template sees, including `role` and `content`, in the record's order.
    pub fields: Map<String, Value>,
    /// Whether to train on the message, if the record says so.
    pub train: Option<bool>,
    /// The message's weight in the loss, if the record gives one.
    pub weight: Option<f32>,
}

impl Message {
    /// A message without further fields.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        let fields = [
            ("role".to_owned(), Value::from(role.name())),
            ("content".to_owned(), Value::from(content.into())),
        ];
        Message { role, fields: Map::from_iter(fields), train: None, weight: None }
    }

    /// The message's text, empty if there is none.
    pub fn content(&self) -> &str {
        let content = self.fields.get("content");
        content.and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the message has no text, no calls and no thoughts.
    pub fn is_blank(&self) -> bool {
        let has_more = ["tool_calls", "reasoning_content", "thinking", "reasoning"];
        let filled = |name: &&str| self.fields.get(*name).is_some_and(|value| !value.is_null());
        self.content().trim().is_empty() && !has_more.iter().any(filled)
    }
}

/// The messages and the other inputs of a chat template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// Tools as JSON schemas, if the record has any.
    pub tools: Option<Value>,
    /// The record's own variables for the template.
    pub kwargs: Map<String, Value>,
}

impl Conversation {
    /// A conversation of plain messages.
    pub fn of(messages: impl IntoIterator<Item = Message>) -> Conversation {
        Conversation { messages: messages.into_iter().collect(), ..Conversation::default() }
    }

    /// Puts a system message first, unless the conversation has one.
    pub fn with_system(mut self, system: Option<&str>) -> Conversation {
        let sets_scene = |m: &Message| matches!(m.role, Role::System | Role::Developer);
        let has_system = self.messages.iter().any(sets_scene);
        if let (Some(system), false) = (system, has_system) {
            self.messages.insert(0, Message::new(Role::System, system));
        }
        self
    }

    /// A hash of what is said, whatever its rendering and its weights.
    pub fn hash(&self) -> u64 {
        let messages: Vec<&Map<String, Value>> = self.messages.iter().map(|m| &m.fields).collect();
        let text = serde_json::to_vec(&(messages, &self.tools, &self.kwargs));
        xxh3_64(&text.expect("JSON values serialize"))
    }
}
