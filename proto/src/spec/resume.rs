//! Whether a run can be resumed with a changed spec.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::{Error, Problem};
use super::{Draft, Spec, schema};

/// The keys that may change when a run is resumed: none of them changes the result of a step.
const MAY_CHANGE: [&str; 9] = [
    "name",
    "workers",
    "ring",
    "checkpoint",
    "output",
    "train.micro_batch",
    "train.recompute",
    "data.eval.every",
    "data.eval.at_start",
];

/// Checks whether a run that was started with `old` may be resumed with `new`.
///
/// # Errors
/// The list of all fields of data, model and training that differ and must not. The user can start a new run from the
/// checkpoint instead.
pub fn compatible_for_resume(old: &Spec, new: &Spec) -> Result<(), Error> {
    let (old, new) = (fields(old), fields(new));
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut problems: Vec<Problem> = names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| {
            let show = |value: Option<&Value>| match value {
                Some(value) => format!("`{}`", value.to_string().trim_matches('"')),
                None => "left out".into(),
            };
            let (old, new) = (show(old.get(name)), show(new.get(name)));
            Problem::new(name, format!("cannot change from {old} to {new} in the middle of a run"))
        })
        .collect();
    match problems.pop() {
        None => Ok(()),
        Some(last) => {
            problems.push(last.hint(
                "undo the change, or start a new run from the checkpoint: \
                 write a new `name`, and the checkpoint's model folder as `model.base`",
            ));
            Err(Error::Invalid(problems))
        }
    }
}

/// The fields that must not change, by path.
fn fields(spec: &Spec) -> BTreeMap<String, Value> {
    let value = serde_json::to_value(Draft::from(spec)).expect("a draft is plain JSON");
    let mut fields = BTreeMap::new();
    flatten(value, "", &mut fields);
    fields
}

fn flatten(value: Value, path: &str, fields: &mut BTreeMap<String, Value>) {
    if MAY_CHANGE.contains(&path) {
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(value, &schema::join(path, &key), fields);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.into_iter().enumerate() {
                flatten(item, &format!("{path}[{index}]"), fields);
            }
        }
        leaf => {
            fields.insert(path.to_owned(), leaf);
        }
    }
}
