//! minijinja, configured as `transformers` configures Jinja:
//! `transformers/utils/chat_template_utils.py`.
//!
//! `tests/tests/masks.rs` compares it with the original, expression by expression. Known
//! differences: `%` does not format text (it is an error), tuples print as lists, and `~` writes a
//! list's strings in double quotes.

use std::fmt::Write;

use chrono::{NaiveDate, NaiveTime};
use minijinja::value::{Kwargs, Rest, Value, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::json as exact;
use super::python::{self, BigInteger, JsonStyle};

/// The message that a template passes to `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refusal(pub(super) String);

/// An environment for chat templates, in which `strftime_now` formats the first moment of `date`.
pub(super) fn environment(date: NaiveDate) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_formatter(|out, _, value| {
        match value.as_str() {
            Some(text) => out.write_str(text)?,
            None => out.write_str(&python::str_of(value))?,
        }
        Ok(())
    });
    env.set_unknown_method_callback(method);
    env.add_filter("tojson", tojson);
    env.add_filter("string", python::str_of);
    env.add_filter("trim", trim);
    env.add_filter("join", join);
    env.add_test("iterable", |value: &Value| is_sequence(value));
    env.add_test("sequence", |value: &Value| is_sequence(value));
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", move |format: &str| strftime(date, format));
    env
}

/// A record's value as templates see it.
pub(super) fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(it) => (*it).into(),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(it), _) => it.into(),
            (None, Some(it)) => it.into(),
            (None, None) => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(value).collect::<Vec<_>>().into(),
        Json::Object(fields) => match exact::digits(json) {
            Some(digits) => match digits.parse::<i128>() {
                Ok(it) => it.into(),
                Err(_) => Value::from_object(BigInteger(digits.to_owned())),
            },
            None => value_of_fields(fields),
        },
    }
}

/// A record's object as templates see it.
pub(super) fn value_of_fields(fields: &serde_json::Map<String, serde_json::Value>) -> Value {
    fields.iter().map(|(name, field)| (name.as_str(), value(field))).collect()
}

/// In Jinja, strings and mappings are sequences and iterable too.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    )
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let refusal = Refusal(python::str_of(message));
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(refusal))
}

fn strftime(date: NaiveDate, format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let written = write!(text, "{}", date.and_time(NaiveTime::MIN).format(format));
    let unknown = || format!("strftime_now: unknown date format `{format}`");
    written.map_err(|_| Error::new(ErrorKind::InvalidOperation, unknown()))?;
    Ok(text)
}

fn tojson(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let default = if indent.is_some() { [",", ": "] } else { [", ", ": "] };
    let separators = separators.unwrap_or_else(|| default.map(str::to_owned).to_vec());
    let [item_separator, key_separator] = <[String; 2]>::try_from(separators)
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: expected two separators"))?;
    let style = JsonStyle {
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent,
        item_separator,
        key_separator,
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    python::json_of(value, &style)
}

fn trim(value: &Value, chars: Option<String>) -> String {
    strip(&python::str_of(value), chars.as_deref(), Side::Both).to_owned()
}

fn join(
    items: &Value,
    separator: Option<String>,
    attribute: Option<String>,
) -> Result<String, Error> {
    let items = items.try_iter()?.map(|item| match &attribute {
        Some(name) => item.get_attr(name).map(|value| python::str_of(&value)),
        None => Ok(python::str_of(&item)),
    });
    let items: Vec<String> = items.collect::<Result<_, _>>()?;
    Ok(items.join(&separator.unwrap_or_default()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
    Both,
}

fn strip<'a>(mut text: &'a str, chars: Option<&str>, side: Side) -> &'a str {
    let goes = |c: char| match chars {
        Some(chars) => chars.contains(c),
        None => python::is_space(c),
    };
    if side != Side::Right {
        text = text.trim_start_matches(goes);
    }
    if side != Side::Left {
        text = text.trim_end_matches(goes);
    }
    text
}

/// The methods of Python's strings: our own where minijinja's differ from Python's or are missing.
fn method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, name, args);
    };
    let side = match name {
        "strip" => Side::Both,
        "lstrip" => Side::Left,
        "rstrip" => Side::Right,
        "removeprefix" | "removesuffix" => {
            let (fix,): (&str,) = from_args(args)?;
            let cut = match name {
                "removeprefix" => text.strip_prefix(fix),
                _ => text.strip_suffix(fix),
            };
            return Ok(Value::from(cut.unwrap_or(text)));
        }
        "find" | "rfind" => {
            let (what,): (&str,) = from_args(args)?;
            let byte = if name == "find" { text.find(what) } else { text.rfind(what) };
            // Python counts characters, not bytes.
            let index = byte.map(|byte| text[..byte].chars().count() as i64);
            return Ok(Value::from(index.unwrap_or(-1)));
        }
        // In Python, these methods are false for an empty string, except for `isascii`.
        _ if text.is_empty() && name.starts_with("is") && name != "isascii" => {
            let () = from_args(args)?;
            return Ok(Value::from(false));
        }
        "split" | "rsplit" => return split(text, name == "rsplit", args),
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            return join(items, Some(text.to_owned()), None).map(Value::from);
        }
        _ => return pycompat::unknown_method_callback(state, value, name, args),
    };
    let (chars,): (Option<&str>,) = from_args(args)?;
    Ok(Value::from(strip(text, chars, side)))
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (args, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
    let sep = args.first().cloned().or(kwargs.get("sep")?);
    let limit = args.get(1).cloned().or(kwargs.get("maxsplit")?);
    let limit = limit.and_then(|limit| limit.as_i64()).unwrap_or(-1);
    let pieces = usize::try_from(limit).map_or(usize::MAX, |limit| limit.saturating_add(1));
    let sep = sep.as_ref().and_then(Value::as_str);
    let mut parts: Vec<&str> = match (sep, from_right) {
        (Some(""), _) => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        (Some(sep), false) => text.splitn(pieces, sep).collect(),
        (Some(sep), true) => text.rsplitn(pieces, sep).collect(),
        (None, false) => split_space(text, pieces),
        (None, true) if limit < 0 => split_space(text, pieces).into_iter().rev().collect(),
        (None, true) => {
            let unsupported = "rsplit on white space does not support a limit";
            return Err(Error::new(ErrorKind::InvalidOperation, unsupported));
        }
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Splits on runs of white space, without empty parts; the last part keeps what the limit leaves
/// over.
fn split_space(text: &str, pieces: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(python::is_space);
    while !rest.is_empty() {
        let end = rest.find(python::is_space).unwrap_or(rest.len());
        if parts.len() + 1 == pieces {
            parts.push(rest.trim_end_matches(python::is_space));
            break;
        }
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(python::is_space);
    }
    parts
}
