//! Validation of Services, ConfigMaps, Secrets, disruption budgets, quotas and events.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::json::Json;
use crate::kinds::Kind;
use crate::names;
use crate::quantity::Quantity;
use crate::validate::{meta, references};

/// The limit of the data of a ConfigMap or Secret.
const DATA_LIMIT_BYTES: usize = 1024 * 1024;

/// Validates the content of an object.
pub(crate) fn content(kind: &Kind, object: &Value, errors: &mut FieldErrors) {
    match kind.resource {
        "services" => service(object, errors),
        "configmaps" => config_map(object, errors),
        "secrets" => secret(object, errors),
        "poddisruptionbudgets" => disruption_budget(object, errors),
        "resourcequotas" => quota(object, errors),
        "events" => event(object, errors),
        _ => {}
    }
}

/// Validates what may not change.
pub(crate) fn update(kind: &Kind, new: &Value, old: &Value, errors: &mut FieldErrors) {
    match kind.resource {
        "services" => {
            let keeps_ip = old.text("spec.type") != Some("ExternalName")
                && !old.str("spec.clusterIP").is_empty();
            if keeps_ip && new.text("spec.type") != Some("ExternalName") {
                let (before, after) = (old.at("spec.clusterIP"), new.at("spec.clusterIP"));
                if before != after {
                    errors.invalid("spec.clusterIPs[0]", after.clone(), "may not change once set");
                }
            }
        }
        "secrets" | "configmaps" => {
            if kind.resource == "secrets" {
                errors.immutable("type", new.at("type"), old.at("type"));
            }
            if old.flag("immutable") {
                immutable_data(new, old, errors);
            }
        }
        _ => {}
    }
}

fn immutable_data(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if !new.flag("immutable") {
        errors.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for field in ["data", "binaryData"] {
        if new.at(field) != old.at(field) {
            errors.forbidden(field, "field is immutable when `immutable` is set");
        }
    }
}

fn service(service: &Value, errors: &mut FieldErrors) {
    let spec = service.at("spec");
    let headless = spec.text("clusterIP") == Some("None");
    let external_name = spec.text("type") == Some("ExternalName");
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !types.contains(&spec.str("type")) {
        errors.not_supported("spec.type", spec.str("type"), &types);
    }
    if spec.list("ports").is_empty() && !headless && !external_name {
        errors.required("spec.ports", "");
    }
    if headless && spec.text("type") == Some("LoadBalancer") {
        errors.invalid(
            "spec.clusterIPs[0]",
            "None",
            "may not be set to 'None' for LoadBalancer services",
        );
    }
    service_ports(spec.list("ports"), errors);
    meta::labels(spec.at("selector"), "spec.selector", errors);
    let affinities = ["ClientIP", "None"];
    if !affinities.contains(&spec.str("sessionAffinity")) {
        errors.not_supported("spec.sessionAffinity", spec.str("sessionAffinity"), &affinities);
    }
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    if let Some(policy) = spec.text("ipFamilyPolicy").filter(|policy| !policies.contains(policy)) {
        errors.not_supported("spec.ipFamilyPolicy", policy, &policies);
    }
    for (index, family) in spec.list("ipFamilies").iter().enumerate() {
        let family = family.as_str().unwrap_or_default();
        if !matches!(family, "IPv4" | "IPv6") {
            errors.not_supported(&format!("spec.ipFamilies[{index}]"), family, &["IPv4", "IPv6"]);
        }
    }
}

fn service_ports(ports: &[Value], errors: &mut FieldErrors) {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = port.str("name");
        if name.is_empty() && ports.len() > 1 {
            errors.required(&format!("{path}.name"), "");
        } else if !name.is_empty() {
            errors.invalid_each(&format!("{path}.name"), name, names::dns_label(name));
            if !names.insert(name) {
                errors.duplicate(&format!("{path}.name"), name);
            }
        }
        let number = port.int("port").unwrap_or(0);
        for problem in names::port_number(number) {
            errors.invalid(&format!("{path}.port"), number, &problem);
        }
        references::protocol(port.str("protocol"), &format!("{path}.protocol"), errors);
        if let Some(target) = port.int("targetPort") {
            for problem in names::port_number(target) {
                errors.invalid(&format!("{path}.targetPort"), target, &problem);
            }
        }
        if let Some(target) = port.text("targetPort") {
            errors.invalid_each(&format!("{path}.targetPort"), target, names::port_name(target));
        }
        if !numbers.insert((number, port.str("protocol"))) {
            let entry = serde_json::json!({"protocol": port.str("protocol"), "port": number});
            errors.duplicate(&path, entry);
        }
    }
}

fn config_map(config_map: &Value, errors: &mut FieldErrors) {
    let mut total = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in config_map.entries(field) {
            errors.invalid_each(&format!("{field}[{key}]"), key, names::config_key(key));
            if field == "data" && config_map.at("binaryData").get(key).is_some() {
                errors.invalid(
                    &format!("data[{key}]"),
                    key.as_str(),
                    "duplicate of key present in binaryData",
                );
            }
            let text = value.as_str().unwrap_or_default();
            total += if field == "data" { text.len() } else { decoded_len(text) };
        }
    }
    if total > DATA_LIMIT_BYTES {
        errors.too_long("[]", DATA_LIMIT_BYTES);
    }
}

fn secret(secret: &Value, errors: &mut FieldErrors) {
    let mut total = 0;
    for (key, value) in secret.entries("data") {
        errors.invalid_each(&format!("data[{key}]"), key, names::config_key(key));
        total += decoded_len(value.as_str().unwrap_or_default());
    }
    if total > DATA_LIMIT_BYTES {
        errors.too_long("data", DATA_LIMIT_BYTES);
    }
    let required: &[&str] = match secret.str("type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in required {
        if secret.at("data").get(*key).is_none() {
            errors.required(&format!("data[{key}]"), "");
        }
    }
}

/// The length of what a base64 text encodes.
fn decoded_len(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

fn disruption_budget(budget: &Value, errors: &mut FieldErrors) {
    if budget.has("spec.minAvailable") && budget.has("spec.maxUnavailable") {
        let spec = budget.at("spec").clone();
        errors.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for field in ["minAvailable", "maxUnavailable"] {
        let path = format!("spec.{field}");
        errors.nonnegative(&path, budget.int(&path));
        let percent =
            |text: &str| text.strip_suffix('%').is_some_and(|number| number.parse::<u32>().is_ok());
        if let Some(text) = budget.text(&path).filter(|text| !percent(text)) {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                '93%', regex used for validation is '[0-9]+%')";
            errors.invalid(&path, text, detail);
        }
    }
    meta::selector(budget.at("spec.selector"), "spec.selector", errors);
}

fn quota(quota: &Value, errors: &mut FieldErrors) {
    for (name, value) in quota.entries("spec.hard") {
        if Quantity::from_json(value).is_none_or(Quantity::is_negative) {
            errors.invalid(
                &format!("spec.hard[{name}]"),
                value.clone(),
                "must be greater than or equal to 0",
            );
        }
    }
}

fn event(event: &Value, errors: &mut FieldErrors) {
    let (namespace, involved) =
        (event.str("metadata.namespace"), event.str("involvedObject.namespace"));
    let cluster_scoped = involved.is_empty() && matches!(namespace, "default" | "kube-system");
    if namespace != involved && !cluster_scoped {
        errors.invalid("involvedObject.namespace", involved, "does not match event.namespace");
    }
}
