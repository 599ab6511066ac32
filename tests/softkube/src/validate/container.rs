//! Validation of containers: names, images, environment, ports, mounts and probes.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::json::Json;
use crate::names;
use crate::validate::{references, resources, security};

/// Validates the containers and init containers of a pod spec whose volumes have the names `volumes`.
pub(crate) fn validate_all(
    spec: &Value,
    volumes: &BTreeSet<String>,
    path: &str,
    errors: &mut FieldErrors,
) {
    if spec.list("containers").is_empty() {
        errors.required(&format!("{path}.containers"), "");
    }
    let mut names = BTreeSet::new();
    for list in ["containers", "initContainers"] {
        for (index, container) in spec.list(list).iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            name(container, &mut names, &path, errors);
            content(container, volumes, &path, errors);
            if list == "initContainers" {
                init_only(container, &path, errors);
            } else if container.has("restartPolicy") {
                errors.forbidden(
                    &format!("{path}.restartPolicy"),
                    "may not be set for non-init containers",
                );
            }
        }
    }
}

fn name(container: &Value, names: &mut BTreeSet<String>, path: &str, errors: &mut FieldErrors) {
    let path = format!("{path}.name");
    let name = container.str("name");
    if name.is_empty() {
        errors.required(&path, "");
        return;
    }
    errors.invalid_each(&path, name, names::dns_label(name));
    if !names.insert(name.to_owned()) {
        errors.duplicate(&path, name);
    }
}

fn init_only(container: &Value, path: &str, errors: &mut FieldErrors) {
    if container.text("restartPolicy") == Some("Always") {
        return;
    }
    if let Some(policy) = container.text("restartPolicy") {
        errors.not_supported(&format!("{path}.restartPolicy"), policy, &["Always"]);
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.has(field) {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(&format!("{path}.{field}"), detail);
        }
    }
}

fn content(container: &Value, volumes: &BTreeSet<String>, path: &str, errors: &mut FieldErrors) {
    let image = container.str("image");
    if image.is_empty() {
        errors.required(&format!("{path}.image"), "");
    } else if image.trim() != image {
        errors.invalid(
            &format!("{path}.image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
    let enumerations: [(&str, &[&str]); 2] = [
        ("terminationMessagePolicy", &["File", "FallbackToLogsOnError"]),
        ("imagePullPolicy", &["Always", "IfNotPresent", "Never"]),
    ];
    for (field, supported) in enumerations {
        match container.str(field) {
            "" => errors.required(&format!("{path}.{field}"), ""),
            value if !supported.contains(&value) => {
                errors.not_supported(&format!("{path}.{field}"), value, supported);
            }
            _ => {}
        }
    }
    ports(container.list("ports"), &format!("{path}.ports"), errors);
    env(container.list("env"), &format!("{path}.env"), errors);
    env_from(container.list("envFrom"), &format!("{path}.envFrom"), errors);
    mounts(container.list("volumeMounts"), volumes, &format!("{path}.volumeMounts"), errors);
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container.has(field) {
            probe(
                container.at(field),
                field == "readinessProbe",
                &format!("{path}.{field}"),
                errors,
            );
        }
    }
    resources::validate(container.at("resources"), &format!("{path}.resources"), errors);
    let context = container.at("securityContext");
    let at = format!("{path}.securityContext");
    security::context(context, &at, errors);
    if context.at("allowPrivilegeEscalation") == &Value::Bool(false) && context.flag("privileged") {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.invalid(&at, context.clone(), detail);
    }
}

fn ports(ports: &[Value], path: &str, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if let Some(name) = port.text("name").filter(|name| !name.is_empty()) {
            let problems = names::port_name(name);
            if !problems.is_empty() {
                errors.invalid_each(&format!("{path}.name"), name, problems);
            } else if !names.insert(name) {
                errors.duplicate(&format!("{path}.name"), name);
            }
        }
        match port.int("containerPort").unwrap_or(0) {
            0 => errors.required(&format!("{path}.containerPort"), ""),
            number => {
                for problem in names::port_number(number) {
                    errors.invalid(&format!("{path}.containerPort"), number, &problem);
                }
            }
        }
        if let Some(number) = port.int("hostPort").filter(|number| *number != 0) {
            for problem in names::port_number(number) {
                errors.invalid(&format!("{path}.hostPort"), number, &problem);
            }
        }
        references::protocol(port.str("protocol"), &format!("{path}.protocol"), errors);
    }
}

fn env(env: &[Value], path: &str, errors: &mut FieldErrors) {
    for (index, variable) in env.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = variable.str("name");
        if name.is_empty() {
            errors.required(&format!("{path}.name"), "");
        } else {
            errors.invalid_each(&format!("{path}.name"), name, names::env_name(name));
        }
        if variable.has("valueFrom") {
            value_from(variable, &format!("{path}.valueFrom"), errors);
        }
    }
}

fn value_from(variable: &Value, path: &str, errors: &mut FieldErrors) {
    let source = variable.at("valueFrom");
    let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let given = sources.iter().filter(|field| source.has(field)).count();
    if given == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
            `fileKeyRef`";
        errors.invalid(path, "", detail);
    }
    if !variable.str("value").is_empty() {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if given > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
    if source.has("fieldRef") {
        references::field(
            source.at("fieldRef"),
            references::ENV_FIELDS,
            &format!("{path}.fieldRef"),
            errors,
        );
    }
    if source.has("resourceFieldRef") && source.str("resourceFieldRef.resource").is_empty() {
        errors.required(&format!("{path}.resourceFieldRef.resource"), "");
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if source.has(field) {
            key_ref(source.at(field), &format!("{path}.{field}"), errors);
        }
    }
}

fn key_ref(reference: &Value, path: &str, errors: &mut FieldErrors) {
    if reference.str("name").is_empty() {
        errors.required(&format!("{path}.name"), "");
    }
    let key = reference.str("key");
    if key.is_empty() {
        errors.required(&format!("{path}.key"), "");
    } else {
        errors.invalid_each(&format!("{path}.key"), key, names::config_key(key));
    }
}

fn env_from(sources: &[Value], path: &str, errors: &mut FieldErrors) {
    for (index, source) in sources.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if let Some(prefix) = source.text("prefix").filter(|prefix| !prefix.is_empty()) {
            errors.invalid_each(&format!("{path}.prefix"), prefix, names::env_name(prefix));
        }
        let given: Vec<&str> =
            ["configMapRef", "secretRef"].into_iter().filter(|field| source.has(field)).collect();
        match given.as_slice() {
            [] => errors.invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`"),
            [field] if source.at(field).str("name").is_empty() => {
                errors.required(&format!("{path}.{field}.name"), "");
            }
            [_] => {}
            _ => errors.invalid(&path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn mounts(mounts: &[Value], volumes: &BTreeSet<String>, path: &str, errors: &mut FieldErrors) {
    let mut paths = BTreeSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (name, mount_path) = (mount.str("name"), mount.str("mountPath"));
        if name.is_empty() {
            errors.required(&format!("{path}.name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(&format!("{path}.name"), name);
        }
        if mount_path.is_empty() {
            errors.required(&format!("{path}.mountPath"), "");
        } else if !paths.insert(mount_path) {
            errors.invalid(&format!("{path}.mountPath"), mount_path, "must be unique");
        }
        for field in ["subPath", "subPathExpr"] {
            if let Some(sub_path) = mount.text(field).filter(|sub_path| !sub_path.is_empty()) {
                references::local_path(sub_path, &format!("{path}.{field}"), errors);
            }
        }
        if !mount.str("subPath").is_empty() && !mount.str("subPathExpr").is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&format!("{path}.subPathExpr"), mount.str("subPathExpr"), detail);
        }
    }
}

fn probe(probe: &Value, readiness: bool, path: &str, errors: &mut FieldErrors) {
    let handlers: Vec<&str> = ["exec", "httpGet", "tcpSocket", "grpc"]
        .into_iter()
        .filter(|field| probe.has(field))
        .collect();
    if handlers.is_empty() {
        errors.required(path, "must specify a handler type");
    }
    for extra in handlers.iter().skip(1) {
        errors.forbidden(&format!("{path}.{extra}"), "may not specify more than 1 handler type");
    }
    if probe.has("exec") && probe.list("exec.command").is_empty() {
        errors.required(&format!("{path}.exec.command"), "");
    }
    if probe.has("httpGet") {
        let supported = ["HTTP", "HTTPS"];
        let scheme = probe.str("httpGet.scheme");
        if probe.str("httpGet.path").is_empty() {
            errors.required(&format!("{path}.httpGet.path"), "");
        }
        if !supported.contains(&scheme) {
            errors.not_supported(&format!("{path}.httpGet.scheme"), scheme, &supported);
        }
        port_or_name(probe.at("httpGet.port"), &format!("{path}.httpGet.port"), errors);
    }
    if probe.has("tcpSocket") {
        port_or_name(probe.at("tcpSocket.port"), &format!("{path}.tcpSocket.port"), errors);
    }
    if probe.has("grpc") {
        port_or_name(probe.at("grpc.port"), &format!("{path}.grpc.port"), errors);
    }
    let counts = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    for field in counts {
        errors.nonnegative(&format!("{path}.{field}"), probe.int(field));
    }
    if let Some(grace) = probe.int("terminationGracePeriodSeconds") {
        let path = format!("{path}.terminationGracePeriodSeconds");
        if readiness {
            errors.invalid(&path, grace, "must not be set for readinessProbes");
        } else if grace <= 0 {
            errors.invalid(&path, grace, "must be greater than 0");
        }
    }
    if let Some(threshold) = probe.int("successThreshold").filter(|value| !readiness && *value != 1)
    {
        errors.invalid(&format!("{path}.successThreshold"), threshold, "must be 1");
    }
}

fn port_or_name(port: &Value, path: &str, errors: &mut FieldErrors) {
    match port {
        Value::String(name) => errors.invalid_each(path, name, names::port_name(name)),
        other => {
            for problem in names::port_number(other.as_i64().unwrap_or(0)) {
                errors.invalid(path, other.as_i64().unwrap_or(0), &problem);
            }
        }
    }
}
