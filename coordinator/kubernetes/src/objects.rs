//! The objects of a submission, checked once, and the digest by which a submission is recognized.
//!
//! The digest is made from the objects rather than given by the caller: a launcher that was killed
//! has remembered nothing, but the same command renders the same objects, and so recognizes its
//! Job. Secrets are left out. Certificates are new with every rendering, and no annotation should
//! allow guesses about a password.

use crate::error::Error;
use crate::{INCOMPLETE, SUBMISSION};
use k8s_openapi::api::batch::v1::Job;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// A Job and what belongs to it, as rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    job: Value,
    dependents: Vec<Value>,
    name: String,
    digest: String,
}

impl Objects {
    /// Takes rendered objects: one Job, and the ConfigMap, the Service and the Secrets that belong
    /// to it.
    ///
    /// # Errors
    /// [`Error::Objects`] if there is not exactly one Job, or an object lacks its kind or a fixed
    /// name.
    pub fn new(objects: impl IntoIterator<Item = Value>) -> Result<Self, Error> {
        let mut jobs = Vec::new();
        let mut dependents = Vec::new();
        let mut seen = BTreeSet::new();
        for object in objects {
            let (kind, name) = identify(&object)?;
            if !seen.insert((kind.clone(), name.clone())) {
                return Err(wrong(format!("{kind} `{name}` occurs twice")));
            }
            if kind == "Job" {
                jobs.push((object, name));
            } else {
                dependents.push(object);
            }
        }
        let count = jobs.len();
        let (Some((job, name)), 1) = (jobs.pop(), count) else {
            return Err(wrong(format!("there must be one Job, got {count}")));
        };
        if !job["spec"].is_object() {
            return Err(wrong(format!("Job `{name}` has no spec")));
        }
        if serde_json::from_value::<Job>(job.clone()).is_err() {
            return Err(wrong(format!("Job `{name}` is not a valid batch/v1 Job")));
        }
        let digest = digest(&job, &dependents);
        Ok(Self { job, dependents, name, digest })
    }

    /// The name of the Job.
    pub fn job(&self) -> &str {
        &self.name
    }

    /// Whether the caller wants the Job to stay suspended, for example because a Kueue queue
    /// resumes it.
    pub(crate) fn stays_suspended(&self) -> bool {
        self.job["spec"]["suspend"] == json!(true)
    }

    /// The digest of the submission.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// The namespaces that objects name.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        let all = std::iter::once(&self.job).chain(&self.dependents);
        all.filter_map(|object| object["metadata"]["namespace"].as_str())
    }

    /// The Job as it is created: suspended and marked, so that no pod starts before everything else
    /// exists.
    pub(crate) fn suspended_job(&self) -> Value {
        let mut job = self.job.clone();
        job["spec"]["suspend"] = json!(true);
        let annotations = &mut job["metadata"]["annotations"];
        if !annotations.is_object() {
            *annotations = Value::Object(Map::new());
        }
        annotations[SUBMISSION] = json!(self.digest);
        annotations[INCOMPLETE] = json!("true");
        job
    }

    /// The other objects as they are created: owned by the Job with this uid, and deleted with it.
    ///
    /// They do not block the Job's deletion: on some clusters that takes a permission on the Job's
    /// finalizers. The Job is not their controller either, which would claim that its controller
    /// changes them.
    pub(crate) fn dependents(&self, uid: &str) -> impl Iterator<Item = Value> {
        let owner =
            json!({ "apiVersion": "batch/v1", "kind": "Job", "name": self.name, "uid": uid });
        self.dependents.iter().map(move |object| {
            let mut object = object.clone();
            object["metadata"]["ownerReferences"] = json!([owner]);
            object
        })
    }
}

fn wrong(reason: String) -> Error {
    Error::Objects { reason }
}

fn identify(object: &Value) -> Result<(String, String), Error> {
    let kind = object["kind"].as_str().filter(|_| object["apiVersion"].is_string());
    let kind = kind.ok_or_else(|| wrong("an object has no `apiVersion` or `kind`".to_owned()))?;
    let name = object["metadata"]["name"].as_str().filter(|name| !name.is_empty());
    // A generated name would be another one each time, and guard against nothing.
    let name = name.ok_or_else(|| wrong(format!("an object of kind {kind} has no name")))?;
    Ok((kind.to_owned(), name.to_owned()))
}

/// The digest of the Job and of its dependents, whatever the order of objects and of fields.
fn digest(job: &Value, dependents: &[Value]) -> String {
    let public = dependents.iter().filter(|object| object["kind"] != "Secret");
    let mut texts: Vec<String> =
        std::iter::once(job).chain(public).map(|object| canonical(object).to_string()).collect();
    texts.sort();
    let hash = Sha256::digest(texts.join("\n").as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same value with sorted fields, and without the namespace, which is the same wherever it
/// comes from.
fn canonical(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("namespace");
    }
    sorted(&object)
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            fields.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> Value {
        json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
            "spec": { "completions": 2, "parallelism": 2, "template": { "spec": {} } } })
    }

    fn other(kind: &str, data: &str) -> Value {
        let metadata = json!({ "name": "a-1" });
        json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, "data": { "k": data } })
    }

    fn reason(objects: Vec<Value>) -> String {
        Objects::new(objects).unwrap_err().to_string()
    }

    #[test]
    fn the_digest_covers_all_but_order_namespace_and_secrets() {
        let digest = |objects: Vec<Value>| Objects::new(objects).unwrap().digest;
        let base = digest(vec![other("ConfigMap", "x"), job("a-1")]);
        let mut placed = job("a-1");
        placed["metadata"] = json!({ "namespace": "ml", "name": "a-1" });
        assert_eq!(base, digest(vec![placed, other("ConfigMap", "x"), other("Secret", "s")]));
        assert_ne!(base, digest(vec![job("a-1"), other("ConfigMap", "y")]));
        assert_ne!(base, digest(vec![job("a-1")]));
        let mut larger = job("a-1");
        larger["spec"]["parallelism"] = json!(3);
        assert_ne!(base, digest(vec![larger, other("ConfigMap", "x")]));
    }

    #[test]
    fn what_cannot_guard_against_duplicates_is_refused() {
        let mut unnamed = job("");
        unnamed["metadata"] = json!({ "generateName": "a-" });
        assert!(reason(vec![unnamed]).contains("kind Job has no name"));
        assert!(reason(vec![other("Service", "x")]).contains("one Job, got 0"));
        assert!(reason(vec![job("a-1"), job("a-2")]).contains("one Job, got 2"));
        let twice = vec![job("a-1"), other("Secret", "x"), other("Secret", "y")];
        assert!(reason(twice).contains("Secret `a-1` occurs twice"));
        assert!(reason(vec![json!(7)]).contains("`apiVersion` or `kind`"));
        let mut broken = job("a-1");
        broken["spec"]["parallelism"] = json!("many");
        assert!(reason(vec![broken]).contains("not a valid"));
    }
}
