//! A conversation as the chat template sees it, and what its author says about training on it.

use serde::Serialize;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sets the scene.
    System,
    /// Sets the scene too: OpenAI's newer name for it, which templates see as it is.
    Developer,
    /// Asks.
    User,
    /// Answers: what is trained.
    Assistant,
    /// What a tool gave back.
    Tool,
}

impl Role {
    /// As chat templates spell it.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// The inverse of [`name`](Self::name).
    pub fn parse(name: &str) -> Option<Role> {
        let all = [Role::System, Role::Developer, Role::User, Role::Assistant, Role::Tool];
        all.into_iter().find(|role| role.name() == name)
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// All fields that the template sees, `role` and `content` among them, in the record's order.
    pub fields: Map<String, Value>,
    /// Whether to train on it, where the record says so.
    pub train: Option<bool>,
    /// Its weight in the loss, where the record says so.
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

    /// The text, empty where there is none.
    pub fn content(&self) -> &str {
        let content = self.fields.get("content");
        content.and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether it says nothing and calls nothing.
    pub fn is_blank(&self) -> bool {
        let has_more = ["tool_calls", "reasoning_content", "thinking", "reasoning"];
        let filled = |name: &&str| self.fields.get(*name).is_some_and(|value| !value.is_null());
        self.content().trim().is_empty() && !has_more.iter().any(filled)
    }
}

/// Messages, and what else a template may be given with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// In order.
    pub messages: Vec<Message>,
    /// Tools as JSON schemas, where the record has them.
    pub tools: Option<Value>,
    /// The record's own template arguments.
    pub kwargs: Map<String, Value>,
}

impl Conversation {
    /// A conversation of plain messages.
    pub fn of(messages: impl IntoIterator<Item = Message>) -> Conversation {
        Conversation { messages: messages.into_iter().collect(), ..Conversation::default() }
    }

    /// Puts a system message first, unless there is one.
    pub fn with_system(mut self, system: Option<&str>) -> Conversation {
        let sets_scene = |m: &Message| matches!(m.role, Role::System | Role::Developer);
        let has_system = self.messages.iter().any(sets_scene);
        if let (Some(system), false) = (system, has_system) {
            self.messages.insert(0, Message::new(Role::System, system));
        }
        self
    }

    /// Of what is said, not of how it is rendered or weighted.
    pub fn hash(&self) -> u64 {
        let messages: Vec<&Map<String, Value>> = self.messages.iter().map(|m| &m.fields).collect();
        let text = serde_json::to_vec(&(messages, &self.tools, &self.kwargs));
        xxh3_64(&text.expect("JSON values serialize"))
    }
}
