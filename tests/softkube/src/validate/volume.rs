//! Validation of volumes.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::json::Json;
use crate::names;
use crate::quantity::Quantity;
use crate::validate::references;

const MODE_LIMIT: i64 = 0o777;
const MODE_MESSAGE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const DOWNWARD_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// Validates volumes and returns their names.
pub(crate) fn validate(
    volumes: &[Value],
    path: &str,
    errors: &mut FieldErrors,
) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = volume.str("name");
        if name.is_empty() {
            errors.required(&format!("{path}.name"), "");
        } else {
            errors.invalid_each(&format!("{path}.name"), name, names::dns_label(name));
            if !names.insert(name.to_owned()) {
                errors.duplicate(&format!("{path}.name"), name);
            }
        }
        source(volume, &path, errors);
    }
    names
}

fn source(volume: &Value, path: &str, errors: &mut FieldErrors) {
    let kinds: Vec<&String> = volume
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::keys)
        .filter(|field| *field != "name")
        .collect();
    if kinds.is_empty() {
        errors.required(path, "must specify a volume type");
    }
    for extra in kinds.iter().skip(1) {
        errors.forbidden(&format!("{path}.{extra}"), "may not specify more than 1 volume type");
    }
    let Some(kind) = kinds.first() else { return };
    let content = volume.at(kind);
    let path = format!("{path}.{kind}");
    match kind.as_str() {
        "emptyDir" => {
            let limit = Quantity::from_json(content.at("sizeLimit"));
            if content.has("sizeLimit") && limit.is_none_or(Quantity::is_negative) {
                errors.forbidden(
                    &format!("{path}.sizeLimit"),
                    "SizeLimit field must be a valid resource quantity",
                );
            }
        }
        "secret" => keys(content, "secretName", &path, errors),
        "configMap" => keys(content, "name", &path, errors),
        "downwardAPI" => {
            mode(content.at("defaultMode"), &format!("{path}.defaultMode"), errors);
            downward_items(content.list("items"), &format!("{path}.items"), errors);
        }
        "projected" => projected(content, &path, errors),
        "hostPath" if content.str("path").is_empty() => {
            errors.required(&format!("{path}.path"), "")
        }
        "persistentVolumeClaim" if content.str("claimName").is_empty() => {
            errors.required(&format!("{path}.claimName"), "");
        }
        _ => {}
    }
}

fn mode(value: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(mode) = value.as_i64().filter(|mode| !(0..=MODE_LIMIT).contains(mode)) {
        errors.invalid(path, mode, MODE_MESSAGE);
    }
}

fn keys(content: &Value, name_field: &str, path: &str, errors: &mut FieldErrors) {
    if content.str(name_field).is_empty() {
        errors.required(&format!("{path}.{name_field}"), "");
    }
    mode(content.at("defaultMode"), &format!("{path}.defaultMode"), errors);
    for (index, item) in content.list("items").iter().enumerate() {
        let path = format!("{path}.items[{index}]");
        if item.str("key").is_empty() {
            errors.required(&format!("{path}.key"), "");
        }
        item_path(item, &path, errors);
        mode(item.at("mode"), &format!("{path}.mode"), errors);
    }
}

fn item_path(item: &Value, path: &str, errors: &mut FieldErrors) {
    let path = format!("{path}.path");
    match item.str("path") {
        "" => errors.required(&path, ""),
        text => {
            references::local_path(text, &path, errors);
            if text.starts_with("..") && !text.split('/').any(|part| part == "..") {
                errors.invalid(&path, text, "must not start with '..'");
            }
        }
    }
}

fn downward_items(items: &[Value], path: &str, errors: &mut FieldErrors) {
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        item_path(item, &path, errors);
        mode(item.at("mode"), &format!("{path}.mode"), errors);
        match (item.has("fieldRef"), item.has("resourceFieldRef")) {
            (true, true) => errors.invalid(
                &path,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ),
            (true, false) => {
                references::field(
                    item.at("fieldRef"),
                    DOWNWARD_FIELDS,
                    &format!("{path}.fieldRef"),
                    errors,
                );
            }
            (false, true) => {}
            (false, false) => {
                errors.required(&path, "one of fieldRef and resourceFieldRef is required")
            }
        }
    }
}

fn projected(content: &Value, path: &str, errors: &mut FieldErrors) {
    mode(content.at("defaultMode"), &format!("{path}.defaultMode"), errors);
    let mut paths = BTreeSet::new();
    for (index, source) in content.list("sources").iter().enumerate() {
        let path = format!("{path}.sources[{index}]");
        let kinds: Vec<&String> =
            source.as_object().into_iter().flat_map(serde_json::Map::keys).collect();
        for extra in kinds.iter().skip(1) {
            errors.forbidden(&format!("{path}.{extra}"), "may not specify more than 1 volume type");
        }
        let Some(kind) = kinds.first() else { continue };
        let content = source.at(kind);
        let path = format!("{path}.{kind}");
        match kind.as_str() {
            "secret" | "configMap" => keys(content, "name", &path, errors),
            "downwardAPI" => {
                downward_items(content.list("items"), &format!("{path}.items"), errors)
            }
            "serviceAccountToken" => token(content, &path, errors),
            _ => {}
        }
        let single = content.text("path").into_iter();
        let listed = content.list("items").iter().filter_map(|item| item.text("path"));
        for file in single.chain(listed).filter(|file| !file.is_empty()) {
            if !paths.insert(file.to_owned()) {
                errors.invalid(
                    &path,
                    content.str("name"),
                    &format!("conflicting duplicate paths: {file}"),
                );
            }
        }
    }
}

fn token(content: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(seconds) = content.int("expirationSeconds") {
        let path = format!("{path}.expirationSeconds");
        if seconds < TOKEN_SECONDS_MIN {
            errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
        } else if seconds > TOKEN_SECONDS_MAX {
            errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
    item_path(content, path, errors);
}
