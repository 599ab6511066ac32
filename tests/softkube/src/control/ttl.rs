//! Deletes finished Jobs when their `ttlSecondsAfterFinished` has passed.

use std::time::Duration;

use crate::clock::Time;
use crate::control::due::sooner;
use crate::delete::{DeleteOptions, Propagation};
use crate::json::Json;
use crate::pods;
use crate::registry::{Registry, Target};

pub(crate) fn run(registry: &mut Registry) -> Option<Time> {
    let now = registry.now();
    let mut due = None;
    for job in registry.list("jobs", "") {
        let Some(ttl) =
            job.int("spec.ttlSecondsAfterFinished").and_then(|ttl| u64::try_from(ttl).ok())
        else {
            continue;
        };
        let ended = job
            .list("status.conditions")
            .iter()
            .find(|one| {
                matches!(one.str("type"), "Complete" | "Failed") && one.str("status") == "True"
            })
            .and_then(|one| Time::parse(one.str("lastTransitionTime")));
        let Some(ended) = ended.filter(|_| !pods::is_deleting(&job)) else { continue };
        let at = ended.after(Duration::from_secs(ttl));
        if at > now {
            due = sooner(due, Some(at));
            continue;
        }
        let options = DeleteOptions {
            propagation: Some(Propagation::Foreground),
            uid: job.text("metadata.uid").map(str::to_owned),
            ..DeleteOptions::default()
        };
        // The Job was just listed, so the deletion cannot fail.
        let _ = registry.delete(Target::of("jobs", &job), &options);
    }
    due
}
