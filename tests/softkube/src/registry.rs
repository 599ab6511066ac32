//! The API server's core: the store with the context that writes need.
//!
//! `create`, `update` and `delete` add the write paths; controllers and the HTTP layer go through the same ones.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::clock::{Clock, Time};
use crate::error::ApiError;
use crate::json::Json;
use crate::kinds::{self, Kind};
use crate::managed::Writer;
use crate::random::Random;
use crate::store::{Key, Store};

/// How a write is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write<'a> {
    /// The field manager.
    pub(crate) manager: &'a str,
    /// `status`, or empty.
    pub(crate) subresource: &'a str,
    /// Everything but the storing is done.
    pub(crate) dry_run: bool,
}

impl Write<'static> {
    /// A write of a controller.
    pub(crate) fn controller(manager: &'static str) -> Self {
        Self { manager, subresource: "", dry_run: false }
    }

    /// A write of a controller to the status.
    pub(crate) fn status(manager: &'static str) -> Self {
        Self { subresource: "status", ..Self::controller(manager) }
    }
}

/// The addressed object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl<'a> Target<'a> {
    pub(crate) fn new(resource: &str, namespace: &'a str, name: &'a str) -> Self {
        Self { kind: kinds::known(resource), namespace, name }
    }

    /// The target that an object of a resource is.
    pub(crate) fn of(resource: &str, object: &'a Value) -> Self {
        Self::new(resource, object.str("metadata.namespace"), object.str("metadata.name"))
    }

    pub(crate) fn key(&self) -> Key {
        Key::new(self.kind.resource, self.namespace, self.name)
    }

    pub(crate) fn not_found(&self) -> ApiError {
        ApiError::not_found(self.kind.subject(self.name))
    }
}

/// The store and what writing to it needs.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    warnings: Vec<String>,
    addresses: u32,
    pod_network: [u8; 2],
    certificate: String,
}

/// What an event says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note<'a> {
    /// The component that reports, such as `job-controller`.
    pub(crate) component: &'a str,
    /// `Normal` or `Warning`.
    pub(crate) kind: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
}

impl Registry {
    pub(crate) fn new(clock: Clock, seed: u64, pod_network: [u8; 2]) -> Self {
        Self {
            store: Store::new(),
            clock,
            random: Random::new(seed),
            warnings: Vec::new(),
            addresses: 0,
            pod_network,
            certificate: String::new(),
        }
    }

    /// The PEM text of the certificate that clients in pods trust; empty without TLS.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    pub(crate) fn set_certificate(&mut self, certificate: String) {
        self.certificate = certificate;
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    pub(crate) fn get(&self, target: Target<'_>) -> Result<Arc<Value>, ApiError> {
        self.store.get(&target.key()).cloned().ok_or_else(|| target.not_found())
    }

    /// The objects of a resource in a namespace, or in all when it is empty.
    pub(crate) fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        self.store.list(resource, namespace).map(|(_, object)| object.clone()).collect()
    }

    /// Adds a `Warning` header to the answer of the current request.
    pub(crate) fn warn(&mut self, message: impl Into<String>) {
        let message = message.into();
        if !self.warnings.contains(&message) {
            self.warnings.push(message);
        }
    }

    /// The warnings of the current request.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// The next unused number for an address.
    pub(crate) fn next_address(&mut self) -> [u8; 2] {
        self.addresses += 1;
        let [_, _, high, low] = self.addresses.to_be_bytes();
        [high, low]
    }

    /// The next unused address of a pod.
    pub(crate) fn next_pod_address(&mut self) -> Ipv4Addr {
        let ([first, second], [high, low]) = (self.pod_network, self.next_address());
        Ipv4Addr::new(first, second, high, low)
    }

    pub(crate) fn writer<'a>(&self, write: &Write<'a>) -> Writer<'a> {
        Writer { manager: write.manager, subresource: write.subresource, now: self.now() }
    }

    /// Stores an object whose checks are done.
    pub(crate) fn store_object(&mut self, target: Target<'_>, object: Value) -> Value {
        let now = self.now();
        Value::clone(&self.store.put(target.key(), object, now))
    }

    /// Records an event about an object, or counts one more of the same.
    pub(crate) fn record(&mut self, about: &Value, note: Note<'_>) {
        let now = self.now();
        let namespace = match about.str("metadata.namespace") {
            "" => "default",
            namespace => namespace,
        };
        let uid = about.str("metadata.uid");
        let same = |event: &Value| {
            event.str("involvedObject.uid") == uid
                && event.str("reason") == note.reason
                && event.str("message") == note.message
        };
        let existing = self.store.list("events", namespace).find(|(_, event)| same(event));
        let (key, event) = match existing {
            Some((key, event)) => {
                let mut event = Value::clone(event);
                event.put("count", event.int("count").unwrap_or(1) + 1);
                event.put("lastTimestamp", now.rfc3339());
                (key.clone(), event)
            }
            None => {
                let name = format!("{}.{:x}", about.str("metadata.name"), self.random.next());
                let event = new_event(about, note, (namespace, &name), now, self.random.uuid());
                (Key::new("events", namespace, &name), event)
            }
        };
        self.store.put(key, event, now);
    }
}

fn new_event(
    about: &Value,
    note: Note<'_>,
    (namespace, name): (&str, &str),
    now: Time,
    uid: String,
) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace, "uid": uid, "creationTimestamp": now.rfc3339()},
        "involvedObject": {
            "apiVersion": about.str("apiVersion"), "kind": about.str("kind"), "name": about.str("metadata.name"),
            "namespace": about.str("metadata.namespace"), "uid": about.str("metadata.uid"),
            "resourceVersion": about.str("metadata.resourceVersion"),
        },
        "type": note.kind, "reason": note.reason, "message": note.message, "count": 1,
        "source": {"component": note.component}, "reportingComponent": note.component, "reportingInstance": "",
        "firstTimestamp": now.rfc3339(), "lastTimestamp": now.rfc3339(), "eventTime": null,
    })
}
