//! The field tables of the served kinds: what decoding accepts, and how lists merge.
//!
//! One table (`schema.txt`) serves strict field validation, pruning of unknown fields, type errors, strategic merge
//! keys and the list topology of server-side apply. It does not know which fields are required; that is validation.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

use crate::base64;
use crate::quantity;

/// The type of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Any JSON value, kept as it is.
    Any,
    Text,
    Int32,
    Int64,
    Bool,
    Quantity,
    IntOrString,
    Time,
    /// Base64 text.
    Bytes,
    /// A named type of the table.
    Struct(String),
    Map {
        values: Box<Shape>,
        atomic: bool,
    },
    List {
        items: Box<Shape>,
        merge: Merge,
    },
}

/// How the entries of a list are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// The list is replaced as a whole.
    Atomic,
    /// Entries are objects identified by these fields; the first is the strategic merge key.
    ByKeys(Vec<String>),
    /// Entries are scalars identified by their value.
    Set,
}

type Fields = HashMap<String, Shape>;

fn types() -> &'static HashMap<String, Fields> {
    static TYPES: OnceLock<HashMap<String, Fields>> = OnceLock::new();
    TYPES.get_or_init(|| parse(include_str!("schema.txt")))
}

/// The shape of field `name` of type `of`, if the type has such a field.
pub(crate) fn field(of: &str, name: &str) -> Option<&'static Shape> {
    types().get(of)?.get(name)
}

/// The shape of the objects of `kind`; kinds without a table accept anything.
pub(crate) fn of_kind(kind: &str) -> Shape {
    if types().contains_key(kind) { Shape::Struct(kind.to_owned()) } else { Shape::Any }
}

/// What decoding an object found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Paths of fields that the kind does not have.
    pub(crate) unknown: Vec<String>,
    /// The first field whose JSON type does not fit, in the words of Go's decoder.
    pub(crate) mismatch: Option<String>,
}

/// Removes unknown fields and nulls from `value` and reports them together with type errors.
pub(crate) fn decode(kind: &str, value: &mut Value) -> Decoded {
    let mut decoded = Decoded::default();
    let at = Place { owner: kind, path: String::new() };
    decode_at(&of_kind(kind), value, &at, &mut decoded);
    decoded.unknown.sort();
    decoded
}

/// The struct that holds a field and the path of the field from the root.
struct Place<'a> {
    owner: &'a str,
    path: String,
}

impl Place<'_> {
    fn child<'b>(&'b self, owner: &'b str, name: &str) -> Place<'b> {
        let path =
            if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Place { owner, path }
    }

    fn index(&self, index: usize) -> Place<'_> {
        Place { owner: self.owner, path: format!("{}[{index}]", self.path) }
    }
}

fn decode_at(shape: &Shape, value: &mut Value, at: &Place<'_>, decoded: &mut Decoded) {
    match (shape, value) {
        (Shape::Any, _) | (_, Value::Null) => {}
        (Shape::Struct(owner), Value::Object(map)) => {
            map.retain(|name, child| {
                let known = field(owner, name).is_some();
                if !known {
                    decoded.unknown.push(at.child(owner, name).path);
                }
                known && !child.is_null()
            });
            for (name, child) in map {
                if let Some(shape) = field(owner, name) {
                    decode_at(shape, child, &at.child(owner, name), decoded);
                }
            }
        }
        (Shape::Map { values, .. }, Value::Object(map)) => {
            for (key, child) in map {
                decode_at(values, child, &at.child(at.owner, key), decoded);
            }
        }
        (Shape::List { items, .. }, Value::Array(list)) => {
            for (index, child) in list.iter_mut().enumerate() {
                decode_at(items, child, &at.index(index), decoded);
            }
        }
        (Shape::Quantity, value @ (Value::String(_) | Value::Number(_))) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            // What is no quantity is left to validation, which names the field.
            *value = quantity::canonical(&text).unwrap_or(text).into();
        }
        (shape, value) => {
            if !scalar_fits(shape, value) && decoded.mismatch.is_none() {
                decoded.mismatch = Some(mismatch(shape, value, at));
            }
        }
    }
}

fn scalar_fits(shape: &Shape, value: &Value) -> bool {
    match shape {
        Shape::Text | Shape::Time => value.is_string(),
        Shape::Bytes => value.as_str().is_some_and(|text| base64::decode(text).is_some()),
        Shape::Int32 => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        Shape::Int64 => value.is_i64(),
        Shape::Bool => value.is_boolean(),
        Shape::Quantity => value.is_string() || value.is_number(),
        Shape::IntOrString => value.is_string() || value.is_i64(),
        Shape::Any => true,
        Shape::Struct(_) | Shape::Map { .. } | Shape::List { .. } => false,
    }
}

fn mismatch(shape: &Shape, value: &Value, at: &Place<'_>) -> String {
    if *shape == Shape::Bytes && value.is_string() {
        return "illegal base64 data at input byte 0".to_owned();
    }
    let found = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if matches!(shape, Shape::Int32 | Shape::Int64) => {
            format!("number {number}")
        }
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    let place = strip_indexes(&at.path);
    format!(
        "json: cannot unmarshal {found} into Go struct field {}.{place} of type {}",
        at.owner,
        go_type(shape)
    )
}

fn strip_indexes(path: &str) -> String {
    path.split('.')
        .map(|field| field.split('[').next().unwrap_or(field))
        .collect::<Vec<_>>()
        .join(".")
}

fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::Any => "interface {}".to_owned(),
        Shape::Text => "string".to_owned(),
        Shape::Int32 => "int32".to_owned(),
        Shape::Int64 => "int64".to_owned(),
        Shape::Bool => "bool".to_owned(),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::IntOrString => "intstr.IntOrString".to_owned(),
        Shape::Time => "v1.Time".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Struct(name) => format!("v1.{name}"),
        Shape::Map { values, .. } => format!("map[string]{}", go_type(values)),
        Shape::List { items, .. } => format!("[]{}", go_type(items)),
    }
}

fn parse(text: &str) -> HashMap<String, Fields> {
    let mut types: HashMap<String, Fields> = HashMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let mut words = line.split_whitespace().peekable();
        if !line.starts_with(' ') {
            let name = words.next().expect("a line that is not blank has a word");
            current = name.trim_end_matches(':').to_owned();
        }
        let fields = types.entry(current.clone()).or_default();
        for word in words {
            let (name, shape) =
                word.split_once(':').expect("every field of schema.txt is NAME:TYPE");
            fields.insert(name.to_owned(), parse_shape(shape));
        }
    }
    types
}

fn parse_shape(text: &str) -> Shape {
    if let Some(rest) = text.strip_prefix('{') {
        let (values, suffix) = rest.split_once('}').expect("a map type of schema.txt is closed");
        return Shape::Map { values: Box::new(parse_shape(values)), atomic: suffix == "!" };
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (items, suffix) = rest.split_once(']').expect("a list type of schema.txt is closed");
        let merge = match suffix.strip_prefix('@') {
            Some(keys) => Merge::ByKeys(keys.split(',').map(str::to_owned).collect()),
            None if suffix == "+" => Merge::Set,
            None => Merge::Atomic,
        };
        return Shape::List { items: Box::new(parse_shape(items)), merge };
    }
    match text {
        "any" => Shape::Any,
        "str" => Shape::Text,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "bool" => Shape::Bool,
        "quantity" => Shape::Quantity,
        "intstr" => Shape::IntOrString,
        "time" => Shape::Time,
        "bytes" => Shape::Bytes,
        name => Shape::Struct(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_named_type_is_in_the_table() {
        fn check(shape: &Shape) {
            match shape {
                Shape::Struct(name) => assert!(types().contains_key(name), "{name} is not defined"),
                Shape::Map { values: inner, .. } | Shape::List { items: inner, .. } => check(inner),
                _ => {}
            }
        }
        types().values().flat_map(HashMap::values).for_each(check);
    }

    #[test]
    fn unknown_fields_are_reported_and_removed() {
        let mut job =
            json!({"spec": {"replicas": 1, "template": {"spec": {"containers": [{"nam": "a"}]}}}});
        let decoded = decode("Job", &mut job);
        assert_eq!(decoded.unknown, ["spec.replicas", "spec.template.spec.containers[0].nam"]);
        assert_eq!(job, json!({"spec": {"template": {"spec": {"containers": [{}]}}}}));
    }

    #[test]
    fn a_wrong_type_is_named_as_go_names_it() {
        let decoded = decode("Job", &mut json!({"spec": {"parallelism": "2"}}));
        let expected = "json: cannot unmarshal string into Go struct field JobSpec.spec.parallelism of type int32";
        assert_eq!(decoded.mismatch.as_deref(), Some(expected));
    }
}
