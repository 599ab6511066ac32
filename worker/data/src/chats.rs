//! The chat templates of a run: one, or those that a tokenizer names. As in `transformers`, records with tools take
//! `tool_use` where there is one, and all others `default`.

use chrono::NaiveDate;
use proto::receipt::Reason;
use serde_json::{Map, Value};

use super::calls::Calls;
use super::conversation::Conversation;
use super::error::PrepareError;
use super::folder::{DEFAULT, TOOL_USE, Templates};
use super::record::Reject;
use super::template::{Template, TemplateError};

/// A chat template, and how it takes tool calls.
#[derive(Debug)]
pub(super) struct Chat {
    pub(super) template: Template,
    pub(super) calls: Calls,
}

/// Those that are used.
#[derive(Debug)]
pub(super) struct Chats {
    default: Option<Chat>,
    tool_use: Option<Chat>,
    /// Of all that there are.
    names: Vec<String>,
}

impl Chats {
    /// `globals` are what every rendering sees.
    ///
    /// # Errors
    /// A template that is no Jinja.
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
        Ok(Chats { default: chat(DEFAULT)?, tool_use: chat(TOOL_USE)?, names })
    }

    /// The one that a conversation is rendered with.
    ///
    /// # Errors
    /// There is none for it.
    pub(super) fn of(&self, conversation: &Conversation) -> Result<&Chat, Reject> {
        let tool_use = conversation.tools.as_ref().and(self.tool_use.as_ref());
        let chat = tool_use.or(self.default.as_ref());
        chat.ok_or_else(|| Reject::new(Reason::Malformed, self.missing().to_string()))
    }

    /// The one for plain conversations.
    pub(super) fn default(&self) -> Option<&Template> {
        self.default.as_ref().map(|chat| &chat.template)
    }

    /// Any: all of a tokenizer end answers alike.
    pub(super) fn any(&self) -> Option<&Template> {
        self.default.as_ref().or(self.tool_use.as_ref()).map(|chat| &chat.template)
    }

    /// What to say where there is none.
    pub(super) fn missing(&self) -> PrepareError {
        match self.names.is_empty() {
            true => PrepareError::NoTemplate,
            false => PrepareError::NoDefaultTemplate(self.names.join(", ")),
        }
    }
}
