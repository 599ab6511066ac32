//! Typed access to a `config.json`, with errors that name the key, its value and what is allowed.

use std::path::Path;

use serde_json::{Map, Value};

use crate::model::error::Error;

/// Larger than any dimension of an existing model, and the product of two stays far from overflow.
const LARGEST_SIZE: u64 = 1 << 24;

/// A JSON object, and the file to name in errors.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    file: &'a Path,
    /// Prefix of the object's keys: empty, or the key that holds the object and a full stop.
    within: &'static str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(file: &'a Path, object: &'a Map<String, Value>) -> Self {
        Self { file, within: "", object }
    }

    /// The object under `key`; `within` is `key` followed by a full stop.
    pub(super) fn inner(self, key: &str, within: &'static str) -> Result<Option<Self>, Error> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Self { within, object, ..self })),
            Some(_) => Err(self.wrong(key, "an object".to_owned())),
        }
    }

    pub(super) fn has_objects(self) -> Option<&'a str> {
        self.object.iter().find(|(_, value)| value.is_object()).map(|(key, _)| key.as_str())
    }

    /// Whether `key` has a value other than null and false.
    pub(super) fn is_set(self, key: &str) -> bool {
        !matches!(self.object.get(key), None | Some(Value::Null | Value::Bool(false)))
    }

    /// A positive whole number; `absent` if there is no such key, `None` if it is null.
    pub(super) fn size(self, key: &str, absent: usize) -> Result<Option<usize>, Error> {
        match self.object.get(key) {
            None => Ok(Some(absent)),
            Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(size @ 1..=LARGEST_SIZE) => Ok(Some(size as usize)),
                _ => Err(self.wrong(key, format!("a whole number from 1 to {LARGEST_SIZE}"))),
            },
        }
    }

    /// A positive whole number without a default.
    pub(super) fn required(self, key: &str) -> Result<usize, Error> {
        // An absent key is treated like null: neither is a size.
        match self.object.get(key).map(|_| self.size(key, 1)).transpose()?.flatten() {
            Some(size) => Ok(size),
            None => Err(self.wrong(key, format!("a whole number from 1 to {LARGEST_SIZE}"))),
        }
    }

    /// A whole number that may be zero.
    pub(super) fn count(self, key: &str, absent: usize) -> Result<usize, Error> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(absent),
            Some(value) => value
                .as_u64()
                .filter(|count| *count <= LARGEST_SIZE)
                .map(|count| count as usize)
                .ok_or_else(|| self.wrong(key, format!("a whole number up to {LARGEST_SIZE}"))),
        }
    }

    pub(super) fn number(self, key: &str, absent: f64) -> Result<f64, Error> {
        Ok(self.optional_number(key)?.unwrap_or(absent))
    }

    pub(super) fn optional_number(self, key: &str) -> Result<Option<f64>, Error> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() => Ok(Some(number)),
                _ => Err(self.wrong(key, "a number".to_owned())),
            },
        }
    }

    pub(super) fn positive(self, key: &str) -> Result<f64, Error> {
        match self.optional_number(key)? {
            Some(number) if number > 0.0 => Ok(number),
            _ => Err(self.wrong(key, "a number above 0".to_owned())),
        }
    }

    pub(super) fn flag(self, key: &str, absent: bool) -> Result<bool, Error> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(absent),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(key, "true or false".to_owned())),
        }
    }

    pub(super) fn text(self, key: &str) -> Result<Option<&'a str>, Error> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a string".to_owned())),
        }
    }

    /// Each layer's window, from `layer_types` if the file has it, else from `sliding`.
    pub(super) fn layer_types(
        self,
        layers: usize,
        sliding: impl Fn(usize) -> bool,
        window: Option<usize>,
    ) -> Result<Vec<Option<usize>>, Error> {
        const KEY: &str = "layer_types";
        let Some(types) = self.object.get(KEY).filter(|types| !types.is_null()) else {
            return Ok((0..layers).map(|layer| window.filter(|_| sliding(layer))).collect());
        };
        let types = types.as_array().filter(|types| types.len() == layers);
        let types = types.ok_or_else(|| self.wrong(KEY, format!("a list of {layers}")))?;
        let one = |(layer, kind): (usize, &Value)| match (kind.as_str(), window) {
            (Some("full_attention"), _) => Ok(None),
            (Some("sliding_attention"), Some(window)) => Ok(Some(window)),
            (Some("sliding_attention"), None) => Err(Error::Config {
                file: self.file.to_owned(),
                what: format!(
                    "`layer_types[{layer}]` is `sliding_attention`, but no window is set"
                ),
            }),
            _ => Err(Error::NotImplemented {
                file: self.file.to_owned(),
                what: format!("`layer_types[{layer}]` {kind} is not implemented"),
                hint: "`full_attention` and `sliding_attention` are supported".to_owned(),
            }),
        };
        types.iter().enumerate().map(one).collect()
    }

    /// The error for a `key` whose value is not allowed.
    pub(super) fn wrong(self, key: &str, must: String) -> Error {
        let found = match self.object.get(key) {
            None => "it is missing".to_owned(),
            Some(value) => format!("got `{}`", short(value)),
        };
        let what = format!("`{}{key}` must be {must}; {found}", self.within);
        Error::Config { file: self.file.to_owned(), what }
    }

    /// The error for a `key` whose value is valid but not implemented here.
    pub(super) fn not_implemented(self, key: &str, hint: String) -> Error {
        let value = self.object.get(key).map(short).unwrap_or_default();
        let what = format!("{}{key} `{value}` is not implemented", self.within);
        Error::NotImplemented { file: self.file.to_owned(), what, hint }
    }
}

/// A value for an error message, truncated if it is too long for a line.
fn short(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
