//! Parses a record by its format into a [`Record`]. A bad record is an error of that record only.
//!
//! ```text
//! JSON, or a table's row --Fields--> the format's fields --message--> Messages --> Record
//! ```
//!
//! The format is settled for a whole object ([`detect`](super::detect())); a record that does not
//! fit it is refused with the reason, and never read in another format.

mod fields;
mod media;
mod message;
mod oasst;
mod parts;
mod tools;

pub(super) use oasst::{PROMPT, REPLIES};

use std::collections::BTreeMap;

use proto::receipt::Reason;
use proto::spec::{Format, Media};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::conversation::{Conversation, Message, Role};
use super::json;
use super::options::SourceOptions;
use super::read::{Body, json_error};
use fields::Fields;
pub(crate) use fields::{is_of_columns, lift, says_something};
pub(crate) use message::is_speaker;
use message::{Dialect, messages};

/// Why a record is not trained on: a class for counting, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Reject {
    /// The class of the reason.
    pub reason: Reason,
    /// What is wrong, without the place.
    pub detail: String,
    /// The tokens that are lost with the record, if it was tokenized.
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

/// The meaning of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A conversation, which the chat template renders.
    Conversation(Conversation),
    /// A prompt and its completion, without a template. Only the completion is trained.
    Completion {
        /// The text that is given.
        prompt: String,
        /// The text that follows it.
        completion: String,
    },
    /// A text without a template. All of it is trained.
    Text(String),
}

impl Record {
    /// A hash of the content, whatever its rendering and weights: equal records have equal hashes.
    pub fn hash(&self) -> u64 {
        match self {
            Record::Conversation(conversation) => conversation.hash(),
            Record::Completion { prompt, completion } => {
                let both = serde_json::json!([prompt, completion]).to_string();
                xxh3_64(both.as_bytes())
            }
            Record::Text(text) => xxh3_64(text.as_bytes()),
        }
    }
}

/// A record, and what else was noticed in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The record's meaning.
    pub record: Record,
    /// The names of the fields from which nothing was read.
    pub unread: Vec<String>,
    /// Findings for the record's author: a class and a sentence each.
    pub notes: Vec<(Reason, String)>,
}

/// How to read a source's records: its options, with the format settled.
#[derive(Clone, Debug)]
pub struct Shape {
    format: Format,
    media: Media,
    fields: BTreeMap<String, String>,
    roles: BTreeMap<String, Role>,
    system: Option<String>,
}

impl Shape {
    /// The shape for the source's options and the format that was detected.
    pub fn new(source: &SourceOptions, format: Format) -> Shape {
        Shape {
            format,
            media: Media::default(),
            fields: source.fields.clone(),
            roles: source.roles.clone(),
            system: source.system.clone(),
        }
    }

    /// The same shape, with a choice of what happens to images, videos and sounds.
    #[must_use]
    pub fn with_media(self, media: Media) -> Shape {
        Shape { media, ..self }
    }

    /// Whether a record may be spread over several rows, which must be joined first.
    pub(super) fn is_of_trees(&self) -> bool {
        self.format == Format::Oasst
    }

    /// Whether the records need a chat template.
    pub fn needs_template(&self) -> bool {
        match self.format {
            Format::Alpaca | Format::Messages | Format::Sharegpt | Format::Oasst => true,
            Format::Auto | Format::Completion | Format::Text => false,
        }
    }

    /// Reads one record: a line, an array's element or a table's row.
    ///
    /// A table's column exists in every row, so a null in a row says nothing and is removed,
    /// because templates distinguish a field that is null from one that is missing.
    ///
    /// # Errors
    /// The reasons that the receipt counts: broken JSON, missing fields, unknown roles, empty
    /// questions or answers.
    pub fn parse(&self, body: Body<'_>) -> Result<Parsed, Reject> {
        let plain = |record| Parsed { record, unread: Vec::new(), notes: Vec::new() };
        let record = match body {
            Body::Json(json) => object(json)?,
            Body::Value(row) => without_nulls(row),
            Body::Text(text) => return Ok(plain(Record::Text(utf8(text)?.to_owned()))),
            Body::Broken(reason) => return Err(malformed(reason)),
            Body::CutOff(reason) => return Err(Reject::new(Reason::BrokenEnd, reason)),
        };
        let mut fields = Fields::new(&self.fields, record);
        if self.media != Media::Text {
            media::refuse_beside(&fields)?;
        }
        let (mut unread, mut notes) = (Vec::new(), Vec::new());
        let record = match self.format {
            Format::Alpaca => self.alpaca(&mut fields),
            Format::Messages => self.messages(&mut fields),
            Format::Sharegpt => self.sharegpt(&mut fields),
            Format::Completion => self.completion(&mut fields),
            Format::Oasst => {
                let path = oasst::Path::of(&mut fields, &self.sharegpt_dialect());
                path.and_then(|path| {
                    (unread, notes) = (path.unread, path.note.into_iter().collect());
                    refuse_unanswered(&path.messages, PROMPT)?;
                    self.conversation(path.messages, None, &mut fields)
                })
            }
            Format::Text => text(&mut fields),
            Format::Auto => Err(malformed("its format is not settled")),
        };
        unread.extend(fields.unread());
        let mut parsed = Parsed { record: record?, unread, notes };
        if let Record::Conversation(conversation) = &mut parsed.record {
            parsed.notes.extend(leave_empty_answers_out(&mut conversation.messages));
        }
        Ok(parsed)
    }

    fn alpaca(&self, fields: &mut Fields<'_>) -> Result<Record, Reject> {
        let instruction = fields.text("instruction")?;
        let input = fields.optional_text("input")?.unwrap_or_default();
        let output = fields.text("output")?;
        let empty = |names: &str| Err(Reject::new(Reason::Empty, names));
        if instruction.trim().is_empty() && input.trim().is_empty() {
            let (instruction, input) = (fields.own("instruction"), fields.own("input"));
            return empty(&format!("`{instruction}` and `{input}` are empty"));
        }
        if output.trim().is_empty() {
            return empty(&format!("`{}` is empty", fields.own("output")));
        }
        let mut messages: Vec<Message> = Vec::new();
        for (question, answer) in history(fields)? {
            messages.push(Message::new(Role::User, question));
            messages.push(Message::new(Role::Assistant, answer));
        }
        messages.push(question(instruction, input));
        let mut answer = Message::new(Role::Assistant, output);
        // A column with the thoughts before the answer.
        if let Some(name) = fields.first_of(&["reasoning_content", "reasoning", "thinking", "cot"])
            && let Some(reasoning) = fields.optional_text(name)?
        {
            answer.fields.insert("reasoning_content".into(), Value::from(reasoning));
        }
        messages.push(answer);
        let tools = tools::listed(fields.list("tools")?)?;
        self.conversation(messages, tools, fields)
    }

    fn messages(&self, fields: &mut Fields<'_>) -> Result<Record, Reject> {
        let name = fields.own("messages").to_owned();
        let list = fields.list("messages")?.ok_or_else(|| fields.missing("messages"))?;
        let messages = messages(list, &name, &self.openai())?;
        refuse_unanswered(&messages, &name)?;
        let tools = match fields.list("functions")? {
            // OpenAI's name for tools before they had a type.
            Some(functions) => tools::listed(Some(tools::typed(functions)))?,
            None => tools::listed(fields.list("tools")?)?,
        };
        self.conversation(messages, tools, fields)
    }

    fn openai(&self) -> Dialect<'_> {
        Dialect::openai(&self.fields, &self.roles, self.media)
    }

    fn sharegpt_dialect(&self) -> Dialect<'_> {
        Dialect::sharegpt(&self.fields, &self.roles, self.media)
    }

    fn sharegpt(&self, fields: &mut Fields<'_>) -> Result<Record, Reject> {
        const LISTS: [&str; 3] = ["conversations", "conversation", "messages"];
        let name = LISTS.into_iter().find(|name| fields.has(name)).unwrap_or(LISTS[0]);
        let list = fields.list(name)?.ok_or_else(|| fields.missing(name))?;
        let messages = messages(list, fields.own(name), &self.sharegpt_dialect())?;
        refuse_unanswered(&messages, fields.own(name))?;
        // The format's tools are often bare functions, but templates expect typed ones.
        let tools = tools::listed(fields.list("tools")?.map(tools::typed))?;
        self.conversation(messages, tools, fields)
    }

    fn completion(&self, fields: &mut Fields<'_>) -> Result<Record, Reject> {
        if fields.is_list("prompt") {
            let dialect = self.openai();
            let mut part = |name: &str| {
                let list = fields.list(name)?.ok_or_else(|| fields.missing(name))?;
                messages(list, fields.own(name), &dialect)
            };
            let mut all = part("prompt")?;
            for message in &mut all {
                message.train = Some(false);
                message.weight = None;
            }
            all.extend(part("completion")?);
            let tools = tools::listed(fields.list("tools")?)?;
            return self.conversation(all, tools, fields);
        }
        let (prompt, completion) = (fields.text("prompt")?, fields.text("completion")?);
        if completion.trim().is_empty() {
            let detail = format!("`{}` is empty", fields.own("completion"));
            return Err(Reject::new(Reason::Empty, detail));
        }
        Ok(Record::Completion { prompt, completion })
    }

    /// Combines the messages with the record's other fields. A system message among the messages
    /// takes precedence over the record's `system` field, and that over the source's.
    fn conversation(
        &self,
        messages: Vec<Message>,
        tools: Option<Value>,
        fields: &mut Fields<'_>,
    ) -> Result<Record, Reject> {
        let name = fields.first_of(&["system", "system_prompt"]).unwrap_or("system");
        let system = fields.optional_text(name)?.filter(|text| !text.is_empty());
        let kwargs = fields.object("chat_template_kwargs")?.unwrap_or_default();
        let conversation = Conversation { messages, tools, kwargs };
        let conversation = conversation.with_system(system.as_deref());
        Ok(Record::Conversation(conversation.with_system(self.system.as_deref())))
    }
}

pub(super) fn object(json: &[u8]) -> Result<Map<String, Value>, Reject> {
    match json::parse(json).map_err(|e| malformed(json_error(&e, 1)))? {
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

/// The user's message of an Alpaca record: `content` for all templates, the separate parts for
/// Alpaca's own.
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

/// The questions and answers before an Alpaca record's question.
fn history(fields: &mut Fields<'_>) -> Result<Vec<(String, String)>, Reject> {
    let bad = |name: &str| malformed(format!("`{name}` must be a list of [question, answer]"));
    match fields.list("history") {
        Ok(None) => Ok(Vec::new()),
        Ok(Some(history)) => {
            serde_json::from_value(Value::Array(history)).map_err(|_| bad(fields.own("history")))
        }
        Err(_) => Err(bad(fields.own("history"))),
    }
}

fn text(fields: &mut Fields<'_>) -> Result<Record, Reject> {
    let text = fields.text("text")?;
    if text.trim().is_empty() {
        return Err(Reject::new(Reason::Empty, format!("`{}` is empty", fields.own("text"))));
    }
    Ok(Record::Text(text))
}

/// Refuses a list from which there is nothing to learn.
fn refuse_unanswered(messages: &[Message], name: &str) -> Result<(), Reject> {
    if messages.is_empty() {
        return Err(Reject::new(Reason::Empty, format!("`{name}` is empty")));
    }
    let mut answers = messages.iter().filter(|m| m.role == Role::Assistant).peekable();
    if answers.peek().is_none() {
        let detail = "no message of the role `assistant`: nothing would be trained";
        return Err(Reject::new(Reason::Untrained, detail));
    }
    if answers.all(Message::is_blank) {
        return Err(Reject::new(Reason::Empty, "every answer is empty"));
    }
    Ok(())
}

/// Excludes empty answers from training and reports them. An answer with neither text nor calls
/// teaches the model to stop at once, so it is shown but not trained, unless its author says
/// otherwise.
fn leave_empty_answers_out(messages: &mut [Message]) -> Vec<(Reason, String)> {
    let mut notes = Vec::new();
    for (message, number) in messages.iter_mut().zip(1..) {
        if message.role == Role::Assistant && message.train.is_none() && message.is_blank() {
            message.train = Some(false);
            let found = format!("message {number} is an empty answer, which is not trained");
            notes.push((Reason::Empty, found));
        }
    }
    notes
}

fn without_nulls(map: Map<String, Value>) -> Map<String, Value> {
    fn strip(value: Value) -> Value {
        match value {
            Value::Object(map) => Value::Object(without_nulls(map)),
            Value::Array(items) => Value::Array(items.into_iter().map(strip).collect()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
        }
    }
    let said = map.into_iter().filter(|(_, value)| !value.is_null());
    said.map(|(name, value)| (name, strip(value))).collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) if json::digits(value).is_some() => "a number",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
