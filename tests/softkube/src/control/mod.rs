//! The controllers, run until nothing changes any more.
//!
//! ```text
//! a change or a due time -> settle: each controller reads the store and writes through the registry -> repeat
//! ```
//! Controllers see every state without delay; what clients see in between are the revisions of the store.

mod budgets;
mod due;
mod fit;
mod garbage;
mod jobs;
mod namespaces;
mod nodes;
mod pod_gc;
mod quotas;
mod scheduler;
mod taints;
mod ttl;

use crate::clock::Time;
use crate::registry::Registry;

pub(crate) use nodes::{new_node, set_ready};

/// Rounds after which a set of controllers that keeps changing the store is given up until the next change.
const ROUNDS_LIMIT: u32 = 1000;

/// The controllers and what they remember between rounds.
#[derive(Debug, Default)]
pub(crate) struct Controllers {
    jobs: jobs::Jobs,
    nodes: nodes::Nodes,
}

impl Controllers {
    /// Runs all controllers until the store rests, and returns when to run again even if nothing changes.
    pub(crate) fn settle(&mut self, registry: &mut Registry) -> Option<Time> {
        let mut due = None;
        for _ in 0..ROUNDS_LIMIT {
            let revision = registry.store.revision();
            due = [
                self.nodes.run(registry),
                taints::run(registry),
                pod_gc::run(registry),
                self.jobs.run(registry),
                ttl::run(registry),
                garbage::run(registry),
                namespaces::run(registry),
                budgets::run(registry),
                quotas::run(registry),
                scheduler::run(registry),
            ]
            .into_iter()
            .flatten()
            .min();
            if registry.store.revision() == revision {
                break;
            }
        }
        due
    }

    /// Starts or ends the silence of a node's kubelet.
    pub(crate) fn set_node_silent(&mut self, node: &str, silent: bool, now: Time) {
        self.nodes.set_silent(node, silent, now);
    }
}
