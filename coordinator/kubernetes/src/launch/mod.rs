//! Creates a Job and what belongs to it, once.
//!
//! ```text
//! create Job, suspended ──▶ create ConfigMap, Service, Secrets, owned by the Job ──▶ resume Job
//! ```
//! The Job is first, because its name decides between two launchers, and because it owns the rest.
//! It is suspended, so that no pod starts before the rest exists. Its annotation
//! `muster.dev/incomplete` is taken away by the very change that resumes it: a launcher that finds
//! the annotation may complete the launch, and one that does not must leave the Job as it is, even
//! if somebody has suspended it since. Every step may be repeated, by this launcher or by another
//! one.
//!
//! A Job with a Kueue queue may be resumed before the rest exists. Its pods then wait for their
//! ConfigMap.

mod dependents;
mod job;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::objects::Objects;
use job::{Ours, Removal};

/// A Job that has been launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The name of the Job.
    pub job: String,
    /// The uid of the Job.
    pub uid: String,
    /// Whether the Job existed: an earlier or a simultaneous launch of the same objects created it.
    pub existed: bool,
    /// Whether the caller wanted the Job to stay suspended, so that something else resumes it.
    pub suspended: bool,
}

impl Cluster {
    /// Creates a Job and what belongs to it, once, however often and by however many launchers it
    /// is tried.
    ///
    /// # Errors
    /// - [`Error::Exists`] if a Job of the name was launched from other objects, or has ended;
    ///   [`Error::Deleting`] and [`Error::Taken`] if something is in the way.
    /// - [`Error::Incomplete`] if the Job exists, but is suspended.
    /// - Otherwise nothing that this call created is left.
    ///
    /// After [`Error::Unreachable`], the objects may or may not exist, and the same call continues.
    pub async fn launch(&self, objects: Objects) -> Result<Launched, Error> {
        for namespace in objects.namespaces() {
            if namespace != self.namespace() {
                let reason =
                    format!("they name namespace `{namespace}`, not `{}`", self.namespace());
                return Err(Error::Objects { reason });
            }
        }
        let ours = self.ensure_job(&objects).await?;
        if let Err(error) = self.complete(&objects, &ours).await {
            self.abandon(&ours, error).await?;
        }
        Ok(Launched {
            job: objects.job().to_owned(),
            uid: ours.uid,
            existed: ours.existed,
            suspended: objects.stays_suspended(),
        })
    }

    async fn complete(&self, objects: &Objects, ours: &Ours) -> Result<(), Error> {
        if !ours.incomplete {
            return Ok(());
        }
        for object in objects.dependents(&ours.uid) {
            self.ensure_dependent(&object, ours).await?;
        }
        self.resume(ours, objects.stays_suspended()).await
    }

    /// Removes the Job if this launch has created it; the rest goes with it.
    ///
    /// It is no error if another launcher has completed the launch in the meantime.
    async fn abandon(&self, ours: &Ours, error: Error) -> Result<(), Error> {
        let removal = match error {
            Error::Vanished { .. } => Removal::Gone,
            // Another launcher may have better luck, and this one is asked to try again.
            Error::Unreachable { .. } => Removal::Left,
            _ if ours.existed => Removal::Left,
            _ => self.remove(ours).await.unwrap_or(Removal::Left),
        };
        match removal {
            Removal::Gone => Err(error),
            Removal::Completed => Ok(()),
            Removal::Left => {
                let (job, namespace) = (ours.name.clone(), self.namespace().to_owned());
                Err(Error::Incomplete { job, namespace, source: Box::new(error) })
            }
        }
    }
}
