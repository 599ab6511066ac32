//! A chat template, ready to render: conversation -> text, and where the model speaks in it.

use std::ops::Range;

use chrono::NaiveDate;
use minijinja::value::Value;
use minijinja::{Environment, context};
use proto::receipt::Reason;
use sha2::{Digest, Sha256};

use super::conversation::{Conversation, Message};
use super::jinja::{self, Refusal};
use super::marks;
use super::record::Reject;

/// `<|im_start|>role ... <|im_end|>`, marked.
pub(super) const CHATML: &str = include_str!("templates/chatml.jinja");
/// Stanford Alpaca's prompt, marked.
pub(super) const ALPACA: &str = include_str!("templates/alpaca.jinja");

/// Marked copies of templates that carry no markers, by the SHA-256 of the original without outer
/// white space.
const COPIES: [(&str, &str); 1] = [(
    "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
    include_str!("templates/smollm2.jinja"),
)];

/// The template's name inside its environment.
const NAME: &str = "chat_template";

/// A template that is no Jinja.
#[derive(Debug, thiserror::Error)]
#[error(
    "chat template, line {line}: {detail}\n\
     hint: set data.chat_template to chatml, alpaca or a .jinja file"
)]
pub struct TemplateError {
    /// In the template, from 1.
    pub line: usize,
    /// What the parser says.
    pub detail: String,
}

/// How trained spans are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    /// The template says `{% generation %}`.
    Own,
    /// A marked copy of it is rendered in its place.
    Copy,
    /// It says nothing: each conversation must prove where the assistant speaks.
    Proof,
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// What the tokenizer gets.
    pub text: String,
    /// Byte ranges that the template marks, in order; marks without text between them are one.
    pub spans: Vec<Range<usize>>,
}

/// A chat template with what it is rendered with every time.
#[derive(Debug)]
pub struct Template {
    env: Environment<'static>,
    source: String,
    marking: Marking,
    globals: Value,
}

impl Template {
    /// Parses a template; `globals` are the special tokens and the run's template arguments.
    ///
    /// # Errors
    /// Text that is no Jinja, with the line.
    pub fn new(
        source: &str,
        globals: &serde_json::Map<String, serde_json::Value>,
        date: NaiveDate,
    ) -> Result<Template, TemplateError> {
        // As Jinja, whose lexer knows one kind of line end.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let copy = marked_copy(&source);
        let rewritten = marks::rewrite(copy.unwrap_or(&source)).map_err(syntax)?;
        let marking = match (copy, &rewritten) {
            (Some(_), _) => Marking::Copy,
            (None, Some(_)) => Marking::Own,
            (None, None) => Marking::Proof,
        };
        let mut env = jinja::environment(date);
        env.add_filter(marks::FILTER, marks::mark);
        let text = rewritten.unwrap_or_else(|| source.clone());
        env.add_template_owned(NAME, text).map_err(syntax)?;
        Ok(Template { env, source, marking, globals: Value::from_serialize(globals) })
    }

    /// The text as the user or the tokenizer gave it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// How trained spans are found.
    pub fn marking(&self) -> Marking {
        self.marking
    }

    /// Renders the first `messages` messages; `add_generation_prompt` opens the assistant's turn
    /// after them.
    ///
    /// # Errors
    /// What the template refuses or cannot render: a reject of this conversation.
    pub fn render(
        &self,
        conversation: &Conversation,
        messages: usize,
        add_generation_prompt: bool,
    ) -> Result<Rendered, Reject> {
        let seen: Vec<_> = conversation.messages[..messages].iter().map(seen).collect();
        let is_marked = self.marking != Marking::Proof;
        if is_marked && conversation.messages.iter().any(holds_marks) {
            let detail = "holds U+FDD0 or U+FDD1, which Unicode keeps for a program's own use";
            return Err(Reject::new(Reason::Malformed, detail));
        }
        let own = context! {
            messages => Value::from_serialize(&seen),
            tools => Value::from_serialize(&conversation.tools),
            documents => (),
            add_generation_prompt,
        };
        // Later ones go before earlier ones; a record's arguments go before the run's.
        let kwargs = Value::from_serialize(&conversation.kwargs);
        let context = context! { ..kwargs, ..own, ..self.globals.clone() };
        let template = self.env.get_template(NAME).map_err(|e| refused(&e))?;
        let text = template.render(context).map_err(|e| refused(&e))?;
        if !is_marked {
            let spans = Vec::new();
            return Ok(Rendered { text, spans });
        }
        let torn = || {
            let detail = "the chat template tears its own `{% generation %}` marks apart";
            Reject::new(Reason::Malformed, detail)
        };
        let (text, spans) = marks::take_out(&text).ok_or_else(torn)?;
        let spans = joined(spans);
        Ok(Rendered { text, spans })
    }

    /// The text that asks the model for its next message.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn prompt(&self, conversation: &Conversation) -> Result<String, Reject> {
        let rendered = self.render(conversation, conversation.messages.len(), true)?;
        Ok(rendered.text)
    }
}

/// A message as `transformers` shows it to a template: reasoning goes by all of its names.
fn seen(message: &Message) -> serde_json::Map<String, serde_json::Value> {
    const NAMES: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    let fields = &message.fields;
    let reasoning =
        NAMES.iter().filter_map(|name| fields.get(*name)).find(|value| !value.is_null());
    let Some(reasoning) = reasoning.cloned() else {
        return fields.clone();
    };
    let mut aliased = serde_json::Map::from_iter([("thinking".to_owned(), reasoning.clone())]);
    aliased.extend(fields.clone());
    aliased.insert("reasoning_content".into(), reasoning);
    aliased
}

fn holds_marks(message: &Message) -> bool {
    fn any(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::String(text) => marks::has_noncharacters(text),
            serde_json::Value::Array(items) => items.iter().any(any),
            serde_json::Value::Object(fields) => fields.values().any(any),
            _ => false,
        }
    }
    message.fields.values().any(any)
}

fn joined(spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(last) if last.end == span.start && last.start < last.end => last.end = span.end,
            _ => joined.push(span),
        }
    }
    joined
}

fn marked_copy(source: &str) -> Option<&'static str> {
    let hash = hex(&Sha256::digest(source.trim().as_bytes()));
    let copy = COPIES.iter().find(|(original, _)| *original == hash)?;
    Some(copy.1)
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn syntax(error: minijinja::Error) -> TemplateError {
    TemplateError {
        line: error.line().unwrap_or(1),
        detail: error.detail().map_or_else(|| error.kind().to_string(), str::to_owned),
    }
}

fn refused(error: &minijinja::Error) -> Reject {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Refusal(message)) = error.downcast_ref() {
            let detail = format!("the chat template refuses it: {message}");
            return Reject::new(Reason::Malformed, detail);
        }
        cause = error.source();
    }
    let line = error.line().unwrap_or(1);
    let kind = error.kind();
    let detail = match error.detail() {
        Some(detail) => format!("chat template, line {line}: {kind}: {detail}"),
        None => format!("chat template, line {line}: {kind}"),
    };
    Reject::new(Reason::Malformed, detail)
}
