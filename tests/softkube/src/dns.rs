//! Service names to addresses, as the cluster's DNS answers.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use crate::json::Json;
use crate::pods;
use crate::registry::{Registry, Target};

/// The addresses of a name: those of pods behind a headless Service, or the address of the Service.
pub(crate) fn resolve(registry: &Registry, name: &str, namespace: &str) -> Vec<IpAddr> {
    let name = name.trim_end_matches('.');
    let name = name.strip_suffix(".cluster.local").unwrap_or(name);
    let name = name.strip_suffix(".svc").unwrap_or(name);
    let labels: Vec<&str> = name.split('.').collect();
    match labels.as_slice() {
        [service] => endpoints(registry, (service, namespace), None),
        [service, namespace] if exists(registry, service, namespace) => {
            endpoints(registry, (service, namespace), None)
        }
        [host, service] => endpoints(registry, (service, namespace), Some(host)),
        [host, service, namespace] => endpoints(registry, (service, namespace), Some(host)),
        _ => Vec::new(),
    }
}

fn exists(registry: &Registry, service: &str, namespace: &str) -> bool {
    registry.get(Target::new("services", namespace, service)).is_ok()
}

fn endpoints(
    registry: &Registry,
    (service, namespace): (&str, &str),
    host: Option<&str>,
) -> Vec<IpAddr> {
    let Ok(object) = registry.get(Target::new("services", namespace, service)) else {
        return Vec::new();
    };
    if object.text("spec.clusterIP") != Some("None") && host.is_none() {
        return object.str("spec.clusterIP").parse().into_iter().collect();
    }
    let publishes_unready = object.flag("spec.publishNotReadyAddresses");
    let selected = |pod: &Arc<Value>| {
        let labels = pod.at("metadata.labels");
        let mut selector = object.entries("spec.selector").peekable();
        selector.peek().is_some() && selector.all(|(key, value)| labels.get(key) == Some(value))
    };
    let listed = |pod: &Arc<Value>| {
        let ready = pods::condition_is_true(pod, "Ready") && !pods::is_deleting(pod);
        let named = host.is_none_or(|host| {
            pod.text("spec.hostname") == Some(host) && pod.text("spec.subdomain") == Some(service)
        });
        selected(pod) && named && !pods::is_terminal(pod) && (ready || publishes_unready)
    };
    let pods = registry.list("pods", namespace);
    pods.iter()
        .filter(|pod| listed(pod))
        .filter_map(|pod| pod.str("status.podIP").parse().ok())
        .collect()
}
