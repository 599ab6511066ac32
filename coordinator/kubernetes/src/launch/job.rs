//! The Job of a launch: created, recognized, resumed or removed.

use crate::call::Outcome;
use crate::cluster::{Cluster, resource_of};
use crate::describe::{self, Known};
use crate::error::Error;
use crate::objects::Objects;
use crate::{INCOMPLETE, SUBMISSION};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::time::{Instant, sleep};

/// Who changes fields, as the API server records it.
const MANAGER: &str = "muster";
/// How often a Job may change between reading and changing it.
const COLLISIONS: u32 = 20;

/// The Job of this launch.
pub(super) struct Ours {
    pub(super) name: String,
    pub(super) uid: String,
    /// Whether another launcher created it, or may have.
    pub(super) existed: bool,
    /// Whether steps of the launch are left.
    pub(super) incomplete: bool,
}

/// What becomes of the Job of a launch that failed.
pub(super) enum Removal {
    /// It does not exist any more.
    Gone,
    /// Another launcher has completed its launch.
    Completed,
    /// It exists, suspended.
    Left,
}

/// The parameters of creating an object.
pub(super) fn creation() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

/// The object as the client sends it: every field as rendered.
pub(super) fn dynamic(object: &Value) -> Result<DynamicObject, Error> {
    serde_json::from_value(object.clone())
        .map_err(|error| Error::Objects { reason: error.to_string() })
}

impl Cluster {
    /// Creates the Job, or finds the one that an earlier try created.
    pub(super) async fn ensure_job(&self, objects: &Objects) -> Result<Ours, Error> {
        let rendered = objects.suspended_job();
        let resource = resource_of(&rendered);
        let jobs = self.dynamic(&resource);
        let job = dynamic(&rendered)?;
        let name = objects.job();
        let call = self.call_on("create", &resource, Some(name));
        let deadline = Instant::now() + self.patience.deletion;
        let parameters = creation();
        let mut count = 0;
        loop {
            match call.make(&self.patience, || jobs.create(&parameters, &job)).await? {
                Outcome::Done(job) => {
                    let uid = job.metadata.uid.unwrap_or_default();
                    let name = name.to_owned();
                    return Ok(Ours { name, uid, existed: false, incomplete: true });
                }
                Outcome::Missing(status) => return Err(call.no_place(&status)),
                Outcome::Exists | Outcome::Conflict => {}
            }
            if let Some(existing) = self.read_job(name).await? {
                let Some(since) = existing.metadata.deletion_timestamp.as_ref() else {
                    return self.recognize(objects, &existing);
                };
                if Instant::now() >= deadline {
                    let (job, namespace) = (name.to_owned(), self.namespace().to_owned());
                    return Err(Error::Deleting { job, namespace, since: since.0.to_string() });
                }
                if count == 0 {
                    tracing::warn!(
                        job = name,
                        "a Job of this name is being deleted; waiting for it"
                    );
                }
            }
            if Instant::now() >= deadline {
                return Err(Error::Vanished { job: name.to_owned() });
            }
            sleep(self.patience.pause(count)).await;
            count += 1;
        }
    }

    /// The existing Job, if it was launched from the same objects and has not ended.
    fn recognize(&self, objects: &Objects, job: &Job) -> Result<Ours, Error> {
        let annotations = job.metadata.annotations.as_ref();
        let annotation = |key: &str| annotations.and_then(|all| all.get(key)).map(String::as_str);
        let nodes = BTreeMap::new();
        let known =
            Known { job, pods: Vec::new(), events: Vec::new(), nodes: &nodes, now: self.now() };
        let state = describe::overview(&known).state;
        let exists = |state: String| {
            let created = job.metadata.creation_timestamp.as_ref();
            let since = created.map_or_else(|| "long ago".to_owned(), |time| time.0.to_string());
            Error::Exists { job: objects.job().to_owned(), since, state }
        };
        if annotation(SUBMISSION) != Some(objects.digest()) {
            return Err(exists(format!("was made from other objects; it is {state}")));
        }
        // Launching a run that has ended is meant to run it again, and to say "launched" would be
        // wrong.
        if state.is_final() {
            return Err(exists(format!("has ended: {state}")));
        }
        let name = objects.job().to_owned();
        let uid = job.metadata.uid.clone().unwrap_or_default();
        Ok(Ours { name, uid, existed: true, incomplete: annotation(INCOMPLETE).is_some() })
    }

    /// Ends the launch: takes the annotation away and, in the same change, resumes the Job.
    ///
    /// The change names the version that was read, so that a Job is never resumed twice.
    pub(super) async fn resume(&self, ours: &Ours, stays_suspended: bool) -> Result<(), Error> {
        let jobs = self.api::<Job>();
        let call = self.call::<Job>("patch", Some(&ours.name));
        let parameters =
            PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        for _ in 0..COLLISIONS {
            let Some(version) = self.incomplete_version(ours).await? else { return Ok(()) };
            let mut change = json!({ "metadata": {
                "resourceVersion": version,
                "annotations": { INCOMPLETE: null },
            } });
            if !stays_suspended {
                change["spec"] = json!({ "suspend": false });
            }
            let patch = Patch::Merge(&change);
            let request = || jobs.patch(&ours.name, &parameters, &patch);
            match call.make(&self.patience, request).await? {
                Outcome::Done(_) => return Ok(()),
                Outcome::Missing(_) => return Err(vanished(ours)),
                Outcome::Exists | Outcome::Conflict => {}
            }
        }
        let reasons = vec!["it is changed all the time by something else".to_owned()];
        Err(Error::Refused { what: call.object(), reasons })
    }

    /// The version of our Job, if its launch is not complete.
    async fn incomplete_version(&self, ours: &Ours) -> Result<Option<String>, Error> {
        let job = self.read_job(&ours.name).await?.ok_or_else(|| vanished(ours))?;
        let is_ours = job.metadata.uid.as_deref() == Some(&ours.uid);
        if !is_ours || job.metadata.deletion_timestamp.is_some() {
            return Err(vanished(ours));
        }
        let annotations = job.metadata.annotations.unwrap_or_default();
        let is_incomplete = annotations.contains_key(INCOMPLETE);
        Ok(job.metadata.resource_version.filter(|_| is_incomplete))
    }

    /// Deletes our Job if nobody has completed its launch.
    ///
    /// A launcher that is about to do so finds it [`Error::Vanished`]; nothing is lost, because no
    /// pod has run.
    pub(super) async fn remove(&self, ours: &Ours) -> Result<Removal, Error> {
        let jobs = self.api::<Job>();
        let call = self.call::<Job>("delete", Some(&ours.name));
        for _ in 0..COLLISIONS {
            let Some(version) = self.incomplete_version(ours).await? else {
                return Ok(Removal::Completed);
            };
            let preconditions =
                Preconditions { resource_version: Some(version), uid: Some(ours.uid.clone()) };
            let parameters = DeleteParams::background().preconditions(preconditions);
            match call.make(&self.patience, || jobs.delete(&ours.name, &parameters)).await? {
                Outcome::Done(_) | Outcome::Missing(_) => return Ok(Removal::Gone),
                Outcome::Exists | Outcome::Conflict => {}
            }
        }
        Ok(Removal::Left)
    }

    pub(crate) async fn read_job(&self, name: &str) -> Result<Option<Job>, Error> {
        let jobs = self.api::<Job>();
        let call = self.call::<Job>("get", Some(name));
        match call.make(&self.patience, || jobs.get(name)).await? {
            Outcome::Done(job) => Ok(Some(job)),
            Outcome::Missing(_) | Outcome::Exists | Outcome::Conflict => Ok(None),
        }
    }
}

pub(super) fn vanished(ours: &Ours) -> Error {
    Error::Vanished { job: ours.name.clone() }
}
