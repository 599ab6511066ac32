//! A list's messages, as OpenAI writes them and as ShareGPT does: to what chat templates read.
//!
//! Roles may follow each other in any order, as the data has them: what a template does not take, it
//! refuses itself. (LLaMA-Factory empties a record whose turns do not alternate.)
//!
//! Who speaks and what is said go by the template's names, `role` and `content`, in the place where
//! the record has them; every other field stays as it is, since some template may read it.

use std::collections::BTreeMap;

use proto::spec::Media;
use serde_json::{Map, Value};

use super::parts::{self, Marks};
use super::{Reject, kind, lift, malformed, tools};
use crate::conversation::{Message, Role};

/// Whose message it is.
#[derive(Clone, Copy)]
enum Speaker {
    Role(Role),
    /// ShareGPT's `function_call`: the assistant, and the text is the call as JSON.
    Call,
}

const OPENAI: &[(&str, Speaker)] = &[
    ("system", Speaker::Role(Role::System)),
    ("developer", Speaker::Role(Role::Developer)),
    ("user", Speaker::Role(Role::User)),
    ("assistant", Speaker::Role(Role::Assistant)),
    ("tool", Speaker::Role(Role::Tool)),
    // Results of calls, before there were tools.
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

/// Whether some format knows who speaks under this name.
pub(crate) fn is_speaker(name: &str) -> bool {
    let mut known = SHAREGPT.iter().chain(OPENAI);
    known.any(|(known, _)| name.eq_ignore_ascii_case(known))
}

/// The way out for a speaker that no format knows.
const ROLES_HINT: &str = "hint: a source's `roles` name who speaks, as in `{assistant: [bot]}`";

/// How a list's messages are written.
pub(super) struct Dialect<'a> {
    names: &'a BTreeMap<String, String>,
    roles: &'a BTreeMap<String, Role>,
    role: &'static [&'static str],
    content: &'static [&'static str],
    speakers: &'static [&'static [(&'static str, Speaker)]],
    /// The known speakers, for people.
    wanted: &'static str,
    media: Media,
}

impl<'a> Dialect<'a> {
    /// `role` and `content`.
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

    /// `from` and `value`, and what they are called in sets that call themselves the same.
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

    /// The names that a message may have for one of its two parts: the source's own, or the
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

/// Reads a list's messages; `name` is the list's, for errors.
///
/// # Errors
/// The first message that is none.
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

/// Gives the fields that the source renames the names that templates and training know.
fn rename_others(fields: &mut Map<String, Value>, dialect: &Dialect<'_>) {
    for name in ["reasoning_content", "tool_calls", "train", "weight"] {
        if let Some(own) = dialect.names.get(name) {
            rename(fields, own, name);
        }
    }
}

/// Renames a field in its place, over one that has the new name.
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
                malformed(format!("{at} has `from` and no `role`, as ShareGPT has"))
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

/// Which of the possible fields says what is said.
fn said_under(fields: &Map<String, Value>, at: &str, keys: &[&str]) -> Result<String, Reject> {
    let is_said = |key: &&&str| fields.get(**key).is_some_and(|value| !value.is_null());
    let said: Vec<&str> = keys.iter().filter(is_said).copied().collect();
    match said[..] {
        [first, second, ..] => {
            Err(malformed(format!("{at} has both `{first}` and `{second}`; which one is said?")))
        }
        [only] => Ok(only.to_owned()),
        [] => {
            let null = keys.iter().find(|key| fields.contains_key(**key));
            Ok((*null.unwrap_or(&keys[0])).to_owned())
        }
    }
}
