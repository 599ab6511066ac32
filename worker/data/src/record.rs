//! From one record's JSON to a [`Record`]: the formats. One bad record is an error of that record
//! only.

use std::collections::BTreeMap;

use proto::receipt::Reason;
use serde_json::{Map, Value};

use super::container::{Body, json_error};
use super::conversation::{Conversation, Message, Role};
use super::options::{Format, SourceOptions};

/// Why a record is not trained on: a class for counting, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Reject {
    /// The class.
    pub reason: Reason,
    /// What is wrong, without the place.
    pub detail: String,
    /// Tokens that are lost with it, where it was tokenized.
    pub tokens_lost: u64,
}

impl Reject {
    /// A reject of a record that was not tokenized.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Reject {
        Reject { reason, detail: detail.into(), tokens_lost: 0 }
    }
}

fn malformed(detail: impl Into<String>) -> Reject {
    Reject::new(Reason::Malformed, detail)
}

/// A record's meaning.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Rendered by the chat template.
    Conversation(Conversation),
    /// Only the completion is trained; no template.
    Completion {
        /// What is given.
        prompt: String,
        /// What is to be said.
        completion: String,
    },
    /// All of it is trained; no template.
    Text(String),
}

/// How to read a source's records: its options with the format settled.
#[derive(Clone, Debug)]
pub struct Shape {
    format: Format,
    fields: BTreeMap<String, String>,
    system: Option<String>,
}

impl Shape {
    /// The source's options, with the format that was detected.
    pub fn new(source: &SourceOptions, format: Format) -> Shape {
        Shape { format, fields: source.fields.clone(), system: source.system.clone() }
    }

    /// Whether its records need a chat template.
    pub fn needs_template(&self) -> bool {
        match self.format {
            Format::Alpaca | Format::Messages => true,
            Format::Auto | Format::Completion | Format::Text => false,
        }
    }

    /// Reads one record: a line, an array's element, a table's row.
    ///
    /// # Errors
    /// What the receipt counts: broken JSON, missing fields, unknown roles, empty questions or
    /// answers.
    pub fn parse(&self, body: Body<'_>) -> Result<Record, Reject> {
        let record = match body {
            Body::Json(json) => object(json)?,
            Body::Value(row) => row,
            Body::Text(text) => return Ok(Record::Text(utf8(text)?.to_owned())),
            Body::Broken(reason) => return Err(malformed(reason)),
        };
        let fields = Fields { names: &self.fields, record };
        match self.format {
            Format::Alpaca => self.alpaca(fields),
            Format::Messages => self.messages(fields),
            Format::Completion => self.completion(fields),
            Format::Text => text(fields),
            Format::Auto => Err(malformed("its format was not settled")),
        }
    }

    fn alpaca(&self, mut fields: Fields<'_>) -> Result<Record, Reject> {
        let instruction = fields.text("instruction")?;
        let input = fields.optional_text("input")?.unwrap_or_default();
        let output = fields.text("output")?;
        if instruction.trim().is_empty() && input.trim().is_empty() {
            return Err(Reject::new(Reason::Empty, "`instruction` and `input` are empty"));
        }
        if output.trim().is_empty() {
            return Err(Reject::new(Reason::Empty, "`output` is empty"));
        }
        let system = fields.optional_text("system")?.filter(|text| !text.is_empty());
        let mut messages: Vec<Message> = Vec::new();
        messages.extend(system.map(|text| Message::new(Role::System, text)));
        for (question, answer) in fields.history()? {
            messages.push(Message::new(Role::User, question));
            messages.push(Message::new(Role::Assistant, answer));
        }
        messages.push(question(instruction, input));
        messages.push(Message::new(Role::Assistant, output));
        Ok(self.conversation(messages, fields))
    }

    fn messages(&self, mut fields: Fields<'_>) -> Result<Record, Reject> {
        let messages = messages(fields.take("messages"), "messages")?;
        if messages.is_empty() {
            return Err(Reject::new(Reason::Empty, "`messages` is empty"));
        }
        let mut answers = messages.iter().filter(|m| m.role == Role::Assistant).peekable();
        if answers.peek().is_none() {
            let detail = "no message of the role `assistant`: nothing would be trained";
            return Err(Reject::new(Reason::Untrained, detail));
        }
        if answers.all(Message::is_blank) {
            return Err(Reject::new(Reason::Empty, "every answer is empty"));
        }
        Ok(self.conversation(messages, fields))
    }

    fn completion(&self, mut fields: Fields<'_>) -> Result<Record, Reject> {
        if fields.is_list("prompt") {
            let mut all = messages(fields.take("prompt"), "prompt")?;
            for message in &mut all {
                message.train = Some(false);
                message.weight = None;
            }
            all.extend(messages(fields.take("completion"), "completion")?);
            return Ok(self.conversation(all, fields));
        }
        let (prompt, completion) = (fields.text("prompt")?, fields.text("completion")?);
        if completion.trim().is_empty() {
            return Err(Reject::new(Reason::Empty, "`completion` is empty"));
        }
        Ok(Record::Completion { prompt, completion })
    }

    fn conversation(&self, messages: Vec<Message>, mut fields: Fields<'_>) -> Record {
        let tools = match fields.take("tools") {
            Some(Value::String(text)) => serde_json::from_str(&text).ok(),
            tools => tools,
        };
        let kwargs = match fields.take("chat_template_kwargs") {
            Some(Value::Object(kwargs)) => kwargs,
            _ => Map::new(),
        };
        let is_list = |tools: &Value| tools.as_array().is_some_and(|list| !list.is_empty());
        let conversation = Conversation { messages, tools: tools.filter(is_list), kwargs };
        Record::Conversation(conversation.with_system(self.system.as_deref()))
    }
}

fn object(json: &[u8]) -> Result<Map<String, Value>, Reject> {
    match serde_json::from_slice(json).map_err(|e| malformed(json_error(&e, 1)))? {
        Value::Object(record) => Ok(record),
        other => Err(malformed(format!("a record must be an object, got {}", kind(&other)))),
    }
}

fn utf8(text: &[u8]) -> Result<&str, Reject> {
    std::str::from_utf8(text).map_err(|error| {
        let at = error.valid_up_to();
        malformed(format!("not UTF-8: byte {at} of the text"))
    })
}

/// The user's message of an Alpaca record: `content` for every template, the parts for Alpaca's
/// own.
fn question(instruction: String, input: String) -> Message {
    if input.is_empty() {
        return Message::new(Role::User, instruction);
    }
    let joined = [instruction.as_str(), input.as_str()];
    let joined: Vec<&str> = joined.into_iter().filter(|part| !part.is_empty()).collect();
    let mut message = Message::new(Role::User, joined.join("\n"));
    message.fields.insert("instruction".into(), Value::from(instruction));
    message.fields.insert("input".into(), Value::from(input));
    message
}

fn text(mut fields: Fields<'_>) -> Result<Record, Reject> {
    let text = fields.text("text")?;
    if text.trim().is_empty() {
        return Err(Reject::new(Reason::Empty, "`text` is empty"));
    }
    Ok(Record::Text(text))
}

fn messages(value: Option<Value>, name: &str) -> Result<Vec<Message>, Reject> {
    let Some(value) = value else {
        return Err(malformed(format!("no field `{name}`")));
    };
    let Value::Array(list) = value else {
        let found = kind(&value);
        return Err(malformed(format!("`{name}` must be a list of messages, got {found}")));
    };
    let numbered = list.into_iter().enumerate();
    numbered.map(|(i, value)| message(value, &format!("{name}[{i}]"))).collect()
}

fn message(value: Value, at: &str) -> Result<Message, Reject> {
    let Value::Object(mut fields) = value else {
        let found = kind(&value);
        return Err(malformed(format!("{at} must be an object, got {found}")));
    };
    const ROLES: &str = "role must be `system`, `user`, `assistant` or `tool`";
    let role = match fields.get("role") {
        Some(Value::String(name)) => {
            let unknown = || malformed(format!("{ROLES}, got `{name}`"));
            Role::parse(name).ok_or_else(unknown)?
        }
        Some(other) => return Err(malformed(format!("{ROLES}, got {}", kind(other)))),
        None if fields.contains_key("from") => {
            return Err(malformed(format!("{at} has `from` and no `role`, as ShareGPT has")));
        }
        None => return Err(malformed(format!("{at} has no `role`"))),
    };
    let train = match fields.shift_remove("train") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(train)) => Some(train),
        Some(other) => {
            let found = kind(&other);
            return Err(malformed(format!("{at}.train must be true or false, got {found}")));
        }
    };
    let weight = match fields.shift_remove("weight") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let weight = value.as_f64().map(|w| w as f32);
            let valid = weight.filter(|w| w.is_finite() && *w >= 0.0);
            let bad = || malformed(format!("{at}.weight must be a number from 0 up, got {value}"));
            Some(valid.ok_or_else(bad)?)
        }
    };
    settle_content(&mut fields, at)?;
    Ok(Message { role, fields, train, weight })
}

/// Content must be text; a list of text parts is joined, since plain templates cannot read lists.
fn settle_content(fields: &mut Map<String, Value>, at: &str) -> Result<(), Reject> {
    let has_calls = fields.get("tool_calls").is_some_and(|calls| !calls.is_null());
    match fields.get("content") {
        Some(Value::String(_)) => Ok(()),
        Some(Value::Array(parts)) => {
            let text = |part: &Value| Some(part.get("text")?.as_str()?.to_owned());
            let joined: Option<String> = parts.iter().map(text).collect();
            let Some(joined) = joined else {
                return Err(malformed(format!("{at}.content has a part that is no text")));
            };
            fields.insert("content".into(), Value::from(joined));
            Ok(())
        }
        None | Some(Value::Null) if has_calls => Ok(()),
        None => Err(malformed(format!("{at} has no `content`"))),
        Some(other) => {
            let found = kind(other);
            Err(malformed(format!("{at}.content must be a text, got {found}")))
        }
    }
}

/// A record's fields, by the format's names for them.
struct Fields<'a> {
    names: &'a BTreeMap<String, String>,
    record: Map<String, Value>,
}

impl Fields<'_> {
    fn own<'n>(&'n self, name: &'n str) -> &'n str {
        self.names.get(name).map_or(name, String::as_str)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let own = self.names.get(name).map_or(name, String::as_str);
        self.record.swap_remove(own)
    }

    fn is_list(&self, name: &str) -> bool {
        self.record.get(self.own(name)).is_some_and(Value::is_array)
    }

    fn text(&mut self, name: &str) -> Result<String, Reject> {
        let missing = |own: &str| malformed(format!("no field `{own}`"));
        let text = self.optional_text(name)?;
        text.ok_or_else(|| missing(self.own(name)))
    }

    fn optional_text(&mut self, name: &str) -> Result<Option<String>, Reject> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                let (own, found) = (self.own(name), kind(&other));
                Err(malformed(format!("`{own}` must be a text, got {found}")))
            }
        }
    }

    fn history(&mut self) -> Result<Vec<(String, String)>, Reject> {
        let bad = || malformed("`history` must be a list of [question, answer]");
        match self.take("history") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(history) => serde_json::from_value(history).map_err(|_| bad()),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
