//! Reads content that is a list of parts, and the marks by which an author decides what is trained.
//!
//! Plain templates cannot read lists, so the parts of a text are joined; parts that are thoughts or
//! calls become fields of the message. A message is trained as a whole: marks that would train some
//! words of a message and not others are refused.

use proto::spec::Media;
use serde_json::{Map, Value};

use super::{Reject, json, kind, malformed, media, tools};

/// Whether a message is trained, and with what weight, if its author says so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Marks {
    pub(super) train: Option<bool>,
    pub(super) weight: Option<f32>,
}

/// The marks for whether a message is trained: ours, ms-swift's, and torchtune's, which means the
/// opposite.
const TRAIN: [(&str, bool); 3] = [("train", true), ("loss", true), ("masked", false)];
/// The marks for the weight: ours, and LLaMA-Factory's.
const WEIGHT: [&str; 2] = ["weight", "loss_weight"];
/// Marks that apply to single words, or that mean something else.
const UNKNOWN: [&str; 3] = ["train_detail", "loss_scale", "loss_mask"];

impl Marks {
    /// Takes the marks out of the fields of a message or of a part.
    ///
    /// # Errors
    /// Marks that are invalid, that contradict each other, or that are not supported here.
    pub(super) fn take(fields: &mut Map<String, Value>, at: &str) -> Result<Marks, Reject> {
        let mut marks = Marks::default();
        for (name, means) in TRAIN {
            let train = match fields.shift_remove(name) {
                None | Some(Value::Null) => continue,
                Some(Value::Bool(said)) => said == means,
                Some(other) => {
                    let found = kind(&other);
                    return Err(malformed(format!(
                        "{at}.{name} must be true or false, got {found}"
                    )));
                }
            };
            if marks.train.replace(train).is_some_and(|before| before != train) {
                return Err(malformed(format!(
                    "{at} is marked both as trained and as not trained: see its `{name}`"
                )));
            }
        }
        for name in WEIGHT {
            let weight = match fields.shift_remove(name) {
                None | Some(Value::Null) => continue,
                Some(value) => {
                    let weight = value.as_f64().map(|w| w as f32);
                    let valid = weight.filter(|w| w.is_finite() && *w >= 0.0);
                    let bad = || format!("{at}.{name} must be a number of at least 0, got {value}");
                    valid.ok_or_else(|| malformed(bad()))?
                }
            };
            if marks.weight.replace(weight).is_some_and(|before| before != weight) {
                return Err(malformed(format!("{at} has two weights: see its `{name}`")));
            }
        }
        let says = |name: &&&str| fields.get(**name).is_some_and(|value| !value.is_null());
        match UNKNOWN.iter().find(says) {
            None => Ok(marks),
            Some(name) => {
                let detail = format!(
                    "{at} has `{name}`, which marks what is trained in a way that is not supported \
                     here\nhint: `train: false` or `weight: 0.5` on a message applies to the whole message"
                );
                Err(malformed(detail))
            }
        }
    }

    /// These marks, and `other` where these say nothing.
    pub(super) fn or(self, other: Marks) -> Marks {
        Marks { train: self.train.or(other.train), weight: self.weight.or(other.weight) }
    }
}

/// Joins the parts of a content into a text. Returns the marks, on which all parts must agree.
///
/// # Errors
/// A part that is neither text nor anything else that a message may have.
pub(super) fn settle(
    fields: &mut Map<String, Value>,
    at: &str,
    media: Media,
) -> Result<Marks, Reject> {
    let Some(Value::Array(parts)) = fields.get_mut("content") else {
        return Ok(Marks::default());
    };
    let mut said = Said::default();
    for (i, part) in std::mem::take(parts).into_iter().enumerate() {
        said.add(part, &format!("{at}[{i}]"), at, media)?;
    }
    let Said { text, reasoning, calls, marks } = said;
    fields.insert("content".into(), Value::from(text));
    for (name, value) in [
        ("reasoning_content", (!reasoning.is_empty()).then(|| Value::from(reasoning))),
        ("tool_calls", (!calls.is_empty()).then(|| Value::Array(tools::typed(calls)))),
    ] {
        let Some(value) = value else { continue };
        if fields.get(name).is_some_and(|value| !value.is_null()) {
            return Err(malformed(format!(
                "{at} has parts for `{name}`, which the message also has as a field"
            )));
        }
        fields.insert(name.into(), value);
    }
    Ok(marks.unwrap_or_default())
}

/// The combined content of the parts.
#[derive(Default)]
struct Said {
    text: String,
    reasoning: String,
    calls: Vec<Value>,
    marks: Option<Marks>,
}

impl Said {
    fn add(&mut self, part: Value, at: &str, list: &str, media: Media) -> Result<(), Reject> {
        let Value::Object(mut part) = part else {
            return Err(malformed(format!("{list} has a part that is not text")));
        };
        let marks = Marks::take(&mut part, at)?;
        let kind = part.get("type").and_then(Value::as_str).map(str::to_owned);
        let under = |name: &str| part.get(name).and_then(Value::as_str);
        let text = under("text").or_else(|| under("value"));
        match kind.as_deref() {
            None | Some("text" | "input_text" | "output_text") if text.is_some() => {
                self.text += text.unwrap_or_default();
            }
            Some(name @ ("reasoning" | "thinking"))
                if let Some(text) = text.or_else(|| under(name)) =>
            {
                self.reasoning += text;
            }
            Some("tool_call" | "function_call") => self.calls.push(call(&part, at)?),
            Some(kind) if media::is_media(kind) => {
                return match media {
                    Media::Text => Ok(()),
                    Media::Refuse | Media::Drop => Err(media::refused(at, kind)),
                };
            }
            Some(kind) => {
                return Err(malformed(format!("{at} is of the type `{kind}`, which is not text")));
            }
            None => return Err(malformed(format!("{list} has a part that is not text"))),
        }
        if self.marks.replace(marks).is_some_and(|before| before != marks) {
            let detail = format!(
                "{list} trains some of its parts and not others; a message is trained as a whole\n\
                 hint: make them separate messages, or put `train` on the message"
            );
            return Err(malformed(detail));
        }
        Ok(())
    }
}

/// Reads a part that is a call: an object, or a text that contains one as JSON.
fn call(part: &Map<String, Value>, at: &str) -> Result<Value, Reject> {
    let value = ["value", "tool_call", "function_call", "text"];
    let value = value.iter().find_map(|name| part.get(*name));
    match value {
        Some(Value::String(text)) => json::parse(text.as_bytes())
            .map_err(|error| malformed(format!("{at} is not a call as JSON: {error}"))),
        Some(call @ Value::Object(_)) => Ok(call.clone()),
        _ => Err(malformed(format!("{at} must be a call, as an object or as a JSON text"))),
    }
}

/// Requires a message to have a text or calls.
///
/// # Errors
/// A message that has neither, or whose content is not a text.
pub(super) fn require_content(
    fields: &Map<String, Value>,
    at: &str,
    own: &str,
) -> Result<(), Reject> {
    let has_calls = fields.get("tool_calls").is_some_and(|calls| !calls.is_null());
    match fields.get("content") {
        Some(Value::String(_)) => Ok(()),
        None | Some(Value::Null) if has_calls => Ok(()),
        None => Err(malformed(format!("{at} has no `{own}`"))),
        Some(other) => Err(malformed(format!("{at}.{own} must be a text, got {}", kind(other)))),
    }
}
