//! The objects of a Job: the Job itself, a headless Service by which its pods find the first one, and a ConfigMap with
//! the spec. Secrets are only named.

use proto::exit;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Where pods find the spec and the credentials.
const SPEC_FOLDER: &str = "/etc/muster/spec";
const CREDENTIALS_FOLDER: &str = "/etc/muster/credentials";
/// A folder for models from a store or a hub, and for compiled kernels.
const CACHE_FOLDER: &str = "/var/cache/muster";
const SPEC_FILE: &str = "spec.yaml";
/// The container that the exit codes of a run are read from.
const CONTAINER: &str = "muster";
const GRPC_PORT: u16 = 7070;
const WEB_PORT: u16 = 7071;
/// The user and the group of the process, as in the image.
const USER: u32 = 65_532;
/// The time between the end of the workers' grace and the moment when the container is killed.
const MARGIN: Duration = Duration::from_secs(15);

/// What to render.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) run: String,
    pub(super) attempt: u32,
    pub(super) namespace: Option<String>,
    pub(super) spec_yaml: String,
    pub(super) image: String,
    pub(super) pods: u32,
    pub(super) placement: Placement,
    pub(super) resources: Resources,
    pub(super) secrets: Secrets,
    /// Environment variables of the pods, such as those of a proxy.
    pub(super) environment: Vec<(String, String)>,
    pub(super) grace: Duration,
    /// The Kueue queue that admits the Job.
    pub(super) queue: Option<String>,
}

/// Where the pods may run.
#[derive(Clone, Debug, Default)]
pub(super) struct Placement {
    pub(super) node_selector: Vec<(String, String)>,
    /// Tolerations, each with key, value and effect; empty texts are left out.
    pub(super) tolerations: Vec<[String; 3]>,
    /// All pods run on nodes with the same value of this label.
    pub(super) colocate: Option<String>,
    pub(super) priority_class: Option<String>,
    pub(super) service_account: Option<String>,
}

/// What each pod gets.
#[derive(Clone, Debug, Default)]
pub(super) struct Resources {
    pub(super) cpu: Option<String>,
    pub(super) memory: Option<String>,
    pub(super) gpus: u32,
    pub(super) shared_memory: String,
    pub(super) scratch: String,
}

/// The names of Secrets in the same namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Secrets {
    /// Certificates of the Job; `None` to work without encryption.
    pub(super) credentials: Option<String>,
    /// Environment variables, such as the credentials of a store.
    pub(super) environment: Vec<String>,
    /// Credentials for the image's registry.
    pub(super) pull: Vec<String>,
}

/// The name of a Job, and of what belongs to it.
pub(super) fn job_name(run: &str, attempt: u32) -> String {
    format!("{run}-{attempt}")
}

/// The host name at which all pods of a Job reach the first one.
pub(super) fn first_host(job: &str) -> String {
    format!("{job}-0.{job}")
}

/// The name of the Secret with the certificates of a Job, unless the user names another one.
pub(super) fn credentials_name(job: &str) -> String {
    format!("{job}-credentials")
}

impl Job {
    /// The name of the Job and of what belongs to it.
    pub(super) fn name(&self) -> String {
        job_name(&self.run, self.attempt)
    }

    /// All objects, in the order in which they are applied.
    pub(super) fn objects(&self) -> [Value; 3] {
        [self.config_map(), self.service(), self.job()]
    }

    fn metadata(&self) -> Value {
        let mut metadata = json!({ "name": self.name(), "labels": self.labels() });
        if let Some(namespace) = &self.namespace {
            metadata["namespace"] = json!(namespace);
        }
        metadata
    }

    fn labels(&self) -> Value {
        json!({
            "app.kubernetes.io/name": "muster",
            "app.kubernetes.io/component": "job",
            "muster.dev/run": self.run,
            "muster.dev/attempt": self.attempt.to_string(),
        })
    }

    fn config_map(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": self.metadata(),
            "immutable": true,
            "data": { SPEC_FILE: self.spec_yaml },
        })
    }

    /// The pods must find each other before they are ready, and the first one is only ready once it has its run.
    fn service(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(),
            "spec": {
                "clusterIP": "None",
                "ipFamilyPolicy": "PreferDualStack",
                "publishNotReadyAddresses": true,
                "selector": { "batch.kubernetes.io/job-name": self.name() },
                "ports": [
                    { "name": "grpc", "port": GRPC_PORT, "targetPort": "grpc" },
                    { "name": "web", "port": WEB_PORT, "targetPort": "web" },
                ],
            },
        })
    }

    fn job(&self) -> Value {
        let failed =
            [exit::FAILED_USER, exit::FAILED_DATA, exit::FAILED_INFRASTRUCTURE, exit::CANCELLED];
        let mut job = json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": self.metadata(),
            "spec": {
                "completionMode": "Indexed",
                "completions": self.pods,
                "parallelism": self.pods,
                // The run itself counts attempts without progress. Kubernetes only replaces pods.
                "backoffLimit": i32::MAX,
                "podFailurePolicy": { "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": CONTAINER,
                            "operator": "In",
                            "values": failed,
                        },
                    },
                    {
                        "action": "Ignore",
                        "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }],
                    },
                ] },
                "template": {
                    "metadata": { "labels": self.labels() },
                    "spec": self.pod(),
                },
            },
        });
        if let Some(queue) = &self.queue {
            job["spec"]["suspend"] = json!(true);
            job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = json!(queue);
        }
        job
    }

    fn pod(&self) -> Value {
        let placement = &self.placement;
        let mut pod = json!({
            "restartPolicy": "Never",
            "subdomain": self.name(),
            "terminationGracePeriodSeconds": (self.grace + MARGIN).as_secs(),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "tolerations": self.tolerations(),
            "containers": [self.container()],
            "volumes": self.volumes(),
        });
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                pod[name] = value;
            }
        };
        let selector = object(&placement.node_selector);
        set("nodeSelector", (!placement.node_selector.is_empty()).then_some(selector));
        set("affinity", placement.colocate.as_ref().map(|key| self.affinity(key)));
        set("priorityClassName", placement.priority_class.as_ref().map(|name| json!(name)));
        set("serviceAccountName", placement.service_account.as_ref().map(|name| json!(name)));
        let pull: Vec<_> = self.secrets.pull.iter().map(|name| json!({ "name": name })).collect();
        set("imagePullSecrets", (!pull.is_empty()).then_some(Value::Array(pull)));
        pod
    }

    /// A lost node is given up after 30 seconds instead of Kubernetes' 300: the run has noticed long before.
    fn tolerations(&self) -> Vec<Value> {
        let lost = |taint: &str| {
            json!({
                "key": format!("node.kubernetes.io/{taint}"),
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 30,
            })
        };
        let mut tolerations = vec![lost("not-ready"), lost("unreachable")];
        if self.resources.gpus > 0 {
            tolerations.push(json!({ "key": "nvidia.com/gpu", "operator": "Exists" }));
        }
        for [key, value, effect] in &self.placement.tolerations {
            let mut toleration = json!({ "key": key, "operator": "Exists" });
            if !value.is_empty() {
                toleration = json!({ "key": key, "operator": "Equal", "value": value });
            }
            if !effect.is_empty() {
                toleration["effect"] = json!(effect);
            }
            tolerations.push(toleration);
        }
        tolerations
    }

    fn affinity(&self, topology_key: &str) -> Value {
        json!({ "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{
            "labelSelector": { "matchLabels": { "batch.kubernetes.io/job-name": self.name() } },
            "topologyKey": topology_key,
        }] } })
    }

    fn container(&self) -> Value {
        let web = |path: &str| {
            let scheme = if self.secrets.credentials.is_some() { "HTTPS" } else { "HTTP" };
            json!({ "path": path, "port": "web", "scheme": scheme })
        };
        let mut arguments = vec![
            "kubernetes".to_owned(),
            "pod".to_owned(),
            format!("{SPEC_FOLDER}/{SPEC_FILE}"),
            format!("--listen=[::]:{GRPC_PORT}"),
            format!("--web=[::]:{WEB_PORT}"),
        ];
        if self.secrets.credentials.is_none() {
            arguments.push("--insecure".to_owned());
        }
        let from = |name: &String| json!({ "secretRef": { "name": name } });
        json!({
            "name": CONTAINER,
            "image": self.image,
            "command": ["coordinator"],
            "args": arguments,
            "env": self.variables(),
            "envFrom": self.secrets.environment.iter().map(from).collect::<Vec<_>>(),
            "ports": [
                { "name": "grpc", "containerPort": GRPC_PORT },
                { "name": "web", "containerPort": WEB_PORT },
            ],
            "resources": self.resources(),
            "startupProbe": { "httpGet": web("/healthz"), "periodSeconds": 2, "failureThreshold": 60 },
            "livenessProbe": {
                "httpGet": web("/healthz"), "periodSeconds": 10, "timeoutSeconds": 8, "failureThreshold": 6,
            },
            "readinessProbe": { "httpGet": web("/readyz"), "periodSeconds": 5, "timeoutSeconds": 6 },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            },
            "volumeMounts": self.mounts(),
        })
    }

    fn variables(&self) -> Vec<Value> {
        let first = first_host(&self.name());
        let scheme = if self.secrets.credentials.is_some() { "https" } else { "http" };
        let field = |name: &str, path: &str| {
            let reference = json!({ "fieldRef": { "fieldPath": path } });
            json!({ "name": name, "valueFrom": reference })
        };
        let value = |name: &str, value: &str| json!({ "name": name, "value": value });
        let devices = if self.resources.gpus > 0 { "cuda:all" } else { "cpu" };
        let mut environment = vec![
            field("POD_NAME", "metadata.name"),
            field("POD_IP", "status.podIP"),
            value("MUSTER_RUN", &self.run),
            value("MUSTER_COORDINATOR", &format!("{scheme}://{first}:{GRPC_PORT}")),
            value("MUSTER_DEVICES", devices),
            value("MUSTER_GRACE", &format!("{}s", self.grace.as_secs())),
            value("MUSTER_CACHE", CACHE_FOLDER),
            value("MUSTER_LOG_FORMAT", "json"),
        ];
        if self.secrets.credentials.is_some() {
            environment.push(value("MUSTER_CREDENTIALS", CREDENTIALS_FOLDER));
        }
        environment.extend(self.environment.iter().map(|(name, text)| value(name, text)));
        environment
    }

    fn resources(&self) -> Value {
        let mut each = Map::new();
        let Resources { cpu, memory, gpus, .. } = &self.resources;
        each.extend(cpu.iter().map(|cpu| ("cpu".to_owned(), json!(cpu))));
        each.extend(memory.iter().map(|memory| ("memory".to_owned(), json!(memory))));
        if *gpus > 0 {
            each.insert("nvidia.com/gpu".to_owned(), json!(gpus.to_string()));
        }
        json!({ "requests": each, "limits": each })
    }

    fn volumes(&self) -> Vec<Value> {
        let Resources { shared_memory, scratch, .. } = &self.resources;
        let scratch = |name: &str| json!({ "name": name, "emptyDir": { "sizeLimit": scratch } });
        let memory = json!({ "medium": "Memory", "sizeLimit": shared_memory });
        let mut volumes = vec![
            json!({ "name": "spec", "configMap": { "name": self.name() } }),
            json!({ "name": "shared-memory", "emptyDir": memory }),
            scratch("cache"),
            scratch("tmp"),
        ];
        if let Some(name) = &self.secrets.credentials {
            let secret = json!({ "secretName": name, "defaultMode": 0o440 });
            volumes.push(json!({ "name": "credentials", "secret": secret }));
        }
        volumes
    }

    fn mounts(&self) -> Vec<Value> {
        let mount = |name: &str, path: &str| json!({ "name": name, "mountPath": path });
        let fixed =
            |name: &str, path: &str| json!({ "name": name, "mountPath": path, "readOnly": true });
        let mut mounts = vec![
            fixed("spec", SPEC_FOLDER),
            mount("shared-memory", "/dev/shm"),
            mount("cache", CACHE_FOLDER),
            mount("tmp", "/tmp"),
        ];
        if self.secrets.credentials.is_some() {
            mounts.push(fixed("credentials", CREDENTIALS_FOLDER));
        }
        mounts
    }
}

fn object(pairs: &[(String, String)]) -> Value {
    pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>().into()
}
