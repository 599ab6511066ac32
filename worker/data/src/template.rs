//! A chat template that is ready to render conversations, and that shows where the model speaks in
//! them.

use std::collections::HashSet;
use std::ops::Range;

use chrono::NaiveDate;
use minijinja::value::Value;
use minijinja::{Environment, context};
use proto::receipt::Reason;

use super::conversation::{Conversation, Message, Role};
use super::jinja::{self, Refusal};
use super::marks;
use super::record::Reject;

/// ChatML with marks: `<|im_start|>role ... <|im_end|>`.
pub(super) const CHATML: &str = include_str!("templates/chatml.jinja");
/// Stanford Alpaca's prompt with marks.
pub(super) const ALPACA: &str = include_str!("templates/alpaca.jinja");

/// The template's name inside its environment.
const NAME: &str = "chat_template";

/// A template that is not valid Jinja.
#[derive(Debug, thiserror::Error)]
#[error(
    "chat template, line {line}: {detail}\n\
     hint: set data.chat_template to chatml, alpaca or a .jinja file"
)]
pub struct TemplateError {
    /// The line in the template, from 1.
    pub line: usize,
    /// The parser's message.
    pub detail: String,
}

/// How trained spans are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    /// The template marks them itself, with `{% generation %}`.
    Own,
    /// The template is a known one, and is rendered with the marks that we have for it.
    Known,
    /// The template has no marks, so each conversation must prove where the assistant speaks.
    Proof,
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text for the tokenizer.
    pub text: String,
    /// The byte ranges that the template marks, in order; marks with no text between them are
    /// joined.
    pub spans: Vec<Range<usize>>,
}

/// A chat template with everything that is the same in all of its renderings.
#[derive(Debug)]
pub struct Template {
    env: Environment<'static>,
    source: String,
    known: Option<String>,
    marking: Marking,
    content: Content,
    globals: Value,
    /// The words that occur in the source.
    words: HashSet<String>,
    /// The source for engines that know no marks, which a tuned model ships.
    plain: String,
    /// The texts that prompts write where answers begin, the longest first.
    supplied: Vec<String>,
}

/// The names of the field that holds a message's reasoning.
pub(super) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The form in which a template expects a message's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// A text.
    Text,
    /// A list of parts, one of them the text, as in vision models' templates.
    Parts,
}

impl Template {
    /// Parses a template. `globals` are the special tokens and the run's template arguments.
    ///
    /// # Errors
    /// Text that is not valid Jinja, with the line.
    pub fn new(
        source: &str,
        globals: &serde_json::Map<String, serde_json::Value>,
        date: NaiveDate,
    ) -> Result<Template, TemplateError> {
        // As in Jinja, whose lexer knows only one kind of line end.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let known = marks::put_in(&source);
        let rewritten = marks::rewrite(known.as_deref().unwrap_or(&source)).map_err(syntax)?;
        let marking = match (&known, &rewritten) {
            (Some(_), _) => Marking::Known,
            (None, Some(_)) => Marking::Own,
            (None, None) => Marking::Proof,
        };
        let mut env = jinja::environment(date);
        env.add_filter(marks::FILTER, marks::mark);
        let text = rewritten.unwrap_or_else(|| source.clone());
        env.add_template_owned(NAME, text).map_err(syntax)?;
        let globals = Value::from_serialize(globals);
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let words = source.split(|c| !is_word(c)).map(str::to_owned).collect();
        let plain = marks::without(&source).map_err(syntax)?;
        let (content, supplied) = (Content::Text, Vec::new());
        let mut template =
            Template { env, source, known, marking, content, globals, words, plain, supplied };
        template.content = template.wanted_content();
        template.supplied = template.found_supplied();
        Ok(template)
    }

    /// The template as the user or the tokenizer gave it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The template without marks, which some engines do not know. It renders the same text.
    pub fn plain(&self) -> &str {
        &self.plain
    }

    /// The texts that prompts write where the trained part of an answer begins, the longest first:
    /// an empty thinking block, if thinking can be switched off.
    pub(super) fn supplied(&self) -> &[String] {
        &self.supplied
    }

    /// Finds them by rendering prompts with thinking as it is, and switched off by either of its
    /// names.
    fn found_supplied(&self) -> Vec<String> {
        let asked = Conversation::of([Message::new(Role::User, "a")]);
        let off = |name: &str| {
            let mut asked = asked.clone();
            asked.kwargs.insert(name.into(), false.into());
            asked
        };
        let prompts = [asked.clone(), off("enable_thinking"), off("thinking")];
        let prompts: Vec<String> =
            prompts.iter().filter_map(|asked| self.prompt(asked).ok()).collect();
        let mut thought = Message::new(Role::Assistant, "b");
        thought.fields.insert("reasoning_content".into(), "r".into());
        let mut supplied = Vec::new();
        for answer in [Message::new(Role::Assistant, "b"), thought] {
            let answered = Conversation::of(asked.messages.iter().cloned().chain([answer]));
            let Ok(Rendered { text, spans }) = self.render(&answered, 2, false) else { continue };
            let start = match (self.marking, spans.first(), prompts.first()) {
                (Marking::Own | Marking::Known, Some(span), _) => span.start,
                (Marking::Proof, _, Some(prompt)) if text.starts_with(prompt) => prompt.len(),
                _ => continue,
            };
            let tails = prompts.iter().filter_map(|prompt| prompt.strip_prefix(&text[..start]));
            supplied.extend(tails.filter(|tail| !tail.is_empty()).map(str::to_owned));
        }
        supplied.sort_by_key(|tail| std::cmp::Reverse(tail.len()));
        supplied.dedup();
        supplied
    }

    /// The template with the marks that we have for it, if it is rendered with them.
    pub fn with_known_marks(&self) -> Option<&str> {
        self.known.as_deref()
    }

    /// Finds the form by rendering a probe: a template that expects parts shows nothing of a text.
    fn wanted_content(&self) -> Content {
        const PROBE: &str = "shown?";
        let shows = |content: serde_json::Value| {
            let mut message = Message::new(Role::User, "");
            message.fields.insert("content".into(), content);
            let rendered = self.render(&Conversation::of([message]), 1, false);
            rendered.is_ok_and(|rendered| rendered.text.contains(PROBE))
        };
        match !shows(PROBE.into()) && shows(parts(PROBE)) {
            true => Content::Parts,
            false => Content::Text,
        }
    }

    /// Whether the template reads a field of messages, which is assumed if the field's name occurs
    /// in it. A template that prints whole messages reads all fields, which is not noticed.
    pub fn asks_for(&self, field: &str) -> bool {
        match field {
            // The parts of a question, which Alpaca's own template combines by itself, are also in
            // its content.
            "role" | "content" | "tool_calls" | "instruction" | "input" => true,
            // Reasoning is shown to the template under its other names too.
            "reasoning_content" | "thinking" | "reasoning" => {
                REASONING.iter().any(|name| self.words.contains(*name))
            }
            field => self.words.contains(field),
        }
    }

    /// How trained spans are found.
    pub fn marking(&self) -> Marking {
        self.marking
    }

    /// Renders the first `messages` messages. `add_generation_prompt` opens the assistant's turn
    /// after them.
    ///
    /// # Errors
    /// A conversation that the template refuses or cannot render.
    pub fn render(
        &self,
        conversation: &Conversation,
        messages: usize,
        add_generation_prompt: bool,
    ) -> Result<Rendered, Reject> {
        let seen: Vec<_> =
            conversation.messages[..messages].iter().map(|m| seen(m, self.content)).collect();
        let is_marked = self.marking != Marking::Proof;
        if is_marked && conversation.messages.iter().any(holds_marks) {
            let detail = "holds U+FDD0 or U+FDD1, which Unicode reserves for internal use";
            return Err(Reject::new(Reason::Malformed, detail));
        }
        let own = context! {
            messages => seen.iter().map(jinja::value_of_fields).collect::<Vec<_>>(),
            tools => conversation.tools.as_ref().map(jinja::value),
            documents => (),
            add_generation_prompt,
        };
        // Maps to the left take precedence: a record's arguments override the run's.
        let kwargs = jinja::value_of_fields(&conversation.kwargs);
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

    /// The prompt that asks the model for its next message.
    ///
    /// # Errors
    /// Those of [`render`](Self::render).
    pub fn prompt(&self, conversation: &Conversation) -> Result<String, Reject> {
        let rendered = self.render(conversation, conversation.messages.len(), true)?;
        Ok(rendered.text)
    }
}

/// A message as `transformers` shows it to a template: with its reasoning under all names.
fn seen(message: &Message, content: Content) -> serde_json::Map<String, serde_json::Value> {
    let fields = &message.fields;
    let reasoning =
        REASONING.iter().filter_map(|name| fields.get(*name)).find(|value| !value.is_null());
    let mut seen = match reasoning {
        None => fields.clone(),
        Some(reasoning) => {
            let thinking = ("thinking".to_owned(), reasoning.clone());
            let mut aliased = serde_json::Map::from_iter([thinking]);
            aliased.extend(fields.clone());
            aliased.insert("reasoning_content".into(), reasoning.clone());
            aliased
        }
    };
    if let (Content::Parts, Some(value)) = (content, seen.get_mut("content"))
        && let Some(text) = value.as_str()
    {
        *value = parts(text);
    }
    seen
}

/// A text as the only part of a message's content.
fn parts(text: &str) -> serde_json::Value {
    serde_json::json!([{"type": "text", "text": text}])
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
