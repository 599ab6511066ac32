//! A running cluster and what a test may do with it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::auth::{API_AUDIENCE, Auth, Rule, TokenSpec, User};
use crate::clock::Clock;
use crate::control::{self, Controllers};
use crate::delete::DeleteOptions;
use crate::error::ApiError;
use crate::faults::{FaultRule, Faults, RequestRecord};
use crate::http::server::{Server, Tls};
use crate::json::Json;
use crate::kinds::{self, Kind};
use crate::kubelet::agent::Kubelet as _;
use crate::kubelet::logs::Logs;
use crate::kubelet::manual::Manual;
use crate::kubelet::processes::{self, Processes};
use crate::kubelet::start::ContainerStart;
use crate::moves::Kubelet;
use crate::options::{NodeSpec, Options};
use crate::registry::{Registry, Target, Write};
use crate::signals::Signals;
use crate::state::{Form, Interruption, Shared, State};
use crate::store::Created;
use crate::view::View;

/// How long [`Cluster::wait`] waits, in real time.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
const ADMIN_TOKEN: &str = "softkube-admin";
const MANAGER: &str = "softkube";
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// A condition that a test waited for did not come true in time.
#[derive(Debug)]
pub struct WaitTimeout {
    /// What was waited for.
    pub what: String,
    /// The pods, Jobs and events at the end of the wait, for the report of a failed test.
    pub state: String,
}

impl std::fmt::Display for WaitTimeout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} did not happen in time; the cluster then:\n{}", self.what, self.state)
    }
}

impl std::error::Error for WaitTimeout {}

/// A cluster in this process. Dropping it stops everything.
pub struct Cluster {
    pub(crate) shared: Arc<Shared>,
    server: Option<Server>,
    address: SocketAddr,
    tls: Option<Tls>,
    driver: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Cluster {
    /// Starts a cluster whose pods the test moves by hand, through [`Cluster::kubelet`].
    ///
    /// # Errors
    /// The address is taken, or the certificate cannot be used.
    pub async fn start(options: Options) -> io::Result<Self> {
        Self::start_with(options, |_, _| Form::Manual(Manual::default()))
    }

    /// Starts a cluster whose containers run as local processes, which the hook describes.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_processes(
        options: Options,
        hook: impl Fn(&ContainerStart) -> tokio::process::Command + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let root = processes::root(options.seed);
        Self::start_with(options, |signals, server| {
            Form::Processes(Box::new(Processes::new(Arc::new(hook), signals, server, root)))
        })
    }

    /// Starts a cluster with a form of the kubelet that may use the address of the API server.
    fn start_with(
        options: Options,
        form: impl FnOnce(&Arc<Signals>, SocketAddr) -> Form,
    ) -> io::Result<Self> {
        let clock = Clock::new(options.clock);
        let mut registry = Registry::new(clock.clone(), options.seed, options.pod_network);
        if let Some(tls) = &options.tls {
            registry.set_certificate(tls.authority_pem.clone());
        }
        let mut users = options.users;
        users.push(User::admin("kubernetes-admin", ADMIN_TOKEN));
        let state = State {
            registry,
            controllers: Controllers::default(),
            auth: Auth::new(users, options.rules),
            faults: Faults::default(),
            requests: Vec::new(),
            logs: Logs::default(),
            form: Form::Manual(Manual::default()),
            silent: std::collections::BTreeSet::new(),
            interruptions: std::collections::BTreeMap::new(),
        };
        let shared = Arc::new(Shared::new(state, clock));
        let server = Server::start(shared.clone(), options.address, options.tls.as_ref())?;
        let address = server.address;
        let form = form(&shared.signals, address);
        shared.write(|state| {
            state.form = form;
            for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
                let namespace = json!({"metadata": {"name": name}});
                let write = Write::controller(MANAGER);
                let created =
                    state.registry.create(kinds::known("namespaces"), "", namespace, &write);
                debug_assert!(created.is_ok(), "{created:?}");
            }
            for node in &options.nodes {
                add_node(state, node);
            }
        });
        let driver = tokio::spawn({
            let shared = shared.clone();
            async move { shared.drive().await }
        });
        Ok(Self { shared, server: Some(server), address, tls: options.tls, driver })
    }

    /// The URL of the API server.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The bearer token of the administrator.
    pub fn admin_token(&self) -> &'static str {
        ADMIN_TOKEN
    }

    /// A kubeconfig for the administrator, in YAML.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_for("kubernetes-admin", ADMIN_TOKEN)
    }

    /// A kubeconfig for a user with a token, in YAML.
    pub fn kubeconfig_for(&self, user: &str, token: &str) -> String {
        let authority = self.tls.as_ref().map_or_else(String::new, |tls| {
            let encoded = crate::base64::encode(tls.authority_pem.as_bytes());
            format!("\n    certificate-authority-data: {encoded}")
        });
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: softkube\nclusters:\n- name: softkube\n  cluster:\n    \
             server: {}{authority}\nusers:\n- name: {user}\n  user:\n    token: {token}\ncontexts:\n- name: \
             softkube\n  context:\n    cluster: softkube\n    user: {user}\n    namespace: default\n",
            self.url()
        )
    }

    /// The clock of the cluster.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Moves cluster time forward and lets the controllers act on it.
    pub fn advance(&self, duration: Duration) {
        self.shared.clock.advance(duration);
        self.shared.settle();
    }

    /// Runs controllers and kubelets until nothing changes; they also run by themselves after every change.
    pub fn settle(&self) {
        self.shared.settle();
    }

    /// Looks at the cluster's state.
    pub fn view<R>(&self, look: impl FnOnce(View<'_>) -> R) -> R {
        self.shared.read(|state| look(View::new(state)))
    }

    /// Waits until `look` finds something, for at most 30 s.
    ///
    /// # Errors
    /// The time is over; the error names `what` and shows the state.
    pub async fn wait<R>(
        &self,
        what: &str,
        look: impl FnMut(View<'_>) -> Option<R>,
    ) -> Result<R, WaitTimeout> {
        self.wait_within(WAIT_LIMIT, what, look).await
    }

    /// Waits until `look` finds something, for at most `limit` of real time.
    ///
    /// # Errors
    /// As [`Cluster::wait`].
    pub async fn wait_within<R>(
        &self,
        limit: Duration,
        what: &str,
        mut look: impl FnMut(View<'_>) -> Option<R>,
    ) -> Result<R, WaitTimeout> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut changes = self.shared.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(found) = self.view(&mut look) {
                return Ok(found);
            }
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                return Err(WaitTimeout {
                    what: what.to_owned(),
                    state: self.view(|view| view.summary()),
                });
            }
        }
    }

    /// Creates an object as the administrator, without HTTP.
    ///
    /// # Errors
    /// What the API server would answer.
    pub fn create(
        &self,
        resource: &str,
        namespace: &str,
        object: Value,
    ) -> Result<Value, ApiError> {
        let kind = served(resource)?;
        self.shared.write(|state| {
            state.registry.create(kind, namespace, object, &Write::controller(MANAGER))
        })
    }

    /// Changes an object, or its status for a resource such as `jobs/status`, as the administrator.
    ///
    /// # Errors
    /// What the API server would answer.
    pub fn modify(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, ApiError> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let target = Target { kind: served(resource)?, namespace, name };
        let write = Write { subresource, ..Write::controller(MANAGER) };
        self.shared.write(|state| state.registry.modify(target, &write, change))
    }

    /// Deletes an object in the background, as the administrator.
    ///
    /// # Errors
    /// 404.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> Result<(), ApiError> {
        let target = Target { kind: served(resource)?, namespace, name };
        self.shared
            .write(|state| state.registry.delete(target, &DeleteOptions::background()))
            .map(drop)
    }

    /// The handle by which the test moves pods.
    pub fn kubelet(&self) -> Kubelet<'_> {
        Kubelet::new(&self.shared)
    }

    /// Adds a node, which is ready at once.
    pub fn add_node(&self, node: &NodeSpec) {
        self.shared.write(|state| add_node(state, node));
    }

    /// Removes a node; the pod garbage collector removes its pods.
    ///
    /// # Errors
    /// 404.
    pub fn remove_node(&self, name: &str) -> Result<(), ApiError> {
        self.delete("nodes", "", name)
    }

    /// Silences a node's kubelet: the node becomes unreachable after 50 s of cluster time.
    pub fn lose_node(&self, name: &str) {
        self.set_silent(name, true);
    }

    /// Silences a node's kubelet and ends everything that runs on the node, as a loss of power does.
    pub fn crash_node(&self, name: &str) {
        self.lose_node(name);
        self.shared.write(|state| match &mut state.form {
            Form::Manual(manual) => manual.kill_node(name),
            Form::Processes(processes) => processes.kill_node(name),
        });
    }

    /// Lets a silent kubelet speak again: the node is ready, and deletions of its pods go through.
    pub fn return_node(&self, name: &str) {
        self.set_silent(name, false);
    }

    fn set_silent(&self, name: &str, silent: bool) {
        self.shared.write(|state| {
            let now = state.registry.now();
            state.controllers.set_node_silent(name, silent, now);
            if silent {
                state.silent.insert(name.to_owned());
            } else {
                state.silent.remove(name);
            }
        });
    }

    /// Removes a pod as the scheduler does in favour of another with a higher priority.
    ///
    /// # Errors
    /// 404.
    pub fn preempt(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        let target = Target::new("pods", namespace, name);
        self.shared.write(|state| {
            let message = "default-scheduler: preempting to accommodate a higher priority pod";
            state.registry.disrupt(target, "kube-scheduler", "PreemptionByScheduler", message)?;
            state.registry.delete(target, &DeleteOptions::default()).map(drop)
        })
    }

    /// Adds a permission.
    pub fn allow(&self, rule: Rule) {
        self.shared.write(|state| state.auth.add_rule(rule));
    }

    /// Issues a token for a service account that is bound to no pod.
    ///
    /// # Errors
    /// 404.
    pub fn service_account_token(&self, namespace: &str, name: &str) -> Result<String, ApiError> {
        self.shared.write(|state| {
            let account = state.registry.get(Target::new("serviceaccounts", namespace, name))?;
            let spec = TokenSpec {
                namespace,
                account: name,
                account_uid: account.str("metadata.uid"),
                pod: None,
                audiences: vec![API_AUDIENCE.to_owned()],
                lifetime: TOKEN_LIFETIME,
            };
            Ok(state.auth.issue(&mut state.registry, &spec).0)
        })
    }

    /// Injects a fault.
    pub fn fault(&self, rule: FaultRule) {
        self.shared.write(|state| state.faults.add(rule));
    }

    /// Withdraws all faults that have not happened yet.
    pub fn clear_faults(&self) {
        self.shared.write(|state| state.faults.clear());
    }

    /// Ends, stalls or breaks all open watches of a resource.
    pub fn interrupt_watches(&self, resource: &str, how: Interruption) {
        self.shared.write(|state| {
            let entry = state.interruptions.entry(resource.to_owned()).or_insert((0, how));
            *entry = (entry.0 + 1, how);
        });
    }

    /// Compacts the history up to the current revision, so that older revisions are `Expired`.
    pub fn compact(&self) {
        self.shared.settle();
        self.shared.write(|state| {
            let revision = state.registry.store.revision();
            state.registry.store.compact(revision);
        });
    }

    /// The requests that the server received, oldest first.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.shared.read(|state| state.requests.clone())
    }

    /// Every object ever created, oldest first, whether it still exists or not.
    pub fn ledger(&self) -> Vec<Created> {
        self.shared.read(|state| state.registry.store.ledger().to_vec())
    }

    /// Closes the port and all connections. Controllers and kubelets go on.
    pub async fn stop_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    /// Serves again, on the same port and with the same state.
    ///
    /// # Errors
    /// The port was taken in the meantime.
    pub async fn restart_server(&mut self) -> io::Result<()> {
        self.stop_server().await;
        self.server = Some(Server::start(self.shared.clone(), self.address, self.tls.as_ref())?);
        Ok(())
    }
}

fn served(resource: &str) -> Result<&'static Kind, ApiError> {
    kinds::by_resource(resource).ok_or_else(ApiError::no_such_path)
}

fn add_node(state: &mut State, spec: &NodeSpec) {
    let amounts =
        spec.capacity.iter().map(|(name, amount)| (name.clone(), Value::from(amount.as_str())));
    let capacity = Value::Object(amounts.collect());
    let mut node = control::new_node(&spec.name, &capacity, "127.0.0.1");
    for (key, value) in &spec.labels {
        node.put_entry("metadata.labels", key, value.as_str());
    }
    if !spec.taints.is_empty() {
        node.put("spec.taints", spec.taints.clone());
    }
    // A node of this name may exist; then it is that one which becomes ready.
    let _ = state.registry.create(kinds::known("nodes"), "", node, &Write::controller("kubelet"));
    control::set_ready(&mut state.registry, &spec.name);
}
