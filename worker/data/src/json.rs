//! JSON as Python reads and writes it, where that differs from `serde_json`: integers of any size
//! keep their value, and `NaN` and `Infinity`, which `json.dumps` writes for missing values, are
//! read as null.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde_json::{Error, Map, Value};

/// The only key of an object that stands for an integer beyond 64 bits; its value holds the digits.
/// The character is one that Unicode reserves for internal use.
const DIGITS: &str = "\u{fdd3}";
/// The fewest digits of an integer beyond 64 bits.
const FEWEST: usize = 19;

/// Reads a JSON value.
///
/// # Errors
/// Those of `serde_json`.
pub(super) fn parse(json: &[u8]) -> Result<Value, Error> {
    let exact = match has_many_digits(json) {
        true => rewritten(json, big_integer),
        false => Cow::Borrowed(json),
    };
    serde_json::from_slice(&exact).or_else(|error| {
        let plain = match rewritten(&exact, no_number) {
            Cow::Borrowed(_) => None,
            Cow::Owned(plain) => serde_json::from_slice(&plain).ok(),
        };
        // The error refers to a place in the original text.
        plain.ok_or_else(|| serde_json::from_slice::<IgnoredAny>(json).err().unwrap_or(error))
    })
}

/// The digits of an integer beyond 64 bits.
pub(super) fn digits(value: &Value) -> Option<&str> {
    match value {
        Value::Object(fields) if fields.len() == 1 => fields.get(DIGITS)?.as_str(),
        _ => None,
    }
}

/// Writes a JSON value.
pub(super) fn text(value: &Value) -> String {
    if !has_digits(value) {
        return value.to_string();
    }
    let text = marked(value).to_string();
    text.replace(&format!("\"{DIGITS}"), "").replace(&format!("{DIGITS}\""), "")
}

fn has_digits(value: &Value) -> bool {
    digits(value).is_some()
        || match value {
            Value::Array(items) => items.iter().any(has_digits),
            Value::Object(fields) => fields.values().any(has_digits),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
}

/// The value with marked strings in place of integers beyond 64 bits.
fn marked(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(marked).collect(),
        Value::Object(fields) => match digits(value) {
            Some(digits) => format!("{DIGITS}{digits}{DIGITS}").into(),
            None => Value::Object(fields.iter().map(|(n, v)| (n.clone(), marked(v))).collect()),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Whether there may be an integer beyond 64 bits.
fn has_many_digits(json: &[u8]) -> bool {
    let is_digit = |at: usize| json.get(at).is_some_and(u8::is_ascii_digit);
    // A run of `FEWEST` digits covers one of these positions.
    (FEWEST - 1..json.len()).step_by(FEWEST).any(|at| {
        is_digit(at) && {
            let before = json[..at].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
            let after = json[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            before + after >= FEWEST
        }
    })
}

/// Replaces the bare words, those outside of strings, for which `other` has another text.
fn rewritten(json: &[u8], other: impl Fn(&[u8]) -> Option<String>) -> Cow<'_, [u8]> {
    let is_bare = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let mut out = Vec::new();
    let (mut done, mut at) = (0, 0);
    while at < json.len() {
        if json[at] == b'"' {
            at += 1;
            while at < json.len() && json[at] != b'"' {
                at += if json[at] == b'\\' { 2 } else { 1 };
            }
            at += 1;
        } else if is_bare(&json[at]) {
            let length = json[at..].iter().take_while(|byte| is_bare(byte)).count();
            if let Some(word) = other(&json[at..at + length]) {
                out.extend_from_slice(&json[done..at]);
                out.extend_from_slice(word.as_bytes());
                done = at + length;
            }
            at += length;
        } else {
            at += 1;
        }
    }
    if done == 0 {
        return Cow::Borrowed(json);
    }
    out.extend_from_slice(&json[done..]);
    Cow::Owned(out)
}

fn big_integer(word: &[u8]) -> Option<String> {
    let word = std::str::from_utf8(word).ok()?;
    let digits = word.strip_prefix('-').unwrap_or(word);
    let is_integer = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    let fits = || word.parse::<i64>().is_ok() || word.parse::<u64>().is_ok();
    (is_integer && digits.len() >= FEWEST && !fits()).then(|| {
        let object = Map::from_iter([(DIGITS.to_owned(), Value::from(word))]);
        Value::Object(object).to_string()
    })
}

fn no_number(word: &[u8]) -> Option<String> {
    [&b"NaN"[..], b"Infinity", b"-Infinity"].contains(&word).then(|| "null".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn integers_of_any_size_stay_what_they_are() {
        for number in [
            "18446744073709551616",
            "-9223372036854775809",
            "1000000000000000000000",
            "340282366920938463463374607431768211456000",
        ] {
            let json = format!(r#"{{"a": [{number}, "{number}"], "b":{number}}}"#);
            let value = parse(json.as_bytes()).expect("JSON");
            assert_eq!(digits(&value["a"][0]), Some(number));
            assert_eq!(value["a"][1], number);
            assert_eq!(text(&value), format!(r#"{{"a":[{number},"{number}"],"b":{number}}}"#));
        }
        for number in ["18446744073709551615", "-9223372036854775808", "1234567890123456789.5"] {
            let value = parse(number.as_bytes()).expect("JSON");
            assert_eq!(value, serde_json::from_str::<Value>(number).expect("JSON"), "{number}");
        }
        assert!(parse(b"012345678901234567890").is_err(), "not JSON in Python either");
    }

    #[test]
    fn nan_and_infinity_are_read_as_null() {
        let value = parse(br#"{"a": NaN, "b": [-Infinity, Infinity], "c": "NaN \" NaN"}"#);
        assert_eq!(
            value.expect("Python's JSON"),
            json!({"a": null, "b": [null, null], "c": "NaN \" NaN"})
        );
        for broken in [&br#"{"a": NaN"#[..], br#"{"a": nan}"#, br#"{"a": "b"#, b"\"\\"] {
            assert!(parse(broken).is_err());
        }
    }
}
