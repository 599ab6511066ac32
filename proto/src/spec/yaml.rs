//! Parses YAML into JSON values, which are all that a spec needs.

use serde_json::{Map, Number, Value};
use serde_yaml_ng::Value as Yaml;

use super::error::{Error, Problem};
use super::{MAX_BYTES, schema};

/// Parses a text. Values that JSON cannot represent are added to `problems`.
///
/// # Errors
/// A text that is too long or is not valid YAML.
pub(super) fn read(text: &str, problems: &mut Vec<Problem>) -> Result<Value, Error> {
    if text.len() > MAX_BYTES {
        return Err(Error::TooLarge { bytes: text.len() });
    }
    let yaml = serde_yaml_ng::from_str(text).map_err(|error| {
        let what = error.to_string();
        let hint = match what.contains("duplicate entry") {
            true => "a key may occur only once in a map; remove one of them",
            false => {
                "indent with spaces, put a space after each `:`, and quote text that contains `:`"
            }
        };
        Error::Syntax { what, hint }
    })?;
    Ok(to_json(yaml, "", problems))
}

fn to_json(value: Yaml, path: &str, problems: &mut Vec<Problem>) -> Value {
    match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(bool) => Value::Bool(bool),
        Yaml::Number(number) => {
            let whole = number.as_u64().map(Number::from);
            let whole = whole.or_else(|| number.as_i64().map(Number::from));
            let json = whole.or_else(|| number.as_f64().and_then(Number::from_f64));
            match json {
                Some(json) => Value::Number(json),
                None => {
                    let what = format!("must be a finite number, got `{number}`");
                    problems.push(Problem::new(path, what));
                    Value::Null
                }
            }
        }
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(items) => {
            let items = items.into_iter().enumerate();
            let items = items.map(|(i, item)| to_json(item, &format!("{path}[{i}]"), problems));
            Value::Array(items.collect())
        }
        Yaml::Mapping(map) => {
            let mut json = Map::new();
            for (key, value) in map {
                let key = match key {
                    Yaml::String(key) => key,
                    other => serde_yaml_ng::to_string(&other).unwrap_or_default().trim().to_owned(),
                };
                let path = schema::join(path, &key);
                json.insert(key, to_json(value, &path, problems));
            }
            Value::Object(json)
        }
        Yaml::Tagged(tagged) => {
            let problem = Problem::new(path, format!("has the tag `{}`", tagged.tag));
            problems.push(problem.hint("leave the tag out"));
            Value::Null
        }
    }
}
