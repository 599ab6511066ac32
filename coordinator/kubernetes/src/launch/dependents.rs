//! What belongs to the Job of a launch.

use super::job::{Ours, creation, dynamic, vanished};
use crate::call::Outcome;
use crate::cluster::{Cluster, resource_of};
use crate::error::Error;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Whose an existing object is.
enum Owner {
    /// Our Job's: an earlier try created it.
    Ours,
    /// Nobody's for long: it is being deleted, or belongs to an older Job of the name that is.
    Leaving(String),
    /// Somebody else's, in words.
    Other(String),
}

impl Cluster {
    /// Creates an object that the Job owns, or finds the one that an earlier try created.
    ///
    /// What an older Job of the same name has left behind is waited for: the garbage collector
    /// removes it.
    pub(super) async fn ensure_dependent(&self, object: &Value, ours: &Ours) -> Result<(), Error> {
        let resource = resource_of(object);
        let objects = self.dynamic(&resource);
        let new = dynamic(object)?;
        let name = new.metadata.name.clone().unwrap_or_default();
        let create = self.call_on("create", &resource, Some(&name));
        let read = self.call_on("get", &resource, Some(&name));
        let deadline = Instant::now() + self.patience.deletion;
        let parameters = creation();
        let mut count = 0;
        loop {
            match create.make(&self.patience, || objects.create(&parameters, &new)).await? {
                Outcome::Done(_) => return Ok(()),
                Outcome::Missing(status) => return Err(create.no_place(&status)),
                Outcome::Exists | Outcome::Conflict => {}
            }
            if let Outcome::Done(existing) =
                read.make(&self.patience, || objects.get(&name)).await?
            {
                let (owner, is_leaving) = match owner(&existing.metadata, ours) {
                    Owner::Ours => return Ok(()),
                    Owner::Leaving(owner) => (owner, true),
                    Owner::Other(owner) => (owner, false),
                };
                if !is_leaving || Instant::now() >= deadline {
                    return Err(Error::Taken {
                        object: format!("{} `{name}`", resource.kind),
                        owner,
                        kind: resource.kind.to_lowercase(),
                        name,
                        namespace: self.namespace().to_owned(),
                    });
                }
            }
            if Instant::now() >= deadline {
                return Err(vanished(ours));
            }
            sleep(self.patience.pause(count)).await;
            count += 1;
        }
    }
}

fn owner(existing: &ObjectMeta, ours: &Ours) -> Owner {
    let owners = existing.owner_references.as_deref().unwrap_or_default();
    let is_old_job = |owner: &OwnerReference| {
        owner.kind == "Job" && owner.name == ours.name && owner.uid != ours.uid
    };
    if existing.deletion_timestamp.is_some() {
        return Owner::Leaving("nothing, but its deletion does not end".to_owned());
    }
    if owners.iter().any(|owner| owner.uid == ours.uid) {
        return Owner::Ours;
    }
    if owners.iter().any(is_old_job) {
        return Owner::Leaving(format!("an older Job `{}`, which was deleted", ours.name));
    }
    match owners.first() {
        Some(owner) => Owner::Other(format!("{} `{}`", owner.kind, owner.name)),
        None => Owner::Other("no Job; somebody created it by hand".to_owned()),
    }
}
