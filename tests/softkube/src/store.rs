//! The versioned object store: one revision counter, a history of changes, and compaction.
//!
//! ```text
//! put/remove -> revision + 1 -> objects (current state)
//!                            -> history (what watches read; older states are rebuilt from it)
//!                            -> ledger  (every object ever created; never compacted)
//! ```
//! The store knows no Kubernetes semantics besides stamping `metadata.resourceVersion`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use crate::clock::Time;
use crate::json::Json;

/// Changes that the history holds before the oldest are compacted.
const HISTORY_LIMIT: usize = 100_000;

/// The place of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The plural resource name, such as `jobs`.
    pub resource: String,
    /// The namespace; empty for cluster-scoped resources.
    pub namespace: String,
    /// The name of the object.
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object was created.
    Added,
    /// The object was updated.
    Modified,
    /// The object was removed.
    Deleted,
}

/// One change of the history.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) key: Key,
    /// The object after the change, or the last state of a removed object with the revision of its removal.
    pub(crate) object: Arc<Value>,
    /// The object before the change.
    pub(crate) previous: Option<Arc<Value>>,
    pub(crate) change: Change,
}

/// An entry of the ledger: an object that was created at some time.
#[derive(Clone, Debug)]
pub struct Created {
    /// The store's revision at the creation.
    pub revision: u64,
    /// The cluster time of the creation.
    pub at: Time,
    /// Where the object was created.
    pub key: Key,
    /// The object as it was created.
    pub object: Arc<Value>,
}

/// The history up to the requested revision was compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// The oldest revision that can still be read.
    pub(crate) oldest: u64,
}

/// The store of all objects.
#[derive(Debug)]
pub(crate) struct Store {
    revision: u64,
    compacted: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Event>,
    ledger: Vec<Created>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            revision: 1,
            compacted: 1,
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            ledger: Vec::new(),
        }
    }

    /// The revision of the latest change.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision up to which the history was dropped.
    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// The objects of a resource, in one namespace or (when empty) in all, in key order.
    pub(crate) fn list(
        &self,
        resource: &str,
        namespace: &str,
    ) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let first = Key::new(resource, namespace, "");
        let (resource, namespace) = (resource.to_owned(), namespace.to_owned());
        self.objects.range(first..).take_while(move |(key, _)| {
            key.resource == resource && (namespace.is_empty() || key.namespace == namespace)
        })
    }

    pub(crate) fn objects(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter()
    }

    /// Creates or replaces an object and stamps its resource version.
    pub(crate) fn put(&mut self, key: Key, mut object: Value, now: Time) -> Arc<Value> {
        self.revision += 1;
        object.put("metadata.resourceVersion", self.revision.to_string());
        let object = Arc::new(object);
        let previous = self.objects.insert(key.clone(), object.clone());
        let change = if previous.is_none() { Change::Added } else { Change::Modified };
        if previous.is_none() {
            let created = Created {
                revision: self.revision,
                at: now,
                key: key.clone(),
                object: object.clone(),
            };
            self.ledger.push(created);
        }
        self.record(Event {
            revision: self.revision,
            key,
            object: object.clone(),
            previous,
            change,
        });
        object
    }

    /// Corrects an object in the write that has just created it, without a further revision.
    pub(crate) fn amend(&mut self, key: &Key, object: Value) -> Value {
        let object = Arc::new(object);
        if let Some(current) = self.objects.get_mut(key) {
            *current = object.clone();
        }
        if let Some(event) = self.history.iter_mut().rev().find(|event| event.key == *key) {
            event.object = object.clone();
        }
        if let Some(created) = self.ledger.iter_mut().rev().find(|created| created.key == *key) {
            created.object = object.clone();
        }
        Value::clone(&object)
    }

    /// Removes an object and returns its last state.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let previous = self.objects.remove(key)?;
        self.revision += 1;
        let mut last = Value::clone(&previous);
        last.put("metadata.resourceVersion", self.revision.to_string());
        let object = Arc::new(last);
        let event = Event {
            revision: self.revision,
            key: key.clone(),
            object: object.clone(),
            previous: Some(previous),
            change: Change::Deleted,
        };
        self.record(event);
        Some(object)
    }

    fn record(&mut self, event: Event) {
        self.history.push_back(event);
        while self.history.len() > HISTORY_LIMIT {
            if let Some(dropped) = self.history.pop_front() {
                self.compacted = dropped.revision;
            }
        }
    }

    /// Drops the history up to and including `revision`.
    pub(crate) fn compact(&mut self, revision: u64) {
        let revision = revision.min(self.revision);
        while self.history.front().is_some_and(|event| event.revision <= revision) {
            self.history.pop_front();
        }
        self.compacted = self.compacted.max(revision);
    }

    /// The changes after `revision`, oldest first.
    pub(crate) fn changes_after(
        &self,
        revision: u64,
    ) -> Result<impl Iterator<Item = &Event>, Compacted> {
        if revision < self.compacted {
            return Err(Compacted { oldest: self.compacted });
        }
        let first = self.history.partition_point(|event| event.revision <= revision);
        Ok(self.history.range(first..))
    }

    /// The objects of a resource as they were at `revision`.
    pub(crate) fn list_at(
        &self,
        resource: &str,
        namespace: &str,
        revision: u64,
    ) -> Result<Vec<(Key, Arc<Value>)>, Compacted> {
        let mut state: BTreeMap<Key, Arc<Value>> = self
            .list(resource, namespace)
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        let changes: Vec<&Event> = self.changes_after(revision)?.collect();
        let relevant = |event: &&&Event| {
            event.key.resource == resource
                && (namespace.is_empty() || event.key.namespace == namespace)
        };
        for event in changes.iter().rev().filter(relevant) {
            match &event.previous {
                Some(previous) => state.insert(event.key.clone(), previous.clone()),
                None => state.remove(&event.key),
            };
        }
        Ok(state.into_iter().collect())
    }

    /// Every object ever created, oldest first.
    pub(crate) fn ledger(&self) -> &[Created] {
        &self.ledger
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str) -> Key {
        Key::new("pods", "ns", name)
    }

    #[test]
    fn an_older_state_is_rebuilt_from_the_history() {
        let mut store = Store::new();
        let now = Time::default();
        store.put(pod("a"), json!({"v": 1}), now);
        let revision = store.revision();
        store.put(pod("a"), json!({"v": 2}), now);
        store.put(pod("b"), json!({}), now);
        store.remove(&pod("a"));
        let then = store.list_at("pods", "ns", revision).unwrap();
        assert_eq!(then.len(), 1);
        assert_eq!(then[0].1["v"], 1);
        assert_eq!(store.list("pods", "").count(), 1);
        assert_eq!(store.ledger().len(), 2);
    }

    #[test]
    fn compacted_history_cannot_be_read() {
        let mut store = Store::new();
        store.put(pod("a"), json!({}), Time::default());
        let revision = store.revision();
        store.put(pod("a"), json!({}), Time::default());
        store.compact(revision);
        assert!(store.changes_after(revision - 1).is_err());
        assert_eq!(store.changes_after(revision).unwrap().count(), 1);
    }
}
