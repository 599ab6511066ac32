//! Pods as the Job controller creates them.

use serde_json::{Value, json};

use crate::job::model::{
    FAILURE_COUNT_ANNOTATION, IGNORED_COUNT_ANNOTATION, INDEX_ANNOTATION, Job,
};
use crate::json::Json;
use crate::pods;

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// The longest prefix of a generated name (63 bytes less the random suffix).
const GENERATED_PREFIX_BYTES: usize = 58;

/// The index of a new pod and the failure counts that it takes over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) index: u32,
    /// Counted and ignored failures, when the Job limits failures for each index.
    pub(crate) failures: Option<(u32, u32)>,
}

/// The pod to create for a Job, at an index of an Indexed Job.
pub(crate) fn pod(job: &Job, place: Option<Place>) -> Value {
    let mut pod = json!({"metadata": {}, "spec": job.template.at("spec")});
    for field in ["metadata.labels", "metadata.annotations", "metadata.finalizers"] {
        if job.template.has(field) {
            pod.put(field, job.template.at(field).clone());
        }
    }
    if !pods::has_finalizer(&pod, pods::TRACKING_FINALIZER) {
        pod.list_mut("metadata.finalizers").push(pods::TRACKING_FINALIZER.into());
    }
    pod.put("metadata.ownerReferences", json!([{
        "apiVersion": "batch/v1", "kind": "Job", "name": job.name, "uid": job.uid, "controller": true,
        "blockOwnerDeletion": true,
    }]));
    pod.put("metadata.generateName", format!("{}-", job.name));
    if let Some(place) = place {
        put_index(&mut pod, job, place);
    }
    pod
}

fn put_index(pod: &mut Value, job: &Job, place: Place) {
    let index = place.index.to_string();
    pod.put_entry("metadata.annotations", INDEX_ANNOTATION, index.as_str());
    pod.put_entry("metadata.labels", INDEX_ANNOTATION, index.as_str());
    if let Some((counted, ignored)) = place.failures {
        pod.put_entry("metadata.annotations", FAILURE_COUNT_ANNOTATION, counted.to_string());
        if ignored > 0 {
            pod.put_entry("metadata.annotations", IGNORED_COUNT_ANNOTATION, ignored.to_string());
        }
    }
    pod.put("spec.hostname", format!("{}-{index}", job.name));
    let appendix = format!("-{index}-");
    let kept = job.name.len().min(GENERATED_PREFIX_BYTES.saturating_sub(appendix.len()));
    pod.put(
        "metadata.generateName",
        format!("{}{appendix}", job.name.get(..kept).unwrap_or(&job.name)),
    );
    for list in ["spec.initContainers", "spec.containers"] {
        if pod.has(list) {
            pod.list_mut(list).iter_mut().for_each(put_index_variable);
        }
    }
}

fn put_index_variable(container: &mut Value) {
    let set = container.list("env").iter().any(|variable| variable.str("name") == INDEX_VARIABLE);
    if !set {
        let path = format!("metadata.labels['{INDEX_ANNOTATION}']");
        container.list_mut("env").push(json!({
            "name": INDEX_VARIABLE, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}},
        }));
    }
}
