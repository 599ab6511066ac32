//! A namespace of a cluster, and how to reach it.

use crate::answer;
use crate::call::{Call, Outcome};
use crate::describe::{self, Known, Node, Overview};
use crate::error::Error;
use crate::patience::Patience;
use crate::proxy;
use crate::{OURS, RUN};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node as ApiNode, Pod};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, NamespaceResourceScope, Resource};
use kube::{Api, Client, Config};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tower::util::MapResponseLayer;

/// How long connecting to the API server may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A clock that tells the current time.
type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// A namespace of a cluster.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) client: Client,
    pub(crate) patience: Patience,
    namespace: String,
    now: Now,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Reaches the cluster of the kubeconfig (`$KUBECONFIG` or `~/.kube/config`), or the one that
    /// this pod runs in.
    ///
    /// `context` overrides the current one, and `namespace` that of the context. No request is made
    /// yet.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is no configuration, or it cannot be used.
    pub async fn connect(context: Option<&str>, namespace: Option<&str>) -> Result<Self, Error> {
        let config = match context {
            Some(_) => Config::from_kubeconfig(&options(context))
                .await
                .map_err(|error| unusable(&error))?,
            None => Config::infer().await.map_err(|error| unusable(&error))?,
        };
        Self::configured(config, namespace)
    }

    /// Reaches the cluster of a kubeconfig that is given as YAML.
    ///
    /// # Errors
    /// As [`Cluster::connect`].
    pub async fn from_kubeconfig(
        yaml: &str,
        context: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<Self, Error> {
        let kubeconfig = Kubeconfig::from_yaml(yaml).map_err(|error| unusable(&error))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &options(context)).await;
        Self::configured(config.map_err(|error| unusable(&error))?, namespace)
    }

    fn configured(mut config: Config, namespace: Option<&str>) -> Result<Self, Error> {
        // `kube` would repeat requests for hours, and out of sight of the bounds in `Patience`.
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT);
        proxy::heed_exceptions(&mut config);
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
        let builder = ClientBuilder::try_from(config).map_err(|error| unusable(&error))?;
        let client = builder.with_layer(&MapResponseLayer::new(answer::with_status)).build();
        let now: Now = Arc::new(SystemTime::now);
        Ok(Self { client, patience: Patience::default(), namespace, now })
    }

    /// The same cluster with other bounds of waiting.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// The same cluster, judged by another clock: a test's, or that of a server whose time differs.
    #[must_use]
    pub fn with_clock(self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(now), ..self }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// All Jobs of Muster, oldest first.
    ///
    /// # Errors
    /// As for any request.
    pub async fn jobs(&self) -> Result<Vec<Overview>, Error> {
        self.overviews(OURS).await
    }

    /// The Jobs of one run, oldest first; each is an attempt.
    ///
    /// # Errors
    /// As for any request.
    pub async fn job(&self, run: &str) -> Result<Vec<Overview>, Error> {
        self.overviews(&format!("{OURS},{RUN}={run}")).await
    }

    /// Deletes a Job, its pods and what belongs to it. `false` if there is none of that name.
    ///
    /// The pods get their grace. The Job is gone once they are.
    ///
    /// # Errors
    /// As for any request.
    pub async fn delete(&self, job: &str) -> Result<bool, Error> {
        let jobs = self.api::<Job>();
        let parameters = DeleteParams::foreground();
        let call = self.call::<Job>("delete", Some(job));
        // The answer to the deletion may be lost, and the next one be that there is no such Job.
        if self.read_job(job).await?.is_none() {
            return Ok(false);
        }
        match call.make(&self.patience, || jobs.delete(job, &parameters)).await? {
            Outcome::Done(_) | Outcome::Missing(_) => Ok(true),
            Outcome::Exists | Outcome::Conflict => Err(call.refused("something else changes it")),
        }
    }

    async fn overviews(&self, labels: &str) -> Result<Vec<Overview>, Error> {
        let mut jobs: Vec<Job> = self.list(&ListParams::default().labels(labels)).await?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let pods: Vec<Pod> = self.list(&ListParams::default().labels(labels)).await?;
        let events = self.warnings().await;
        let nodes = self.nodes(describe::suspects(pods.iter(), self.now())).await;
        jobs.sort_by_key(|job| job.metadata.creation_timestamp.clone());
        let now = self.now();
        let overviews = jobs.iter().map(|job| {
            let known = Known {
                job,
                pods: pods.iter().filter(|pod| describe::belongs(job, pod)).collect(),
                events: events.iter().collect(),
                nodes: &nodes,
                now,
            };
            describe::overview(&known)
        });
        Ok(overviews.collect())
    }

    async fn list<K>(&self, parameters: &ListParams) -> Result<Vec<K>, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + DeserializeOwned
            + Clone
            + fmt::Debug,
    {
        let objects = self.api::<K>();
        let call = self.call::<K>("list", None);
        Ok(call.expect(&self.patience, || objects.list(parameters)).await?.items)
    }

    /// The namespace's warnings; none if the user may not read them.
    async fn warnings(&self) -> Vec<Event> {
        self.list(&warnings_only()).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "the events cannot be read");
            Vec::new()
        })
    }

    /// How these nodes are, as far as the user may know it.
    pub(crate) async fn nodes(&self, names: BTreeSet<String>) -> BTreeMap<String, Node> {
        let nodes: Api<ApiNode> = Api::all(self.client.clone());
        let mut found = BTreeMap::new();
        let once = Patience { repetition: Duration::ZERO, ..self.patience };
        for name in names {
            let call = Call {
                verb: "get",
                resource: "nodes".to_owned(),
                namespace: None,
                name: Some(name.clone()),
            };
            let node = match call.make(&once, || nodes.get(&name)).await {
                Ok(Outcome::Done(node)) => Node::of(&node),
                Ok(Outcome::Missing(_)) => Node::Gone,
                // Without the permission for one node there is none for the others.
                Ok(Outcome::Exists | Outcome::Conflict) | Err(_) => return found,
            };
            found.insert(name, node);
        }
        found
    }

    /// The current time.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::try_from((self.now)()).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The objects of the kind that a rendered object has.
    pub(crate) fn dynamic(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, resource)
    }

    pub(crate) fn call<K: Resource<DynamicType = ()>>(
        &self,
        verb: &'static str,
        name: Option<&str>,
    ) -> Call {
        self.call_on(verb, &ApiResource::erase::<K>(&()), name)
    }

    pub(crate) fn call_on(
        &self,
        verb: &'static str,
        resource: &ApiResource,
        name: Option<&str>,
    ) -> Call {
        let group = if resource.group.is_empty() { "" } else { "." };
        Call {
            verb,
            resource: format!("{}{group}{}", resource.plural, resource.group),
            namespace: Some(self.namespace.clone()),
            name: name.map(str::to_owned),
        }
    }
}

/// Selects the events that tell of trouble.
pub(crate) fn warnings_only() -> ListParams {
    ListParams::default().fields("type=Warning")
}

/// The kind of a rendered object.
pub(crate) fn resource_of(object: &Value) -> ApiResource {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion").rsplit_once('/').unwrap_or(("", text("apiVersion")));
    ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, text("kind")))
}

fn options(context: Option<&str>) -> KubeConfigOptions {
    KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() }
}

/// The texts of `kube`'s errors contain those of their sources.
fn unusable(error: &dyn std::error::Error) -> Error {
    Error::Configuration { source: error.to_string().into() }
}
