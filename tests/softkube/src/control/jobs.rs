//! Runs the Job controller's decisions on the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::clock::Time;
use crate::control::due::sooner;
use crate::delete::DeleteOptions;
use crate::error::ApiError;
use crate::job::backoff::Backoff;
use crate::job::effects::Effects;
use crate::job::model::{Job, Pod};
use crate::job::status::Status;
use crate::job::sync::{self, Input};
use crate::json::Json;
use crate::kinds;
use crate::pods;
use crate::registry::{Note, Registry, Target, Write};
use crate::selector::Labels;

const COMPONENT: &str = "job-controller";
const MANAGER: &str = "kube-controller-manager";
/// The value of `managedBy` that means this controller.
const CONTROLLER_NAME: &str = "kubernetes.io/job-controller";
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// A Job's namespace and name.
type Name = (String, String);

/// The Job controller.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    seen: u64,
    due: BTreeMap<Name, Time>,
    retries: BTreeMap<Name, u32>,
    /// By uid, so that a Job of the same name starts afresh.
    backoffs: BTreeMap<String, Backoff>,
}

impl Jobs {
    pub(crate) fn run(&mut self, registry: &mut Registry) -> Option<Time> {
        let now = registry.now();
        let revision = registry.store.revision();
        let mut names = changed(registry, self.seen);
        self.seen = revision;
        names.extend(self.due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()));
        for name in names {
            self.due.remove(&name);
            self.sync(registry, &name);
        }
        self.due.values().min().copied()
    }

    fn sync(&mut self, registry: &mut Registry, name: &Name) {
        let now = registry.now();
        let target = Target::new("jobs", &name.0, &name.1);
        let Ok(object) = registry.get(target) else {
            self.retries.remove(name);
            release_abandoned(registry, &name.0);
            return;
        };
        let other = object.text("spec.managedBy").is_some_and(|manager| manager != CONTROLLER_NAME);
        let job = Job::read(&object);
        if other || job.status.is_finished() {
            self.backoffs.remove(&job.uid);
            return;
        }
        let pods = claim(registry, &object);
        let backoff = self.backoffs.get(&job.uid).copied().unwrap_or_default();
        let input = Input { now, backoff, expectations_met: true };
        let mut effects = OnCluster { registry, job: object };
        let outcome = sync::sync(&job, &pods, input, &mut effects);
        self.backoffs.insert(job.uid, outcome.backoff);
        let again = outcome.again_after.map(|delay| now.after(delay));
        let retry = if outcome.result.is_err() {
            let failures = self.retries.entry(name.clone()).or_default();
            *failures += 1;
            let doublings = (*failures - 1).min(6);
            Some(now.after((RETRY_MIN * (1 << doublings)).min(RETRY_MAX)))
        } else {
            self.retries.remove(name);
            None
        };
        if let Some(at) = sooner(again, retry) {
            self.due.insert(name.clone(), at);
        }
    }
}

/// The Jobs that changed, or whose pods did.
fn changed(registry: &Registry, seen: u64) -> BTreeSet<Name> {
    let mut names = BTreeSet::new();
    let Ok(changes) = registry.store.changes_after(seen) else {
        let all = registry.store.list("jobs", "");
        return all.map(|(key, _)| (key.namespace.clone(), key.name.clone())).collect();
    };
    for event in changes {
        match event.key.resource.as_str() {
            "jobs" => drop(names.insert((event.key.namespace.clone(), event.key.name.clone()))),
            "pods" => {
                for pod in [Some(&event.object), event.previous.as_ref()].into_iter().flatten() {
                    let owner = pods::controller(pod).filter(|owner| owner.str("kind") == "Job");
                    names.extend(
                        owner.map(|owner| {
                            (event.key.namespace.clone(), owner.str("name").to_owned())
                        }),
                    );
                }
            }
            _ => {}
        }
    }
    names
}

/// Takes the finalizer off pods whose Job is gone.
fn release_abandoned(registry: &mut Registry, namespace: &str) {
    for pod in registry.list("pods", namespace) {
        if !pods::has_finalizer(&pod, pods::TRACKING_FINALIZER) {
            continue;
        }
        let owner = pods::controller(&pod);
        let exists = owner.is_some_and(|owner| {
            let job = registry.get(Target::new("jobs", namespace, owner.str("name")));
            job.is_ok_and(|job| job.at("metadata.uid") == owner.at("uid"))
        });
        if !exists {
            // The pod may have gone in the meantime, which is as good.
            let _ = release(registry, namespace, pod.str("metadata.name"));
        }
    }
}

fn release(registry: &mut Registry, namespace: &str, name: &str) -> Result<(), ApiError> {
    registry
        .modify(Target::new("pods", namespace, name), &Write::controller(MANAGER), |pod| {
            pod.list_mut("metadata.finalizers").retain(|one| one != pods::TRACKING_FINALIZER);
        })
        .map(drop)
}

/// The pods of a Job; pods that match its selector and have no controller are adopted.
fn claim(registry: &mut Registry, job: &Value) -> Vec<Pod> {
    let namespace = job.str("metadata.namespace");
    let selector = Labels::from_object(job.at("spec.selector"));
    let mut claimed = Vec::new();
    for pod in registry.list("pods", namespace) {
        let matches = selector.as_ref().is_some_and(|selector| selector.matches(&pod));
        match pods::controller(&pod) {
            Some(owner) if owner.at("uid") == job.at("metadata.uid") => {
                claimed.push(Pod::read(&pod))
            }
            None if matches && !pods::is_deleting(&pod) && !pods::is_deleting(job) => {
                if let Ok(adopted) = adopt(registry, &pod, job) {
                    claimed.push(Pod::read(&Arc::new(adopted)));
                }
            }
            Some(_) | None => {}
        }
    }
    claimed
}

fn adopt(registry: &mut Registry, pod: &Value, job: &Value) -> Result<Value, ApiError> {
    registry.modify(Target::of("pods", pod), &Write::controller(MANAGER), |pod| {
        pod.list_mut("metadata.ownerReferences").push(serde_json::json!({
            "apiVersion": "batch/v1", "kind": "Job", "name": job.at("metadata.name"), "uid": job.at("metadata.uid"),
            "controller": true, "blockOwnerDeletion": true,
        }));
        if !pods::has_finalizer(pod, pods::TRACKING_FINALIZER) {
            pod.list_mut("metadata.finalizers").push(pods::TRACKING_FINALIZER.into());
        }
    })
}

/// The effects on the cluster itself.
struct OnCluster<'a> {
    registry: &'a mut Registry,
    job: Arc<Value>,
}

impl OnCluster<'_> {
    fn namespace(&self) -> String {
        self.job.str("metadata.namespace").to_owned()
    }
}

impl Effects for OnCluster<'_> {
    fn create_pod(&mut self, pod: Value) -> Result<(), ApiError> {
        let write = Write::controller(MANAGER);
        let created = self.registry.create(kinds::known("pods"), &self.namespace(), pod, &write);
        match created {
            Ok(pod) => {
                self.event(
                    "Normal",
                    "SuccessfulCreate",
                    &format!("Created pod: {}", pod.str("metadata.name")),
                );
                Ok(())
            }
            Err(error) => {
                if !error.has_cause("NamespaceTerminating") {
                    self.event(
                        "Warning",
                        "FailedCreate",
                        &format!("Error creating: {}", error.message),
                    );
                }
                Err(error)
            }
        }
    }

    fn delete_pod(&mut self, name: &str) -> Result<(), ApiError> {
        let namespace = self.namespace();
        let target = Target::new("pods", &namespace, name);
        self.registry.delete(target, &DeleteOptions::background())?;
        self.event("Normal", "SuccessfulDelete", &format!("Deleted pod: {name}"));
        Ok(())
    }

    fn release_pod(&mut self, name: &str) -> Result<(), ApiError> {
        let namespace = self.namespace();
        release(self.registry, &namespace, name)
    }

    fn write_status(&mut self, status: &Status) -> Result<(), ApiError> {
        let namespace = self.namespace();
        let target = Target::new("jobs", &namespace, self.job.str("metadata.name"));
        self.registry
            .modify(target, &Write::status(MANAGER), |job| job.put("status", status.write()))
            .map(drop)
    }

    fn event(&mut self, kind: &str, reason: &str, message: &str) {
        self.registry.record(&self.job, Note { component: COMPONENT, kind, reason, message });
    }
}
