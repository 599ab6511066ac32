//! Detects which format a source has, and says why, so that a wrong guess is noticed.
//!
//! The first record decides for its whole object. If its fields leave the format open, the object
//! is refused, and the hint names the option that settles it.

mod pair;

use std::collections::BTreeMap;

use proto::receipt::Place;
use proto::spec::Format;
use serde_json::{Map, Value};

use super::options::SourceOptions;
use super::read::{Body, Container, Raw};
use super::record::{self, Shape};
use super::trees;
use pair::Pair;

/// The number of records that are looked at before giving up.
const LOOKED_AT: usize = 64;
/// The number of names that an error lists.
const NAMES_SHOWN: usize = 12;

/// A detected format and the reason for it, for people to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detection {
    /// The format, never `auto`.
    pub format: Format,
    /// How the object holds its records.
    pub container: Container,
    /// The records' own names for the format's fields, where they differ and the source does not
    /// give them.
    pub fields: BTreeMap<String, String>,
    /// The record that shows the format, if one was looked at.
    pub place: Option<Place>,
    /// What shows the format: "has `instruction` and `output`", "as the run spec says".
    pub why: String,
}

impl Detection {
    /// The shape by which the object's records are read.
    pub fn shape(&self, source: &SourceOptions) -> Shape {
        let mut source = source.clone();
        source.fields.extend(self.fields.clone());
        Shape::new(&source, self.format)
    }
}

impl std::fmt::Display for Detection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let container = self.container.label();
        write!(f, "{container}, format `{}`: ", self.format.name())?;
        if let Some(place) = self.place {
            write!(f, "{place} ")?;
        }
        f.write_str(&self.why)
    }
}

/// Why a format was not detected.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The records hold better and worse answers.
    #[error(
        "{object}, {place}: has {fields}, which makes it a preference set ({kind}), not \
         instruction data\n\
         hint: keep only the better answers, as `prompt` and `completion` or as `messages`"
    )]
    Preference {
        /// The object's name.
        object: String,
        /// The record that shows this.
        place: Place,
        /// The fields that show this.
        fields: String,
        /// "DPO" or "KTO".
        kind: &'static str,
    },
    /// Several fields could be the question, or the answer.
    #[error(
        "{object}, {place}: the question could be {}, the answer {}\n\
         hint: say which under `fields`: `{{instruction: {question}, output: {answer}}}` renders \
         them with the chat template, `{{prompt: {question}, completion: {answer}}}` without one",
        quoted(questions, " or "), quoted(answers, " or "),
        question = questions[0], answer = answers[0]
    )]
    Ambiguous {
        /// The object's name.
        object: String,
        /// The record that was looked at.
        place: Place,
        /// All fields that could be the question: at least one.
        questions: Vec<String>,
        /// All fields that could be the answer: at least one.
        answers: Vec<String>,
    },
    /// No known format has the record's fields.
    #[error(
        "{object}, {place}: no known format has the fields {fields}\n\
         hint: set `format` to alpaca, sharegpt, messages, completion, oasst or text, and name odd fields \
         under `fields`, as in `fields: {{instruction: question, output: answer}}`"
    )]
    Unknown {
        /// The object's name.
        object: String,
        /// The record that was looked at.
        place: Place,
        /// The record's fields.
        fields: String,
    },
    /// Each record holds one message of a conversation.
    #[error(
        "{object}, {place}: `{text}` stands beside `{sign}`, as if each record were one message of a \
         conversation\n\
         hint: make records of whole conversations, as `messages`; `format: text` trains each \
         record as a text by itself, questions too"
    )]
    Message {
        /// The object's name.
        object: String,
        /// The record that shows this.
        place: Place,
        /// The field with the message's text.
        text: String,
        /// The field that shows this.
        sign: &'static str,
    },
    /// None of the first records is an object.
    #[error(
        "{object}: none of its first {looked_at} records is a JSON object\n\
         hint: records are JSON objects, in an array or one per line; a plain text needs `format: \
         text` or a name ending in .txt"
    )]
    NoObject {
        /// The object's name.
        object: String,
        /// The number of records that were looked at.
        looked_at: usize,
    },
}

/// Finds the format of an object's records. None if it has no records.
///
/// # Errors
/// Preference sets, unknown or ambiguous fields, and objects without a readable record.
pub fn detect(
    object: &str,
    container: Container,
    raws: &[Raw<'_>],
    source: &SourceOptions,
) -> Result<Option<Detection>, DetectError> {
    let found = |format, why: &str| {
        let why = why.to_owned();
        Ok(Some(Detection { format, container, fields: BTreeMap::new(), place: None, why }))
    };
    if source.format != Format::Auto {
        return found(source.format, "as the run spec says");
    }
    if raws.iter().all(|raw| matches!(raw.body, Body::CutOff(_))) {
        return Ok(None);
    }
    if container == Container::Document {
        return found(Format::Text, "its name says that it is not JSON");
    }
    let first = raws.iter().take(LOOKED_AT).find_map(|raw| {
        let mut record: Map<String, Value> = match &raw.body {
            Body::Json(json) => record::object(json).ok()?,
            Body::Value(row) => row.clone(),
            Body::Text(_) | Body::Broken(_) | Body::CutOff(_) => return None,
        };
        record::lift(&mut record, &source.fields);
        Some((raw.place, record))
    });
    let Some((place, record)) = first else {
        return Err(DetectError::NoObject {
            object: object.to_owned(),
            looked_at: raws.len().min(LOOKED_AT),
        });
    };
    let looks = Looks { source, record: &record };
    match looks.settle() {
        Ok((format, fields, why)) => {
            let why = format!("has {why}");
            Ok(Some(Detection { format, container, fields, place: Some(place), why }))
        }
        Err(doubt) => Err(doubt.at(object.to_owned(), place)),
    }
}

/// A record, with the source's own names for the formats' fields.
struct Looks<'a> {
    source: &'a SourceOptions,
    record: &'a Map<String, Value>,
}

/// A format, the record's names for its fields where they differ, and what shows the format.
type Settled = (Format, BTreeMap<String, String>, String);

/// Why one record does not settle the format.
enum Doubt {
    Preference(String, &'static str),
    Ambiguous {
        questions: Vec<String>,
        answers: Vec<String>,
    },
    Unknown(String),
    /// The field with the text, and the field that shows that the record is a message.
    Message(String, &'static str),
}

impl Doubt {
    fn at(self, object: String, place: Place) -> DetectError {
        match self {
            Doubt::Preference(fields, kind) => {
                DetectError::Preference { object, place, fields, kind }
            }
            Doubt::Ambiguous { questions, answers } => {
                DetectError::Ambiguous { object, place, questions, answers }
            }
            Doubt::Unknown(fields) => DetectError::Unknown { object, place, fields },
            Doubt::Message(text, sign) => DetectError::Message { object, place, text, sign },
        }
    }
}

impl Looks<'_> {
    fn settle(&self) -> Result<Settled, Doubt> {
        self.refuse_preferences()?;
        let plain = |format, why| Ok((format, BTreeMap::new(), why));
        if let Some(own) = self.own("messages") {
            return match self.first_message_has(own, "from") {
                true => plain(Format::Sharegpt, format!("`{own}` with `from`")),
                false => plain(Format::Messages, format!("`{own}`")),
            };
        }
        if let Some(own) = self.own("conversations").or_else(|| self.own("conversation")) {
            return plain(Format::Sharegpt, format!("`{own}`"));
        }
        if let Some(why) = self.all(["prompt", "completion"]) {
            return plain(Format::Completion, why);
        }
        if trees::is_tree(self.record) {
            return plain(Format::Oasst, "a `prompt` with `replies`".to_owned());
        }
        if trees::is_row(self.record) {
            let why = "`text`, `role` and `parent_id`, so the rows of each tree are joined";
            return plain(Format::Oasst, why.to_owned());
        }
        match Pair::find(self)? {
            Some(pair) => Ok((Format::Alpaca, pair.fields(), pair.why())),
            None => match (self.own("text"), self.sign_of_conversation()) {
                (Some(own), None) => plain(Format::Text, format!("`{own}`")),
                (Some(own), Some(sign)) => Err(Doubt::Message(own.to_owned(), sign)),
                (None, _) => Err(self.unknown()),
            },
        }
    }

    /// A field that a plain text would not have: one that says who speaks or what is answered, or
    /// the second of two that plain texts may have individually.
    fn sign_of_conversation(&self) -> Option<&'static str> {
        const SPEAKERS: [&str; 4] = ["role", "from", "speaker", "author_role"];
        const ANSWERED: [&str; 2] = ["parent_id", "message_tree_id"];
        const WEAK: [&str; 6] =
            ["message_id", "conversation_id", "dialog_id", "turn", "turn_id", "parent"];
        if self.source.fields.contains_key("text") {
            return None;
        }
        let says = |name: &&&str| self.record.get(**name).is_some_and(record::says_something);
        let speaks = |name: &&&str| {
            let speaker = self.record.get(**name).and_then(Value::as_str);
            speaker.is_some_and(record::is_speaker)
        };
        let strong = SPEAKERS.iter().find(speaks).or_else(|| ANSWERED.iter().find(says));
        strong.or_else(|| WEAK.iter().filter(says).nth(1)).copied()
    }

    fn refuse_preferences(&self) -> Result<(), Doubt> {
        let is_named = |name: &str| self.source.fields.values().any(|own| own == name);
        let begins = |word: &str| {
            let mut names = self.record.keys();
            names.find(|name| name.starts_with(word) && !is_named(name)).cloned()
        };
        if let (Some(chosen), Some(rejected)) = (begins("chosen"), begins("rejected")) {
            return Err(Doubt::Preference(quoted(&[chosen, rejected], " and "), "DPO"));
        }
        let answers = ["completion", "messages", "conversations"];
        let judged = self.record.get("label").is_some_and(Value::is_boolean);
        if judged && answers.iter().any(|name| self.own(name).is_some()) {
            return Err(Doubt::Preference("a `label` that is true or false".into(), "KTO"));
        }
        Ok(())
    }

    fn unknown(&self) -> Doubt {
        let names: Vec<String> = self.record.keys().take(NAMES_SHOWN).cloned().collect();
        Doubt::Unknown(quoted(&names, ", "))
    }

    /// The record's name for a field, if it has the field.
    fn own<'n>(&'n self, name: &'n str) -> Option<&'n str> {
        let own = self.source.fields.get(name).map_or(name, String::as_str);
        self.record.contains_key(own).then_some(own)
    }

    /// The record's names for the fields, if it has all of them.
    fn all<const N: usize>(&self, names: [&str; N]) -> Option<String> {
        let own: Option<Vec<String>> =
            names.iter().map(|name| self.own(name).map(str::to_owned)).collect();
        Some(quoted(&own?, " and "))
    }

    fn first_message_has(&self, list: &str, field: &str) -> bool {
        let list = self.record.get(list);
        let first = match list {
            Some(Value::Object(columns)) if record::is_of_columns(columns, &self.source.fields) => {
                list
            }
            list => list.and_then(|list| list.get(0)),
        };
        first.is_some_and(|message| message.get(field).is_some() && message.get("role").is_none())
    }
}

fn quoted(names: &[String], between: &str) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(between)
}

#[cfg(test)]
mod tests;
