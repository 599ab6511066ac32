//! A list's messages, as OpenAI writes them and as ShareGPT does: to what chat templates read.
//!
//! Roles may follow each other in any order, as the data has them: what a template does not take, it
//! refuses itself. (LLaMA-Factory empties a record whose turns do not alternate.)
//!
//! Who speaks and what is said go by the template's names, `role` and `content`, in the place where
//! the record has them; every other field stays as it is, since some template may read it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Reject, kind, malformed, tools};
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
}

impl<'a> Dialect<'a> {
    /// `role` and `content`.
    pub(super) fn openai(
        names: &'a BTreeMap<String, String>,
        roles: &'a BTreeMap<String, Role>,
    ) -> Self {
        Dialect {
            names,
            roles,
            role: &["role"],
            content: &["content"],
            speakers: &[OPENAI],
            wanted: "`system`, `user`, `assistant` or `tool`",
        }
    }

    /// `from` and `value`, and what they are called in sets that call themselves the same.
    pub(super) fn sharegpt(
        names: &'a BTreeMap<String, String>,
        roles: &'a BTreeMap<String, Role>,
    ) -> Self {
        Dialect {
            names,
            roles,
            role: &["from", "role"],
            content: &["value", "content", "text", "message"],
            speakers: &[SHAREGPT, OPENAI],
            wanted: "`human`, `gpt`, `system`, `function_call` or `observation`",
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
    rename_others(&mut fields, dialect);
    let speaker = settle_role(&mut fields, at, dialect)?;
    let own = said_under(&fields, at, &dialect.keys(dialect.content))?;
    rename(&mut fields, &own, "content");
    let (train, weight) = (train(&mut fields, at)?, weight(&mut fields, at)?);
    let role = match speaker {
        Speaker::Role(role) => role,
        Speaker::Call => {
            tools::call_from_content(&mut fields, &format!("{at}.{own}"))?;
            Role::Assistant
        }
    };
    tools::settle_calls(&mut fields, at)?;
    settle_content(&mut fields, &format!("{at}.{own}"))?;
    fields["role"] = Value::from(role.name());
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

fn train(fields: &mut Map<String, Value>, at: &str) -> Result<Option<bool>, Reject> {
    match fields.shift_remove("train") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(train)) => Ok(Some(train)),
        Some(other) => {
            let found = kind(&other);
            Err(malformed(format!("{at}.train must be true or false, got {found}")))
        }
    }
}

fn weight(fields: &mut Map<String, Value>, at: &str) -> Result<Option<f32>, Reject> {
    match fields.shift_remove("weight") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let weight = value.as_f64().map(|w| w as f32);
            let valid = weight.filter(|w| w.is_finite() && *w >= 0.0);
            let bad = || malformed(format!("{at}.weight must be a number from 0 up, got {value}"));
            valid.ok_or_else(bad).map(Some)
        }
    }
}

/// Content must be text; a list of text parts is joined, since plain templates cannot read lists.
fn settle_content(fields: &mut Map<String, Value>, at: &str) -> Result<(), Reject> {
    let has_calls = fields.get("tool_calls").is_some_and(|calls| !calls.is_null());
    let joined = match fields.get("content") {
        Some(Value::String(_)) => return Ok(()),
        None | Some(Value::Null) if has_calls => return Ok(()),
        Some(Value::Array(parts)) => joined(parts, at)?,
        None => {
            let (at, own) = at.rsplit_once('.').unwrap_or(("", at));
            return Err(malformed(format!("{at} has no `{own}`")));
        }
        Some(other) => {
            return Err(malformed(format!("{at} must be a text, got {}", kind(other))));
        }
    };
    fields.insert("content".into(), Value::from(joined));
    Ok(())
}

fn joined(parts: &[Value], at: &str) -> Result<String, Reject> {
    let text = |(i, part): (usize, &Value)| {
        let kind = part.get("type").and_then(Value::as_str);
        let text = part.get("text").and_then(Value::as_str);
        match (kind, text) {
            (None | Some("text" | "input_text" | "output_text"), Some(text)) => Ok(text.to_owned()),
            (Some(kind), _) => {
                Err(malformed(format!("{at}[{i}] is of the type `{kind}`, no text")))
            }
            (None, None) => Err(malformed(format!("{at} has a part that is no text"))),
        }
    };
    parts.iter().enumerate().map(text).collect()
}
