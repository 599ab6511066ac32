//! Default values, as a client reads them back.
//!
//! Sources: `pkg/apis/core/v1/defaults.go` and `pkg/apis/batch/v1/defaults.go`.

use serde_json::{Value, json};

use crate::base64;
use crate::json::Json;
use crate::kinds::Kind;

const BACKOFF_LIMIT: i32 = 6;
const FILE_MODE: i32 = 0o644;
const TOKEN_EXPIRATION_SECONDS: i32 = 3600;

/// Sets the defaults of an object that was sent by a client.
pub(crate) fn apply(kind: &Kind, object: &mut Value) {
    object.put("apiVersion", kind.api_version());
    object.put("kind", kind.kind);
    match kind.resource {
        "jobs" => job(object),
        "pods" => pod(object),
        "services" => service(object),
        "secrets" => secret(object),
        "namespaces" => namespace(object),
        "nodes" => node(object),
        _ => {}
    }
}

fn job(job: &mut Value) {
    if !job.has("spec.completions") && !job.has("spec.parallelism") {
        job.put("spec.completions", 1);
    }
    job.put_default("spec.parallelism", 1);
    let backoff_limit = if job.has("spec.backoffLimitPerIndex") { i32::MAX } else { BACKOFF_LIMIT };
    job.put_default("spec.backoffLimit", backoff_limit);
    job.put_default("spec.completionMode", "NonIndexed");
    job.put_default("spec.suspend", false);
    job.put_default("spec.manualSelector", false);
    let replacement =
        if job.has("spec.podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    job.put_default("spec.podReplacementPolicy", replacement);
    if job.has("spec.podFailurePolicy.rules") {
        for rule in job.list_mut("spec.podFailurePolicy.rules") {
            if rule.has("onPodConditions") {
                let patterns = rule.list_mut("onPodConditions");
                patterns.iter_mut().for_each(|pattern| pattern.put_default("status", "True"));
            }
        }
    }
    let labels = job.at("spec.template.metadata.labels").clone();
    if job.at("metadata.labels").as_object().is_none_or(serde_json::Map::is_empty)
        && !labels.is_null()
    {
        job.put("metadata.labels", labels);
    }
    let mut spec = job.at("spec.template.spec").clone();
    pod_spec(&mut spec);
    job.put("spec.template.spec", spec);
}

fn pod(pod: &mut Value) {
    let mut spec = pod.at("spec").clone();
    pod_spec(&mut spec);
    spec.put_default("enableServiceLinks", true);
    for list in ["containers", "initContainers"] {
        for container in if spec.has(list) { spec.list_mut(list).iter_mut() } else { [].iter_mut() }
        {
            requests_from_limits(container);
        }
    }
    pod.put("spec", spec);
}

fn requests_from_limits(container: &mut Value) {
    let limits: Vec<(String, Value)> = container
        .entries("resources.limits")
        .map(|(name, limit)| (name.clone(), limit.clone()))
        .collect();
    for (name, limit) in limits {
        if container.at("resources.requests").get(&name).is_none() {
            container.put_entry("resources.requests", &name, limit);
        }
    }
}

/// Sets the defaults of a pod spec, in a pod or a template.
fn pod_spec(spec: &mut Value) {
    spec.put_default("restartPolicy", "Always");
    spec.put_default("dnsPolicy", "ClusterFirst");
    spec.put_default("schedulerName", "default-scheduler");
    spec.put_default("terminationGracePeriodSeconds", 30);
    spec.put_default("securityContext", json!({}));
    let account =
        spec.text("serviceAccountName").or(spec.text("serviceAccount")).map(str::to_owned);
    if let Some(account) = account.filter(|account| !account.is_empty()) {
        spec.put("serviceAccountName", account.clone());
        spec.put("serviceAccount", account);
    }
    for list in ["containers", "initContainers"] {
        if spec.has(list) {
            spec.list_mut(list).iter_mut().for_each(container);
        }
    }
    if spec.has("volumes") {
        spec.list_mut("volumes").iter_mut().for_each(volume);
    }
}

fn container(container: &mut Value) {
    let image = container.str("image");
    let reference = image.rsplit_once('/').map_or(image, |(_, name)| name);
    let moving =
        !image.contains('@') && reference.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    let pull_policy = if moving { "Always" } else { "IfNotPresent" };
    container.put_default("imagePullPolicy", pull_policy);
    container.put_default("terminationMessagePath", "/dev/termination-log");
    container.put_default("terminationMessagePolicy", "File");
    container.put_default("resources", json!({}));
    if container.has("ports") {
        container.list_mut("ports").iter_mut().for_each(|port| port.put_default("protocol", "TCP"));
    }
    if container.has("env") {
        for variable in container.list_mut("env") {
            field_ref(variable.slot("valueFrom"));
            if !variable.has("valueFrom") {
                variable.cut("valueFrom");
            }
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container.has(field) {
            probe(container.slot(field));
        }
    }
}

fn field_ref(source: &mut Value) {
    if source.has("fieldRef") {
        source.put_default("fieldRef.apiVersion", "v1");
    }
    if source.has("resourceFieldRef") {
        source.put_default("resourceFieldRef.divisor", "0");
    }
}

fn probe(probe: &mut Value) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe.int(field).unwrap_or(0) == 0 {
            probe.put(field, value);
        }
    }
    if probe.has("httpGet") {
        probe.put_default("httpGet.path", "/");
        probe.put_default("httpGet.scheme", "HTTP");
    }
    if probe.has("grpc") {
        probe.put_default("grpc.service", "");
    }
}

fn volume(volume: &mut Value) {
    let unnamed =
        volume.as_object().is_some_and(|fields| fields.keys().all(|field| field == "name"));
    if unnamed {
        volume.put("emptyDir", json!({}));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if volume.has(kind) {
            volume.put_default(&format!("{kind}.defaultMode"), FILE_MODE);
        }
    }
    if volume.has("downwardAPI.items") {
        volume.list_mut("downwardAPI.items").iter_mut().for_each(field_ref);
    }
    if volume.has("projected.sources") {
        for source in volume.list_mut("projected.sources") {
            if source.has("serviceAccountToken") {
                source
                    .put_default("serviceAccountToken.expirationSeconds", TOKEN_EXPIRATION_SECONDS);
            }
            if source.has("downwardAPI.items") {
                source.list_mut("downwardAPI.items").iter_mut().for_each(field_ref);
            }
        }
    }
}

fn service(service: &mut Value) {
    service.put_default("spec.type", "ClusterIP");
    service.put_default("spec.sessionAffinity", "None");
    if service.text("spec.type") != Some("ExternalName") {
        service.put_default("spec.internalTrafficPolicy", "Cluster");
        let headless_without_selector =
            service.text("spec.clusterIP") == Some("None") && !service.has("spec.selector");
        let policy = if headless_without_selector { "RequireDualStack" } else { "SingleStack" };
        service.put_default("spec.ipFamilyPolicy", policy);
        let families =
            if policy == "RequireDualStack" { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) };
        service.put_default("spec.ipFamilies", families);
    }
    if service.has("spec.ports") {
        for port in service.list_mut("spec.ports") {
            port.put_default("protocol", "TCP");
            let target = port.at("port").clone();
            port.put_default("targetPort", target);
        }
    }
    service.put_default("status", json!({"loadBalancer": {}}));
}

fn secret(secret: &mut Value) {
    secret.put_default("type", "Opaque");
    let plain = secret.cut("stringData").unwrap_or_default();
    for (key, text) in plain.as_object().into_iter().flatten() {
        let encoded = base64::encode(text.as_str().unwrap_or_default().as_bytes());
        secret.put_entry("data", key, encoded);
    }
}

fn namespace(namespace: &mut Value) {
    let name = namespace.str("metadata.name").to_owned();
    if !name.is_empty() {
        namespace.put_entry("metadata.labels", "kubernetes.io/metadata.name", name);
    }
    namespace.put_default("spec.finalizers", json!(["kubernetes"]));
    namespace.put_default("status.phase", "Active");
}

fn node(node: &mut Value) {
    let capacity = node.at("status.capacity").clone();
    if !capacity.is_null() {
        node.put_default("status.allocatable", capacity);
    }
}
