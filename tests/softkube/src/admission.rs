//! Admission of pods and Jobs: service accounts, default tolerations, Pod Security and quotas.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::json::Json;
use crate::kinds::Kind;
use crate::names;
use crate::pods;
use crate::quantity::Quantity;
use crate::registry::{Registry, Target};
use crate::security;

const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_SECONDS: i32 = 3607;
const TOLERATION_SECONDS: i32 = 300;

/// Completes a new object before it is validated.
///
/// # Errors
/// 403 when the pod's service account does not exist.
pub(crate) fn mutate(
    registry: &mut Registry,
    kind: &Kind,
    object: &mut Value,
) -> Result<(), ApiError> {
    if kind.resource != "pods" {
        return Ok(());
    }
    service_account(registry, kind, object)?;
    priority(kind, object)?;
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = object.list("spec.tolerations").iter().any(|toleration| {
            matches!(
                toleration.str("key"),
                "" | "node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable"
            ) && (toleration.str("key").is_empty() || toleration.str("key") == taint)
                && matches!(toleration.str("effect"), "" | "NoExecute")
        });
        if !tolerated {
            object.list_mut("spec.tolerations").push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
    Ok(())
}

/// Sets the priority of the pod's class. There are only the classes that every cluster has.
fn priority(kind: &Kind, pod: &mut Value) -> Result<(), ApiError> {
    let class = pod.str("spec.priorityClassName");
    let priority = match class {
        "" => 0,
        "system-cluster-critical" => 2_000_000_000,
        "system-node-critical" => 2_000_001_000,
        _ => {
            let cause = format!("no PriorityClass with name {class} was found");
            return Err(ApiError::forbidden(kind.subject(pod.str("metadata.name")), &cause));
        }
    };
    if let Some(stated) = pod.int("spec.priority").filter(|stated| *stated != priority) {
        let cause = format!(
            "the integer value of priority ({stated}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(kind.subject(pod.str("metadata.name")), &cause));
    }
    pod.put("spec.priority", priority);
    pod.put_default("spec.preemptionPolicy", "PreemptLowerPriority");
    Ok(())
}

fn service_account(registry: &mut Registry, kind: &Kind, pod: &mut Value) -> Result<(), ApiError> {
    let namespace = pod.str("metadata.namespace").to_owned();
    if pod.str("spec.serviceAccountName").is_empty() {
        pod.put("spec.serviceAccountName", "default");
        pod.put("spec.serviceAccount", "default");
    }
    let name = pod.str("spec.serviceAccountName").to_owned();
    let account = registry.get(Target::new("serviceaccounts", &namespace, &name)).map_err(|_| {
        let cause = format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        );
        ApiError::forbidden(kind.subject(pod.str("metadata.name")), &cause)
    })?;
    let wanted = pod
        .at("spec.automountServiceAccountToken")
        .as_bool()
        .or(account.at("automountServiceAccountToken").as_bool())
        .unwrap_or(true);
    let mounted = |container: &Value| {
        container.list("volumeMounts").iter().any(|mount| mount.str("mountPath") == TOKEN_MOUNT)
    };
    if !wanted || pod.list("spec.containers").iter().all(mounted) {
        return Ok(());
    }
    let volume = format!("kube-api-access-{}", registry.random.suffix(5));
    for list in ["spec.containers", "spec.initContainers"] {
        if pod.has(list) {
            for container in pod.list_mut(list).iter_mut().filter(|container| !mounted(container)) {
                let mount = json!({"name": volume, "readOnly": true, "mountPath": TOKEN_MOUNT});
                container.list_mut("volumeMounts").push(mount);
            }
        }
    }
    pod.list_mut("spec.volumes").push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}}));
    Ok(())
}

/// Allows or refuses a valid new object.
///
/// # Errors
/// 403 when Pod Security or a quota forbids it.
pub(crate) fn review(registry: &mut Registry, kind: &Kind, object: &Value) -> Result<(), ApiError> {
    if kind.resource == "jobs" {
        let problems = names::dns_label(object.str("metadata.name"));
        if !problems.is_empty() {
            let warning = "metadata.name: this is used in Pod names and hostnames, which can result in \
                surprising behavior; a DNS label is recommended";
            registry.warn(format!("{warning}: [{}]", problems.join(" ")));
        }
    }
    pod_security(registry, kind, object)?;
    quotas(registry, kind, object)
}

fn pod_security(registry: &mut Registry, kind: &Kind, object: &Value) -> Result<(), ApiError> {
    let spec = match kind.resource {
        "pods" => object.at("spec"),
        "jobs" => object.at("spec.template.spec"),
        _ => return Ok(()),
    };
    let namespace =
        registry.get(Target::new("namespaces", "", object.str("metadata.namespace")))?;
    let label = |mode: &str, suffix: &str| {
        let key = format!("pod-security.kubernetes.io/{mode}{suffix}");
        namespace.entry("metadata.labels", &key).map(str::to_owned)
    };
    let violation = |mode: &str| {
        let level = label(mode, "")?;
        let version = label(mode, "-version").unwrap_or_else(|| "latest".to_owned());
        security::violations(spec, &level)
            .map(|found| format!("violate PodSecurity \"{level}:{version}\": {found}"))
    };
    if let Some(found) = violation("enforce").filter(|_| kind.resource == "pods") {
        let cause = found.replacen("violate", "violates", 1);
        return Err(ApiError::forbidden(kind.subject(object.str("metadata.name")), &cause));
    }
    if let Some(found) = violation("warn") {
        registry.warn(format!("would {found}"));
    }
    Ok(())
}

/// What an object uses of the resources that quotas limit.
pub(crate) fn usage(kind: &Kind, object: &Value) -> BTreeMap<String, Quantity> {
    let one = Quantity::whole(1);
    let count = if kind.group.is_empty() {
        format!("count/{}", kind.resource)
    } else {
        format!("count/{}.{}", kind.resource, kind.group)
    };
    let mut usage = BTreeMap::from([(count, one)]);
    match kind.resource {
        "pods" if pods::is_terminal(object) => {}
        "pods" => {
            usage.insert("pods".to_owned(), one);
            for name in pods::resource_names(object) {
                let request = pods::request(object, &name);
                usage.insert(format!("requests.{name}"), request);
                usage.insert(format!("limits.{name}"), pods::limit(object, &name));
                if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                    usage.insert(name, request);
                }
            }
        }
        "services" | "secrets" | "configmaps" | "resourcequotas" => {
            usage.insert(kind.resource.to_owned(), one);
        }
        _ => {}
    }
    usage
}

/// The usage of all objects of a kind in a namespace.
pub(crate) fn total_usage(
    registry: &Registry,
    kind: &Kind,
    namespace: &str,
) -> BTreeMap<String, Quantity> {
    let mut total: BTreeMap<String, Quantity> = BTreeMap::new();
    for object in registry.list(kind.resource, namespace) {
        for (name, amount) in usage(kind, &object) {
            let entry = total.entry(name).or_default();
            *entry = *entry + amount;
        }
    }
    total
}

fn quotas(registry: &Registry, kind: &Kind, object: &Value) -> Result<(), ApiError> {
    let namespace = object.str("metadata.namespace");
    let wanted = usage(kind, object);
    for quota in registry.list("resourcequotas", namespace) {
        let name = quota.str("metadata.name");
        let used = total_usage(registry, kind, namespace);
        if kind.resource == "pods" {
            unstated(&quota, object).map_or(Ok(()), |missing| {
                let cause = format!("failed quota: {name}: must specify {missing}");
                Err(ApiError::forbidden(kind.subject(object.str("metadata.name")), &cause))
            })?;
        }
        let mut exceeded: Vec<(&String, Quantity, Quantity, Quantity)> = Vec::new();
        for (resource, hard) in quota.entries("spec.hard") {
            let hard = Quantity::from_json(hard).unwrap_or_default();
            let (wanted, used) =
                (wanted.get(resource), used.get(resource).copied().unwrap_or_default());
            if let Some(wanted) =
                wanted.filter(|wanted| !wanted.is_zero() && used + **wanted > hard)
            {
                exceeded.push((resource, *wanted, used, hard));
            }
        }
        if !exceeded.is_empty() {
            let list = |pick: fn(&(&String, Quantity, Quantity, Quantity)) -> Quantity| {
                let parts: Vec<String> =
                    exceeded.iter().map(|one| format!("{}={}", one.0, pick(one))).collect();
                parts.join(",")
            };
            let (requested, used, limited) =
                (list(|one| one.1), list(|one| one.2), list(|one| one.3));
            let cause = format!(
                "exceeded quota: {name}, requested: {requested}, used: {used}, limited: {limited}"
            );
            return Err(ApiError::forbidden(kind.subject(object.str("metadata.name")), &cause));
        }
    }
    Ok(())
}

/// Computing resources that a quota limits and a container does not state.
fn unstated(quota: &Value, pod: &Value) -> Option<String> {
    let mut missing = Vec::new();
    for (resource, _) in quota.entries("spec.hard") {
        let (list, name) = match resource.split_once('.') {
            Some((list @ ("requests" | "limits"), name)) => (list, name),
            _ if matches!(resource.as_str(), "cpu" | "memory") => ("requests", resource.as_str()),
            _ => continue,
        };
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") {
            continue;
        }
        let without: Vec<&str> = pod
            .list("spec.containers")
            .iter()
            .filter(|container| container.at("resources").at(list).get(name).is_none())
            .map(|container| container.str("name"))
            .collect();
        if !without.is_empty() {
            missing.push(format!("{resource} for: {}", without.join(",")));
        }
    }
    (!missing.is_empty()).then(|| missing.join("; "))
}
