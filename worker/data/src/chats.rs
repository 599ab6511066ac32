//! The chat templates of a run: a single one, or those that a tokenizer names. As in
//! `transformers`, records with tools use `tool_use` if it exists, and all others `default`.

use chrono::NaiveDate;
use proto::receipt::Reason;
use serde_json::{Map, Value};

use super::calls::Calls;
use super::conversation::Conversation;
use super::error::PrepareError;
use super::folder::{DEFAULT, TOOL_USE, Templates};
use super::record::Reject;
use super::template::{Template, TemplateError};

/// A chat template, and the form in which it expects tool calls.
#[derive(Debug)]
pub(super) struct Chat {
    pub(super) template: Template,
    pub(super) calls: Calls,
}

/// The templates that are used.
#[derive(Debug)]
pub(super) struct Chats {
    default: Option<Chat>,
    /// An invalid one matters only to conversations with tools.
    tool_use: Option<Result<Chat, TemplateError>>,
    /// The names of all templates, used or not.
    names: Vec<String>,
}

impl Chats {
    /// Compiles the templates. `globals` are visible to every rendering.
    ///
    /// # Errors
    /// A default template that is not valid Jinja.
    pub(super) fn new(
        templates: &Templates<'_>,
        globals: &Map<String, Value>,
        date: NaiveDate,
    ) -> Result<Chats, TemplateError> {
        let chat = |name: &str| -> Result<Option<Chat>, TemplateError> {
            let Some(source) = templates.get(name) else { return Ok(None) };
            let template = Template::new(source, globals, date)?;
            let calls = Calls::of(&template);
            Ok(Some(Chat { template, calls }))
        };
        let names = templates.keys().map(|name| (*name).to_owned()).collect();
        Ok(Chats { default: chat(DEFAULT)?, tool_use: chat(TOOL_USE).transpose(), names })
    }

    /// The template that a conversation is rendered with.
    ///
    /// # Errors
    /// There is no usable template for the conversation.
    pub(super) fn of(&self, conversation: &Conversation) -> Result<&Chat, Reject> {
        let malformed = |why: String| Reject::new(Reason::Malformed, why);
        match conversation.tools.as_ref().and(self.tool_use.as_ref()) {
            Some(Ok(chat)) => Ok(chat),
            Some(Err(error)) => Err(malformed(format!("{TOOL_USE}: {error}"))),
            None => self.default.as_ref().ok_or_else(|| malformed(self.missing().to_string())),
        }
    }

    /// The template for conversations without tools.
    pub(super) fn default(&self) -> Option<&Template> {
        self.default.as_ref().map(|chat| &chat.template)
    }

    /// Any usable template: all templates of one tokenizer end answers with the same token.
    pub(super) fn any(&self) -> Option<&Template> {
        let tool_use = || self.tool_use.as_ref()?.as_ref().ok();
        self.default.as_ref().or_else(tool_use).map(|chat| &chat.template)
    }

    /// The error for a missing default template.
    pub(super) fn missing(&self) -> PrepareError {
        match self.names.is_empty() {
            true => PrepareError::NoTemplate,
            false => PrepareError::NoDefaultTemplate(self.names.join(", ")),
        }
    }
}
