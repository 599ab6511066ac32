//! How a cluster is set up.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::auth::{Rule, User};
use crate::clock::ClockMode;
use crate::http::server::Tls;

/// How to start a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// How cluster time passes.
    pub clock: ClockMode,
    /// The seed of uids, generated names and tokens.
    pub seed: u64,
    /// Where the API server listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// The certificate for HTTPS; `None` serves plain HTTP.
    pub tls: Option<Tls>,
    /// Users besides the administrator.
    pub users: Vec<User>,
    /// Permissions of users and service accounts.
    pub rules: Vec<Rule>,
    /// The nodes of the cluster.
    pub nodes: Vec<NodeSpec>,
    /// The first two bytes of the pods' addresses.
    pub pod_network: [u8; 2],
}

impl Default for Options {
    /// Real time, plain HTTP on a free local port, and one large node named `node-0`. All of 127.0.0.0/8 is local on Linux,
    /// so processes can listen on the addresses of their pods.
    fn default() -> Self {
        Self {
            clock: ClockMode::Real,
            seed: 1,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            users: Vec::new(),
            rules: Vec::new(),
            nodes: vec![NodeSpec::new(
                "node-0",
                &[("cpu", "64"), ("memory", "256Gi"), ("nvidia.com/gpu", "8")],
            )],
            pod_network: [127, 64],
        }
    }
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// The name.
    pub name: String,
    /// Capacities, such as `("nvidia.com/gpu", "8")`; 110 pods unless stated.
    pub capacity: Vec<(String, String)>,
    /// Labels besides those that the kubelet sets.
    pub labels: Vec<(String, String)>,
    /// Taints, as in `spec.taints`.
    pub taints: Vec<Value>,
}

impl NodeSpec {
    /// A node without further labels and taints.
    pub fn new(name: &str, capacity: &[(&str, &str)]) -> Self {
        let capacity = capacity
            .iter()
            .map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned()))
            .collect();
        Self { name: name.to_owned(), capacity, labels: Vec::new(), taints: Vec::new() }
    }

    /// The same node with one more label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The same node with one more taint.
    #[must_use]
    pub fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        self.taints.push(json!({"key": key, "value": value, "effect": effect}));
        self
    }
}
