//! The environment, command and arguments of a container.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use crate::base64;
use crate::json::Json;
use crate::pods;
use crate::quantity::Quantity;
use crate::registry::{Registry, Target};

/// A reference that cannot be resolved; the container waits with `CreateContainerConfigError`.
pub(crate) type Unresolved = String;

/// The resolved variables of a container, in order of their definition.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        self.order.iter().map(|name| (name.clone(), self.values[name].clone())).collect()
    }

    /// Replaces `$(NAME)` of defined variables; `$$` stands for `$`.
    pub(crate) fn expand(&self, text: &str) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            expanded.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                expanded.push('$');
                rest = after;
            } else if let Some((name, after)) =
                rest.strip_prefix('(').and_then(|inner| inner.split_once(')'))
            {
                match self.values.get(name) {
                    Some(value) => expanded.push_str(value),
                    None => expanded.push_str(&format!("$({name})")),
                }
                rest = after;
            } else {
                expanded.push('$');
            }
        }
        expanded + rest
    }
}

/// Resolves the environment of a container.
///
/// # Errors
/// A ConfigMap, Secret or key that is not optional does not exist.
pub(crate) fn resolve(
    registry: &Registry,
    pod: &Value,
    container: &Value,
    server: SocketAddr,
) -> Result<Environment, Unresolved> {
    let mut env = Environment::default();
    let namespace = pod.str("metadata.namespace");
    env.set("KUBERNETES_SERVICE_HOST", server.ip().to_string());
    env.set("KUBERNETES_SERVICE_PORT", server.port().to_string());
    for source in container.list("envFrom") {
        for (field, resource) in [("configMapRef", "configmaps"), ("secretRef", "secrets")] {
            let reference = source.at(field);
            if reference.is_null() {
                continue;
            }
            let entries = entries(
                registry,
                (resource, namespace, reference.str("name")),
                reference.flag("optional"),
            )?;
            for (key, value) in entries {
                env.set(
                    &format!("{}{key}", source.str("prefix")),
                    String::from_utf8_lossy(&value).into_owned(),
                );
            }
        }
    }
    for variable in container.list("env") {
        let value = if variable.has("valueFrom") {
            from_source(registry, pod, container, variable.at("valueFrom"))?
        } else {
            Some(env.expand(variable.str("value")))
        };
        if let Some(value) = value {
            env.set(variable.str("name"), value);
        }
    }
    Ok(env)
}

fn from_source(
    registry: &Registry,
    pod: &Value,
    container: &Value,
    source: &Value,
) -> Result<Option<String>, Unresolved> {
    let namespace = pod.str("metadata.namespace");
    if source.has("fieldRef") {
        return Ok(Some(field(pod, source.str("fieldRef.fieldPath"))));
    }
    if source.has("resourceFieldRef") {
        return Ok(Some(resource(registry, pod, container, source.at("resourceFieldRef"))));
    }
    for (field, resource, kind) in
        [("configMapKeyRef", "configmaps", "ConfigMap"), ("secretKeyRef", "secrets", "Secret")]
    {
        let reference = source.at(field);
        if reference.is_null() {
            continue;
        }
        let (name, key) = (reference.str("name"), reference.str("key"));
        let optional = reference.flag("optional");
        let found = entries(registry, (resource, namespace, name), optional)?;
        let value = found.into_iter().find(|(found, _)| found == key);
        return match value {
            Some((_, value)) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {key} in {kind} {namespace}/{name}")),
        };
    }
    Ok(None)
}

/// The keys and values of a ConfigMap or Secret.
///
/// # Errors
/// It does not exist and is not optional.
pub(crate) fn entries(
    registry: &Registry,
    (resource, namespace, name): (&str, &str, &str),
    optional: bool,
) -> Result<Vec<(String, Vec<u8>)>, Unresolved> {
    let Ok(object) = registry.get(Target::new(resource, namespace, name)) else {
        let kind = if resource == "secrets" { "secret" } else { "configmap" };
        return if optional { Ok(Vec::new()) } else { Err(format!("{kind} \"{name}\" not found")) };
    };
    let decode =
        |text: &Value| base64::decode(text.as_str().unwrap_or_default()).unwrap_or_default();
    let plain = |text: &Value| text.as_str().unwrap_or_default().as_bytes().to_vec();
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for (key, value) in object.entries("data") {
        found.push((key.clone(), if resource == "secrets" { decode(value) } else { plain(value) }));
    }
    found.extend(object.entries("binaryData").map(|(key, value)| (key.clone(), decode(value))));
    Ok(found)
}

/// A field of the pod, as the downward API shows it.
pub(crate) fn field(pod: &Value, path: &str) -> String {
    let subscript =
        path.split_once("['").and_then(|(map, rest)| Some((map, rest.strip_suffix("']")?)));
    if let Some((map, key)) = subscript {
        return pod.entry(map, key).unwrap_or_default().to_owned();
    }
    match path {
        "metadata.labels" | "metadata.annotations" => {
            let lines: Vec<String> =
                pod.entries(path).map(|(key, value)| format!("{key}={value}")).collect();
            lines.join("\n")
        }
        "status.podIPs" => pod.str("status.podIP").to_owned(),
        "status.hostIPs" => pod.str("status.hostIP").to_owned(),
        path => pod.str(path).to_owned(),
    }
}

/// A request or limit in units of the divisor, rounded up; limits that are not set are those of the node.
pub(crate) fn resource(
    registry: &Registry,
    pod: &Value,
    container: &Value,
    reference: &Value,
) -> String {
    let (list, name) = reference.str("resource").split_once('.').unwrap_or_default();
    let named = reference.text("containerName").filter(|name| !name.is_empty());
    let container = named.map_or(container, |wanted| {
        pod.list("spec.containers")
            .iter()
            .find(|one| one.str("name") == wanted)
            .unwrap_or(container)
    });
    let stated = container.at("resources").at(list).get(name).and_then(Quantity::from_json);
    let amount = stated.unwrap_or_else(|| {
        let node = registry.get(Target::new("nodes", "", pod.str("spec.nodeName")));
        let allocatable = node
            .ok()
            .and_then(|node| Quantity::from_json(node.at("status.allocatable").get(name)?));
        if list == "limits" { allocatable.unwrap_or_default() } else { pods::request(pod, name) }
    });
    let divisor = Quantity::from_json(reference.at("divisor")).filter(|divisor| !divisor.is_zero());
    let divisor = divisor.unwrap_or(Quantity::whole(1)).milli();
    ((amount.milli() + divisor - 1) / divisor).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_variables_are_expanded_once() {
        let mut env = Environment::default();
        env.set("A", "x$(B)".to_owned());
        let cases = [
            ("$(A)", "x$(B)"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $ $(", "$A $ $("),
            ("a$(A)b$(A)", "ax$(B)bx$(B)"),
        ];
        for (text, expected) in cases {
            assert_eq!(env.expand(text), expected, "{text}");
        }
    }
}
