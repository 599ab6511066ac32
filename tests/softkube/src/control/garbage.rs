//! The garbage collector: dependents without owners, and the `orphan` and `foregroundDeletion` finalizers.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::clock::Time;
use crate::delete::DeleteOptions;
use crate::json::Json;
use crate::kinds;
use crate::pods;
use crate::registry::{Registry, Target, Write};

const MANAGER: &str = "kube-controller-manager";

pub(crate) fn run(registry: &mut Registry) -> Option<Time> {
    let objects: Vec<(String, Arc<Value>)> = registry
        .store
        .objects()
        .filter(|(key, _)| key.resource != "events")
        .map(|(key, object)| (key.resource.clone(), object.clone()))
        .collect();
    let uids: BTreeSet<&str> =
        objects.iter().map(|(_, object)| object.str("metadata.uid")).collect();
    for (resource, object) in &objects {
        if pods::is_deleting(object) {
            finalize(registry, resource, object, &objects);
        }
        let owners = object.list("metadata.ownerReferences");
        if !owners.is_empty() && !pods::is_deleting(object) {
            collect(registry, resource, object, &uids);
        }
    }
    None
}

/// Deletes an object none of whose owners exists, and takes absent owners off the others.
fn collect(registry: &mut Registry, resource: &str, object: &Value, uids: &BTreeSet<&str>) {
    let owners = object.list("metadata.ownerReferences");
    let absent = |owner: &&Value| !uids.contains(owner.str("uid")) && is_served(owner);
    let gone: Vec<&Value> = owners.iter().filter(absent).collect();
    let target = Target::of(resource, object);
    if gone.is_empty() {
        return;
    }
    if gone.len() == owners.len() {
        // Another controller may have deleted the object in this round.
        let _ = registry.delete(target, &DeleteOptions::background());
        return;
    }
    let gone: Vec<String> = gone.iter().map(|owner| owner.str("uid").to_owned()).collect();
    let _ = registry.force(target, &Write::controller(MANAGER), |object| {
        let owners = object.list_mut("metadata.ownerReferences");
        owners.retain(|owner| !gone.iter().any(|uid| uid == owner.str("uid")));
    });
}

/// Owners of kinds that are not served are taken to exist.
fn is_served(owner: &Value) -> bool {
    kinds::by_kind(owner.str("apiVersion"), owner.str("kind")).is_some()
}

fn finalize(
    registry: &mut Registry,
    resource: &str,
    owner: &Value,
    objects: &[(String, Arc<Value>)],
) {
    let uid = owner.str("metadata.uid");
    let owns = |object: &Value| {
        object.list("metadata.ownerReferences").iter().any(|one| one.str("uid") == uid)
    };
    let dependents: Vec<&(String, Arc<Value>)> =
        objects.iter().filter(|(_, object)| owns(object)).collect();
    if pods::has_finalizer(owner, "orphan") {
        for (resource, dependent) in dependents {
            let _ = registry.force(
                Target::of(resource, dependent),
                &Write::controller(MANAGER),
                |object| {
                    object.list_mut("metadata.ownerReferences").retain(|one| one.str("uid") != uid);
                    if object.list("metadata.ownerReferences").is_empty() {
                        object.cut("metadata.ownerReferences");
                    }
                },
            );
        }
        remove_finalizer(registry, resource, owner, "orphan");
    } else if pods::has_finalizer(owner, "foregroundDeletion") {
        for (resource, dependent) in
            dependents.iter().filter(|(_, dependent)| !pods::is_deleting(dependent))
        {
            let _ = registry.delete(Target::of(resource, dependent), &DeleteOptions::background());
        }
        let blocks = |dependent: &Value| {
            let owners = dependent.list("metadata.ownerReferences").iter();
            owners.filter(|one| one.str("uid") == uid).any(|one| one.flag("blockOwnerDeletion"))
        };
        let blocked = dependents.iter().any(|(resource, dependent)| {
            blocks(dependent) && registry.get(Target::of(resource, dependent)).is_ok()
        });
        if !blocked {
            remove_finalizer(registry, resource, owner, "foregroundDeletion");
        }
    }
}

fn remove_finalizer(registry: &mut Registry, resource: &str, object: &Value, finalizer: &str) {
    let _ = registry.force(Target::of(resource, object), &Write::controller(MANAGER), |object| {
        object.list_mut("metadata.finalizers").retain(|one| one != finalizer);
    });
}
