//! Keeps the status of resource quotas.

use serde_json::{Map, Value};

use crate::admission;
use crate::clock::Time;
use crate::json::Json;
use crate::kinds;
use crate::quantity::Quantity;
use crate::registry::{Registry, Target, Write};

pub(crate) fn run(registry: &mut Registry) -> Option<Time> {
    for quota in registry.list("resourcequotas", "") {
        let namespace = quota.str("metadata.namespace");
        let mut used: Map<String, Value> = Map::new();
        let totals: Vec<_> = kinds::all()
            .iter()
            .map(|kind| admission::total_usage(registry, kind, namespace))
            .collect();
        for (resource, _) in quota.entries("spec.hard") {
            let amount: Quantity =
                totals.iter().filter_map(|total| total.get(resource)).copied().sum();
            used.insert(resource.clone(), amount.to_string().into());
        }
        let hard = quota.at("spec.hard").clone();
        let write = Write::status("kube-controller-manager");
        // The quota was just listed, so the update cannot fail.
        let _ = registry.modify(Target::of("resourcequotas", &quota), &write, |quota| {
            quota.put("status.hard", hard);
            quota.put("status.used", used);
        });
    }
    None
}
