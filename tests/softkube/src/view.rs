//! A look at the cluster's state, for tests that wait and assert.

use std::net::IpAddr;

use serde_json::Value;

use crate::dns;
use crate::faults::RequestRecord;
use crate::json::Json;
use crate::pods;
use crate::state::State;
use crate::store::{Created, Key};

/// The state at one moment.
#[derive(Clone, Copy)]
pub struct View<'a> {
    state: &'a State,
}

impl<'a> View<'a> {
    pub(crate) fn new(state: &'a State) -> Self {
        Self { state }
    }

    /// The object, if it exists; the namespace is empty for cluster-scoped resources.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&'a Value> {
        self.state.registry.store.get(&Key::new(resource, namespace, name)).map(AsRef::as_ref)
    }

    /// The objects of a resource in a namespace, or in all when it is empty, in order of their names.
    pub fn list(&self, resource: &str, namespace: &str) -> Vec<&'a Value> {
        self.state
            .registry
            .store
            .list(resource, namespace)
            .map(|(_, object)| object.as_ref())
            .collect()
    }

    /// The pods that a Job controls.
    pub fn pods_of(&self, namespace: &str, job: &str) -> Vec<&'a Value> {
        let controls = |pod: &&Value| {
            pods::controller(pod)
                .is_some_and(|owner| owner.str("kind") == "Job" && owner.str("name") == job)
        };
        self.list("pods", namespace).into_iter().filter(controls).collect()
    }

    /// Whether a condition of an object is true.
    pub fn condition(&self, object: &Value, kind: &str) -> bool {
        pods::condition_is_true(object, kind)
    }

    /// Reasons and messages of the events about objects with this name, oldest first.
    pub fn events(&self, namespace: &str, about: &str) -> Vec<(String, String)> {
        let mut events: Vec<&Value> = self.list("events", namespace);
        events.retain(|event| event.str("involvedObject.name") == about);
        events
            .sort_by_key(|event| event.str("metadata.resourceVersion").parse::<u64>().unwrap_or(0));
        events
            .iter()
            .map(|event| (event.str("reason").to_owned(), event.str("message").to_owned()))
            .collect()
    }

    /// The addresses of a Service name such as `NAME.NAMESPACE.svc` or, for pods with a hostname and subdomain,
    /// `HOSTNAME.NAME.NAMESPACE.svc`; names without a namespace are looked up in `namespace`.
    pub fn resolve(&self, name: &str, namespace: &str) -> Vec<IpAddr> {
        dns::resolve(&self.state.registry, name, namespace)
    }

    /// The lines that a container has written in its current run.
    pub fn log(&self, namespace: &str, pod: &str, container: &str) -> Vec<String> {
        let uid = self.get("pods", namespace, pod).map_or("", |pod| pod.str("metadata.uid"));
        let log = self.state.logs.get(uid, container);
        log.map(|log| log.lines.iter().map(|line| line.text.clone()).collect()).unwrap_or_default()
    }

    /// The requests that the server received, oldest first.
    pub fn requests(&self) -> &'a [RequestRecord] {
        &self.state.requests
    }

    /// Every object ever created, oldest first.
    pub fn ledger(&self) -> &'a [Created] {
        self.state.registry.store.ledger()
    }

    /// The revision of the latest change.
    pub fn revision(&self) -> u64 {
        self.state.registry.store.revision()
    }

    /// Jobs, pods, nodes and events in short, for the report of a failed test.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for resource in ["jobs", "pods", "nodes"] {
            for object in self.list(resource, "") {
                let (namespace, name) =
                    (object.str("metadata.namespace"), object.str("metadata.name"));
                text.push_str(&format!("{resource} {namespace}/{name}: {}\n", object.at("status")));
            }
        }
        for event in self.list("events", "") {
            let about = event.str("involvedObject.name");
            text.push_str(&format!(
                "event {about}: {} {}\n",
                event.str("reason"),
                event.str("message")
            ));
        }
        text
    }
}
