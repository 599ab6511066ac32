//! Keeps the status of pod disruption budgets.
//!
//! Only an integral `minAvailable` can be evaluated for pods of Jobs and for bare pods, because percentages and
//! `maxUnavailable` need a controller with a scale; such budgets allow no disruption, as in Kubernetes.

use serde_json::json;

use crate::clock::Time;
use crate::json::Json;
use crate::pods;
use crate::registry::{Registry, Target, Write};
use crate::selector::Labels;

pub(crate) fn run(registry: &mut Registry) -> Option<Time> {
    let now = registry.now();
    for budget in registry.list("poddisruptionbudgets", "") {
        let Some(selector) = Labels::from_object(budget.at("spec.selector")) else { continue };
        let covered = registry.list("pods", budget.str("metadata.namespace"));
        let covered: Vec<_> =
            covered.iter().filter(|pod| selector.matches(pod) && !pods::is_terminal(pod)).collect();
        let healthy = covered
            .iter()
            .filter(|pod| pods::condition_is_true(pod, "Ready") && !pods::is_deleting(pod));
        let healthy = i64::try_from(healthy.count()).unwrap_or(i64::MAX);
        let expected = i64::try_from(covered.len()).unwrap_or(i64::MAX);
        let desired = budget.int("spec.minAvailable");
        let allowed = desired.map_or(0, |desired| (healthy - desired).max(0));
        let (reason, status) = match (desired, allowed) {
            (None, _) => ("SyncFailed", "False"),
            (Some(_), 0) => ("InsufficientPods", "False"),
            (Some(_), _) => ("SufficientPods", "True"),
        };
        let generation = budget.at("metadata.generation").clone();
        let write = Write::status("kube-controller-manager");
        // The budget was just listed, so the update cannot fail.
        let _ = registry.modify(Target::of("poddisruptionbudgets", &budget), &write, |budget| {
            let conditions = budget.at("status.conditions").clone();
            budget.put("status", json!({
                "observedGeneration": generation, "disruptionsAllowed": allowed, "currentHealthy": healthy,
                "desiredHealthy": desired.unwrap_or(0), "expectedPods": expected, "conditions": conditions,
            }));
            let condition = pods::Condition { kind: "DisruptionAllowed", status, reason, message: "" };
            pods::set_condition(budget, condition, now);
        });
    }
    None
}
