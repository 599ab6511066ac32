//! Which format a source has, and why: said, so that a wrong guess is seen.

use serde_json::{Map, Value};

use super::container::{Body, Container, Raw};
use super::options::{Format, SourceOptions};

/// Records looked at before giving up.
const LOOKED_AT: usize = 64;

/// What was detected, for people to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detection {
    /// The format, never `auto`.
    pub format: Format,
    /// How the object holds its records.
    pub container: Container,
    /// "its first record (line 1) has `instruction` and `output`".
    pub why: String,
}

impl std::fmt::Display for Detection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let container = self.container.label();
        write!(f, "{container}, format `{}`: {}", self.format.name(), self.why)
    }
}

/// Why a format was not detected.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// Pairs of a better and a worse answer.
    #[error(
        "{object}, {place}: has `chosen` and `rejected`, which makes it a preference set (DPO), \
         not instruction data\n\
         hint: keep only the better answer, as `prompt` and `completion` or as `messages`"
    )]
    Preference {
        /// The object's name.
        object: String,
        /// The record that shows it.
        place: proto::receipt::Place,
    },
    /// `conversations` with `from` and `value`.
    #[error(
        "{object}, {place}: has `conversations` (ShareGPT), which is not read yet\n\
         hint: write them as `messages` with `role` and `content`"
    )]
    ShareGpt {
        /// The object's name.
        object: String,
        /// The record that shows it.
        place: proto::receipt::Place,
    },
    /// Other fields.
    #[error(
        "{object}, {place}: no known format has the fields {fields}\n\
         hint: set `format` to alpaca, messages, completion or text, and name odd fields under \
         `fields`, as in `fields: {{instruction: question, output: answer}}`"
    )]
    Unknown {
        /// The object's name.
        object: String,
        /// The record that was looked at.
        place: proto::receipt::Place,
        /// Its fields.
        fields: String,
    },
    /// Nothing to look at.
    #[error(
        "{object}: none of its first {looked_at} records is a JSON object\n\
         hint: records are JSON objects, in an array or one per line; a plain text needs `format: \
         text` or a name ending in .txt"
    )]
    NoObject {
        /// The object's name.
        object: String,
        /// Records that were tried.
        looked_at: usize,
    },
}

/// Finds the format of an object's records; nothing where it has no records.
///
/// # Errors
/// Preference sets, ShareGPT, unknown fields, and objects without a readable record.
pub fn detect(
    object: &str,
    container: Container,
    raws: &[Raw<'_>],
    source: &SourceOptions,
) -> Result<Option<Detection>, DetectError> {
    let found = |format, why: String| {
        let why = why.trim_end().to_owned();
        Ok(Some(Detection { format, container, why }))
    };
    if source.format != Format::Auto {
        return found(source.format, "as the run spec says".into());
    }
    if raws.is_empty() {
        return Ok(None);
    }
    if container == Container::Document {
        return found(Format::Text, "its name says that it is no JSON".into());
    }
    let first = raws.iter().take(LOOKED_AT).find_map(|raw| {
        let record: Map<String, Value> = match &raw.body {
            Body::Json(json) => serde_json::from_slice(json).ok()?,
            Body::Value(row) => row.clone(),
            Body::Text(_) | Body::Broken(_) => return None,
        };
        Some((raw.place, record))
    });
    let Some((place, record)) = first else {
        return Err(DetectError::NoObject {
            object: object.to_owned(),
            looked_at: raws.len().min(LOOKED_AT),
        });
    };
    let object = object.to_owned();
    let field = |name: &str| {
        let own = source.fields.get(name).map_or(name, String::as_str);
        record.contains_key(own).then(|| format!("`{own}`"))
    };
    if field("chosen").is_some() && field("rejected").is_some() {
        return Err(DetectError::Preference { object, place });
    }
    let formats: [(Format, &[&str]); 4] = [
        (Format::Messages, &["messages"]),
        (Format::Alpaca, &["instruction", "output"]),
        (Format::Completion, &["prompt", "completion"]),
        (Format::Text, &["text"]),
    ];
    for (format, names) in formats {
        let fields: Option<Vec<String>> = names.iter().map(|name| field(name)).collect();
        if let Some(fields) = fields {
            return found(format, format!("{place} has {}", fields.join(" and ")));
        }
    }
    if field("conversations").is_some() || field("conversation").is_some() {
        return Err(DetectError::ShareGpt { object, place });
    }
    let names: Vec<String> = record.keys().take(12).map(|key| format!("`{key}`")).collect();
    Err(DetectError::Unknown { object, place, fields: names.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::super::container::split;
    use super::*;

    fn detect_text(object: &str, text: &str) -> Result<Option<Detection>, DetectError> {
        let (container, raws) = split(object, text.as_bytes(), false).expect("splits");
        detect(object, container, &raws, &SourceOptions::default())
    }

    #[test]
    fn detection_says_what_it_saw() {
        for (object, text, expected) in [
            (
                "a.json",
                r#"[{"instruction": "", "input": "", "output": ""}]"#,
                "a JSON array, format `alpaca`: record 1 (line 1) has `instruction` and `output`",
            ),
            (
                "a.jsonl",
                "{broken\n{\"messages\": []}",
                "JSON lines, format `messages`: line 2 has `messages`",
            ),
            (
                "a.jsonl",
                r#"{"prompt": "", "completion": ""}"#,
                "JSON lines, format `completion`: line 1 has `prompt` and `completion`",
            ),
            ("a.jsonl", r#"{"text": ""}"#, "JSON lines, format `text`: line 1 has `text`"),
            ("a.txt", "{", "a text, format `text`: its name says that it is no JSON"),
        ] {
            let detection = detect_text(object, text).expect(text).expect(text);
            assert_eq!(detection.to_string(), expected);
        }
        assert_eq!(detect_text("a.json", "[]").expect("empty is no error"), None);
    }

    #[test]
    fn what_cannot_be_trained_on_is_refused_with_a_hint() {
        for (text, expected) in [
            (r#"{"prompt": "", "chosen": "", "rejected": ""}"#, "preference set"),
            (r#"{"conversations": []}"#, "ShareGPT"),
            (r#"{"q": 1, "a": 2}"#, "no known format has the fields `q`, `a`"),
            ("broken\nbroken", "none of its first 2 records is a JSON object"),
        ] {
            let error = detect_text("a.jsonl", text).expect_err(text).to_string();
            assert!(error.starts_with("a.jsonl"), "{error}");
            assert!(error.contains(expected) && error.contains("\nhint: "), "{error}");
        }
    }
}
