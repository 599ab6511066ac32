//! Reads a list's messages, in OpenAI's form or ShareGPT's, into the form that chat templates read.
//!
//! Roles may follow each other in any order, as they do in the data: a template refuses by itself
//! what it does not accept. (LLaMA-Factory empties a record whose turns do not alternate.)
//!
//! The speaker and the content get the names that templates use, `role` and `content`, at the
//! position that they have in the record. Every other field stays as it is, because some template
//! may read it.

use std::collections::BTreeMap;

use proto::spec::Media;
use serde_json::{Map, Value};

use super::parts::{self, Marks};
use super::{Reject, kind, lift, malformed, tools};
use crate::conversation::{Message, Role};

/// The speaker of a message.
#[derive(Clone, Copy)]
enum Speaker {
    Role(Role),
    /// ShareGPT's `function_call`: the assistant speaks, and the text is the call as JSON.
    Call,
}

const OPENAI: &[(&str, Speaker)] = &[
    ("system", Speaker::Role(Role::System)),
    ("developer", Speaker::Role(Role::Developer)),
    ("user", Speaker::Role(Role::User)),
    ("assistant", Speaker::Role(Role::Assistant)),
    ("tool", Speaker::Role(Role::Tool)),
    // The results of calls, before there were tools.
    ("function", Speaker::Role(Role::Tool)),
];

const SHAREGPT: &[(&str, Speaker)] = &[
    ("human", Speaker::Role(Role::User)),
    ("prompter", Speaker::Role(Role::User)),
    ("gpt", Speaker::Role(Role::Assistant)),
    ("chatgpt", Speaker::Role(Role::Assistant)),
    ("bing", Speaker::Role(Role::Assistant)),
    ("bard", Speaker::Role(Role::Assistant)),
    ("model", Speaker::Role(Role::Assistant)),
    ("bot", Speaker::Role(Role::Assistant)),
    ("ai", Speaker::Role(Role::Assistant)),
    ("observation", Speaker::Role(Role::Tool)),
    ("function_response", Speaker::Role(Role::Tool)),
    ("function_call", Speaker::Call),
];

/// Whether any format has a speaker of this name.
pub(crate) fn is_speaker(name: &str) -> bool {
    let mut known = SHAREGPT.iter().chain(OPENAI);
    known.any(|(known, _)| name.eq_ignore_ascii_case(known))
}

/// The hint for a speaker that no format has.
const ROLES_HINT: &str = "hint: a source's `roles` name who speaks, as in `{assistant: [bot]}`";

/// The form of a list's messages.
pub(super) struct Dialect<'a> {
    names: &'a BTreeMap<String, String>,
    roles: &'a BTreeMap<String, Role>,
    role: &'static [&'static str],
    content: &'static [&'static str],
    speakers: &'static [&'static [(&'static str, Speaker)]],
    /// The known speakers, for error messages.
    wanted: &'static str,
    media: Media,
}

impl<'a> Dialect<'a> {
    /// OpenAI's form: `role` and `content`.
    pub(super) fn openai(
        names: &'a BTreeMap<String, String>,
        roles: &'a BTreeMap<String, Role>,
        media: Media,
    ) -> Self {
        Dialect {
            names,
            roles,
            role: &["role"],
            content: &["content"],
            speakers: &[OPENAI],
            wanted: "`system`, `user`, `assistant` or `tool`",
            media,
        }
    }

    /// ShareGPT's form: `from` and `value`, and their names in other data sets that call themselves
    /// ShareGPT.
    pub(super) fn sharegpt(
        names: &'a BTreeMap<String, String>,
        roles: &'a BTreeMap<String, Role>,
        media: Media,
    ) -> Self {
        Dialect {
            names,
            roles,
            role: &["from", "role"],
            content: &["value", "content", "text", "message"],
            speakers: &[SHAREGPT, OPENAI],
            wanted: "`human`, `gpt`, `system`, `function_call` or `observation`",
            media,
        }
    }

    /// The names that a message may use for its speaker or its content: the source's own, or the
    /// format's.
    fn keys<'n>(&'n self, of: &'n [&'static str]) -> Vec<&'n str> {
        match of.iter().find_map(|name| self.names.get(*name)) {
            Some(own) => vec![own],
            None => of.to_vec(),
        }
    }

    fn speaker(&self, name: &str) -> Option<Speaker> {
        let own = self.roles.get(name).map(|role| Speaker::Role(*role));
        own.or_else(|| {
            let known = self.speakers.iter().copied().flatten();
            let same = |(known, _): &&(&str, Speaker)| name.eq_ignore_ascii_case(known);
            Some(known.into_iter().find(same)?.1)
        })
    }
}

/// Reads a list's messages. `name` is the list's name in errors.
///
/// # Errors
/// The first element that is not a message.
pub(super) fn messages(
    list: Vec<Value>,
    name: &str,
    dialect: &Dialect<'_>,
) -> Result<Vec<Message>, Reject> {
    let numbered = list.into_iter().enumerate();
    numbered.map(|(i, value)| message(value, &format!("{name}[{i}]"), dialect)).collect()
}

fn message(value: Value, at: &str, dialect: &Dialect<'_>) -> Result<Message, Reject> {
    let Value::Object(mut fields) = value else {
        return Err(malformed(format!("{at} must be an object, got {}", kind(&value))));
    };
    lift(&mut fields, dialect.names);
    rename_others(&mut fields, dialect);
    let speaker = settle_role(&mut fields, at, dialect)?;
    let own = said_under(&fields, at, &dialect.keys(dialect.content))?;
    rename(&mut fields, &own, "content");
    let marks = Marks::take(&mut fields, at)?;
    let role = match speaker {
        Speaker::Role(role) => role,
        Speaker::Call => {
            tools::call_from_content(&mut fields, &format!("{at}.{own}"))?;
            Role::Assistant
        }
    };
    let of_parts = parts::settle(&mut fields, &format!("{at}.{own}"), dialect.media)?;
    tools::settle_calls(&mut fields, at)?;
    parts::require_content(&fields, at, &own)?;
    fields["role"] = Value::from(role.name());
    let Marks { train, weight } = marks.or(of_parts);
    Ok(Message { role, fields, train, weight })
}

/// Renames fields from the source's names to those that templates and training use.
fn rename_others(fields: &mut Map<String, Value>, dialect: &Dialect<'_>) {
    for name in ["reasoning_content", "tool_calls", "train", "weight"] {
        if let Some(own) = dialect.names.get(name) {
            rename(fields, own, name);
        }
    }
}

/// Renames a field in its place, replacing any field that already has the new name.
fn rename(fields: &mut Map<String, Value>, own: &str, name: &str) {
    if own == name || !fields.contains_key(own) {
        return;
    }
    let renamed = std::mem::take(fields).into_iter().filter(|(key, _)| key != name);
    *fields = renamed
        .map(|(key, value)| (if key == own { name.to_owned() } else { key }, value))
        .collect();
}

fn settle_role(
    fields: &mut Map<String, Value>,
    at: &str,
    dialect: &Dialect<'_>,
) -> Result<Speaker, Reject> {
    let keys = dialect.keys(dialect.role);
    let Some(own) = keys.iter().find(|key| fields.contains_key(**key)).copied() else {
        return Err(match keys[..] {
            ["role"] if fields.contains_key("from") => {
                malformed(format!("{at} has `from` but no `role`, as in ShareGPT"))
            }
            _ => malformed(format!("{at} has no `{}`", keys[0])),
        });
    };
    let wanted = || format!("{own} must be {}", dialect.wanted);
    let speaker = match &fields[own] {
        Value::String(name) => {
            let unknown = || malformed(format!("{}, got `{name}`\n{ROLES_HINT}", wanted()));
            dialect.speaker(name).ok_or_else(unknown)?
        }
        other => return Err(malformed(format!("{}, got {}", wanted(), kind(other)))),
    };
    rename(fields, own, "role");
    Ok(speaker)
}

/// The name of the field that holds the message's content.
fn said_under(fields: &Map<String, Value>, at: &str, keys: &[&str]) -> Result<String, Reject> {
    let is_said = |key: &&&str| fields.get(**key).is_some_and(|value| !value.is_null());
    let said: Vec<&str> = keys.iter().filter(is_said).copied().collect();
    match said[..] {
        [first, second, ..] => Err(malformed(format!(
            "{at} has both `{first}` and `{second}`; which one is the content?"
        ))),
        [only] => Ok(only.to_owned()),
        [] => {
            let null = keys.iter().find(|key| fields.contains_key(**key));
            Ok((*null.unwrap_or(&keys[0])).to_owned())
        }
    }
}
