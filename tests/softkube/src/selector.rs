//! Label selectors and field selectors.

use serde_json::{Map, Value};

use crate::json::Json;

/// One condition on the labels of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

impl Requirement {
    fn matches(&self, labels: &Map<String, Value>) -> bool {
        let value = |key: &String| labels.get(key).and_then(Value::as_str);
        let number = |key: &String| value(key).and_then(|text| text.parse::<i64>().ok());
        match self {
            Self::In(key, values) => {
                value(key).is_some_and(|value| values.iter().any(|one| one == value))
            }
            Self::NotIn(key, values) => {
                !value(key).is_some_and(|value| values.iter().any(|one| one == value))
            }
            Self::Exists(key) => labels.contains_key(key),
            Self::Absent(key) => !labels.contains_key(key),
            Self::Greater(key, bound) => number(key).is_some_and(|number| number > *bound),
            Self::Less(key, bound) => number(key).is_some_and(|number| number < *bound),
        }
    }
}

/// A conjunction of requirements on labels. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(Vec<Requirement>);

impl Labels {
    /// Parses the text of a `labelSelector` parameter.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() {
                return Err(format!(
                    "unable to parse requirement: found '{text}', expected: identifier"
                ));
            }
            requirements.push(parse_requirement(part)?);
        }
        Ok(Self(requirements))
    }

    /// Reads a `metav1.LabelSelector`; null matches nothing.
    pub(crate) fn from_object(selector: &Value) -> Option<Self> {
        if selector.is_null() {
            return None;
        }
        let equal = selector.entries("matchLabels").map(|(key, value)| {
            Requirement::In(key.clone(), vec![value.as_str().unwrap_or_default().to_owned()])
        });
        let expressions = from_expressions(selector.list("matchExpressions"))?;
        Some(Self(equal.chain(expressions.0).collect()))
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.matches_map(object.at("metadata.labels"))
    }

    pub(crate) fn matches_map(&self, labels: &Value) -> bool {
        let none = Map::new();
        let labels = labels.as_object().unwrap_or(&none);
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

/// Requirements of `matchExpressions`, of label selectors or of node affinity; `None` for an unknown operator.
pub(crate) fn from_expressions(expressions: &[Value]) -> Option<Labels> {
    let read = |expression: &Value| {
        let key = expression.str("key").to_owned();
        let values: Vec<String> =
            expression.list("values").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let bound = values.first().and_then(|value| value.parse().ok());
        match expression.str("operator") {
            "In" => Some(Requirement::In(key, values)),
            "NotIn" => Some(Requirement::NotIn(key, values)),
            "Exists" => Some(Requirement::Exists(key)),
            "DoesNotExist" => Some(Requirement::Absent(key)),
            "Gt" => Some(Requirement::Greater(key, bound?)),
            "Lt" => Some(Requirement::Less(key, bound?)),
            _ => None,
        }
    };
    expressions.iter().map(read).collect::<Option<Vec<_>>>().map(Labels)
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0_u32);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text.trim().is_empty() {
        parts.push(&text[start..]);
    }
    parts
}

fn parse_requirement(part: &str) -> Result<Requirement, String> {
    let malformed = || format!("unable to parse requirement: \"{part}\"");
    if let Some((key, rest)) = part.split_once(" in ").or_else(|| part.split_once(" in(")) {
        return Ok(Requirement::In(key.trim().to_owned(), parse_set(rest)));
    }
    if let Some((key, rest)) = part.split_once(" notin ").or_else(|| part.split_once(" notin(")) {
        return Ok(Requirement::NotIn(key.trim().to_owned(), parse_set(rest)));
    }
    let equality = |key: &str, value: &str| (key.trim().to_owned(), vec![value.trim().to_owned()]);
    let requirement = if let Some((key, value)) = part.split_once("!=") {
        let (key, values) = equality(key, value);
        Requirement::NotIn(key, values)
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        let (key, values) = equality(key, value);
        Requirement::In(key, values)
    } else if let Some((key, value)) = part.split_once('>') {
        Requirement::Greater(key.trim().to_owned(), value.trim().parse().map_err(|_| malformed())?)
    } else if let Some((key, value)) = part.split_once('<') {
        Requirement::Less(key.trim().to_owned(), value.trim().parse().map_err(|_| malformed())?)
    } else if let Some(key) = part.strip_prefix('!') {
        Requirement::Absent(key.trim().to_owned())
    } else if part.contains(char::is_whitespace) {
        return Err(malformed());
    } else {
        Requirement::Exists(part.to_owned())
    };
    Ok(requirement)
}

fn parse_set(text: &str) -> Vec<String> {
    text.trim()
        .trim_start_matches('(')
        .trim_end_matches(')')
        .split(',')
        .map(|one| one.trim().to_owned())
        .collect()
}

/// Field selectors of events, pods and metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(Vec<(String, bool, String)>);

impl Fields {
    /// Parses the text of a `fieldSelector` parameter for a resource.
    pub(crate) fn parse(resource: &str, text: &str) -> Result<Self, String> {
        let mut conditions = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (field, equal, value) = if let Some((field, value)) = part.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) =
                part.split_once("==").or_else(|| part.split_once('='))
            {
                (field, true, value)
            } else {
                return Err(format!("invalid selector: '{part}'; can't understand '{part}'"));
            };
            if !selectable(resource, field) {
                return Err(format!("field label not supported: {field}"));
            }
            conditions.push((field.to_owned(), equal, value.to_owned()));
        }
        Ok(Self(conditions))
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let holds = |(field, equal, value): &(String, bool, String)| {
            let found = match (field.as_str(), object.at(field)) {
                ("status.successful", _) => object.int("status.succeeded").unwrap_or(0).to_string(),
                ("source", _) => object.str("source.component").to_owned(),
                (_, Value::String(text)) => text.clone(),
                (_, Value::Null) => String::new(),
                (_, other) => other.to_string(),
            };
            (found == *value) == *equal
        };
        self.0.iter().all(holds)
    }
}

fn selectable(resource: &str, field: &str) -> bool {
    if field == "metadata.name" || field == "metadata.namespace" {
        return true;
    }
    match resource {
        "pods" => matches!(
            field,
            "spec.nodeName"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "spec.serviceAccountName"
                | "status.phase"
                | "status.podIP"
                | "status.nominatedNodeName"
        ),
        "events" => {
            matches!(field, "reason" | "type" | "reportingComponent" | "source")
                || field.starts_with("involvedObject.")
        }
        "jobs" => field == "status.successful",
        "nodes" => field == "spec.unschedulable",
        "namespaces" => field == "status.phase",
        "secrets" => field == "type",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_selectors_match_as_their_text_says() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "a", "n": "5"}}});
        let cases = [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=b", true),
            ("app!=web", false),
            ("absent!=x", true),
            ("app in (web, db)", true),
            ("app notin (web)", false),
            ("app,!none", true),
            ("!app", false),
            ("n>4,n<6", true),
            ("n>5", false),
        ];
        for (text, expected) in cases {
            assert_eq!(Labels::parse(text).unwrap().matches(&object), expected, "{text}");
        }
        assert!(Labels::parse("a b").is_err());
        assert!(Labels::parse("a=b,,c").is_err());
    }

    #[test]
    fn only_selectable_fields_are_accepted() {
        let pod = json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}, "spec": {"nodeName": "n"}});
        let matches = |text| Fields::parse("pods", text).map(|fields| fields.matches(&pod));
        assert_eq!(matches("status.phase=Running,spec.nodeName!=m"), Ok(true));
        assert_eq!(matches("metadata.name=q"), Ok(false));
        assert_eq!(
            matches("spec.hostname=x"),
            Err("field label not supported: spec.hostname".to_owned())
        );
    }
}
