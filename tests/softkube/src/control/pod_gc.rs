//! The pod garbage collector: pods of removed nodes, of nodes out of service, and deleted pods without a node.
//!
//! Kubernetes looks every 20 seconds; here it acts at once.

use serde_json::Value;

use crate::clock::Time;
use crate::delete::DeleteOptions;
use crate::json::Json;
use crate::pods::{self, Condition};
use crate::registry::{Registry, Target, Write};

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub(crate) fn run(registry: &mut Registry) -> Option<Time> {
    for pod in registry.list("pods", "") {
        let node_name = pod.str("spec.nodeName");
        if node_name.is_empty() {
            if pods::is_deleting(&pod) && !pods::is_terminal(&pod) {
                fail_and_delete(registry, &pod, None);
            }
            continue;
        }
        match registry.get(Target::new("nodes", "", node_name)) {
            Err(_) => {
                let condition = Condition {
                    kind: "DisruptionTarget",
                    status: "True",
                    reason: "DeletionByPodGC",
                    message: "PodGC: node no longer exists",
                };
                fail_and_delete(registry, &pod, Some(condition));
            }
            Ok(node) if pods::is_deleting(&pod) && is_out_of_service(&node) => {
                fail_and_delete(registry, &pod, None);
            }
            Ok(_) => {}
        }
    }
    None
}

fn is_out_of_service(node: &Value) -> bool {
    let tainted = node.list("spec.taints").iter().any(|taint| taint.str("key") == OUT_OF_SERVICE);
    tainted && !pods::condition_is_true(node, "Ready")
}

fn fail_and_delete(registry: &mut Registry, pod: &Value, condition: Option<Condition<'_>>) {
    let now = registry.now();
    let target = Target::of("pods", pod);
    // The pod was just listed, so neither write can fail.
    let _ = registry.force(target, &Write::status("kube-controller-manager"), |pod| {
        if !pods::is_terminal(pod) {
            pod.put("status.phase", "Failed");
        }
        if let Some(condition) = condition {
            pods::set_condition(pod, condition, now);
        }
    });
    let _ = registry.delete(target, &DeleteOptions::now());
}
