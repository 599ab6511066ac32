//! What both kubelets are to the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::auth::Auth;
use crate::clock::Time;
use crate::json::Json;
use crate::kubelet::logs::Logs;
use crate::registry::{Registry, Target};

/// The part of the cluster that a kubelet works on.
pub(crate) struct Host<'a> {
    pub(crate) registry: &'a mut Registry,
    pub(crate) logs: &'a mut Logs,
    pub(crate) auth: &'a mut Auth,
    /// Nodes whose kubelet does not act.
    pub(crate) silent: &'a BTreeSet<String>,
}

impl Host<'_> {
    /// The pods on nodes whose kubelet acts.
    pub(crate) fn pods(&self) -> Vec<Arc<Value>> {
        let mut pods = self.registry.list("pods", "");
        pods.retain(|pod| {
            let node = pod.str("spec.nodeName");
            let exists = || self.registry.get(Target::new("nodes", "", node)).is_ok();
            !node.is_empty() && exists() && !self.silent.contains(node)
        });
        pods
    }
}

/// The kubelets of all nodes.
pub(crate) trait Kubelet: Send {
    /// Acts on pods that changed or whose time has come, and returns when to act again.
    fn step(&mut self, host: &mut Host<'_>) -> Option<Time>;

    /// Ends everything that runs on a node, as a loss of power does.
    fn kill_node(&mut self, node: &str);
}
