//! Empties and removes namespaces that are being deleted.

use std::sync::Arc;

use serde_json::Value;

use crate::clock::Time;
use crate::delete::DeleteOptions;
use crate::json::Json;
use crate::pods;
use crate::registry::{Registry, Target, Write};

pub(crate) fn run(registry: &mut Registry) -> Option<Time> {
    for namespace in registry.list("namespaces", "") {
        if !pods::is_deleting(&namespace) {
            continue;
        }
        let name = namespace.str("metadata.name");
        let content: Vec<(String, Arc<Value>)> = registry
            .store
            .objects()
            .filter(|(key, _)| key.namespace == name)
            .map(|(key, object)| (key.resource.clone(), object.clone()))
            .collect();
        for (resource, object) in content.iter().filter(|(_, object)| !pods::is_deleting(object)) {
            // Deleting an owner may have removed a later object already.
            let _ = registry.delete(Target::of(resource, object), &DeleteOptions::background());
        }
        if content.is_empty() {
            let write = Write::controller("kube-controller-manager");
            let _ = registry.force(Target::new("namespaces", "", name), &write, |namespace| {
                namespace.put("spec.finalizers", Vec::<String>::new());
            });
        }
    }
    None
}
