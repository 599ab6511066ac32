//! A small HTTP client and the objects that tests use.
#![allow(dead_code, reason = "each test binary uses a part of the support")]

use serde_json::{Value, json};
use softkube::{ClockMode, Cluster, NodeSpec, Options};

/// The path of the Jobs of the default namespace.
pub(crate) const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
/// The path of the pods of the default namespace.
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
/// The path of the ConfigMaps of the default namespace.
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A cluster whose time the test moves.
pub(crate) async fn manual_cluster() -> Cluster {
    Cluster::start(Options { clock: ClockMode::Manual, ..Options::default() }).await.unwrap()
}

/// A cluster with these nodes, whose time the test moves.
pub(crate) async fn cluster_with(nodes: Vec<NodeSpec>) -> Cluster {
    Cluster::start(Options { clock: ClockMode::Manual, nodes, ..Options::default() }).await.unwrap()
}

/// A Job with one container and the given spec fields.
pub(crate) fn job(name: &str, spec: Value) -> Value {
    let container = json!({"name": "main", "image": "trainer:1"});
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    });
    merge(&mut job["spec"], &spec);
    job
}

/// A pod with one container.
pub(crate) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "trainer:1"}]},
    })
}

/// A ConfigMap with one key.
pub(crate) fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": value}})
}

/// Lays one object over another.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

/// An answer of the server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) warnings: Vec<String>,
    pub(crate) retry_after: Option<String>,
}

/// A client of the API server.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Client {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Self::with_token(cluster, cluster.admin_token())
    }

    pub(crate) fn with_token(cluster: &Cluster, token: &str) -> Self {
        // In the workspace, reqwest is built without an implementation of TLS of its own. Another test may have set it.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().user_agent("tester/1.0").build().unwrap();
        Self { http, url: cluster.url(), token: token.to_owned() }
    }

    /// Sends a request as it is.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<reqwest::Response, reqwest::Error> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request =
            self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        if !body.is_null() {
            request = request.header("Content-Type", content_type).body(body.to_string());
        }
        request.send().await
    }

    async fn call(&self, method: &str, path: &str, content_type: &str, body: &Value) -> Answer {
        let response = self.send(method, path, content_type, body).await.unwrap();
        let header = |name: &str| -> Vec<String> {
            let values = response.headers().get_all(name).iter();
            values.map(|value| value.to_str().unwrap().to_owned()).collect()
        };
        let (code, warnings, retry_after) =
            (response.status().as_u16(), header("warning"), header("retry-after").first().cloned());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { code, body, warnings, retry_after }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", &Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, "application/json", body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call("PUT", path, "application/json", body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, "", &Value::Null).await
    }

    /// Patches in a format: `json`, `merge`, `strategic-merge` or `apply`.
    pub(crate) async fn patch(&self, format: &str, path: &str, body: &Value) -> Answer {
        let suffix = if format == "apply" { "yaml" } else { "json" };
        self.call("PATCH", path, &format!("application/{format}-patch+{suffix}"), body).await
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path: &str) -> Watch {
        let response = self.send("GET", path, "", &Value::Null).await.unwrap();
        Watch { code: response.status().as_u16(), response, buffer: Vec::new() }
    }
}

/// An open watch.
pub(crate) struct Watch {
    pub(crate) code: u16,
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event; `None` when the watch ends or breaks.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = self.response.chunk().await.ok()??;
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// The type and the name of the next event.
    pub(crate) async fn next_name(&mut self) -> Option<(String, String)> {
        let event = self.next().await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Some((text(&event["type"]), text(&event["object"]["metadata"]["name"])))
    }
}
