//! What may go wrong, in words that a user can act on.

use std::error::Error as StdError;
use std::time::Duration;
use thiserror::Error;

/// The cause of an error, without the wrappers that repeat it.
pub(crate) type Cause = Box<dyn StdError + Send + Sync>;

/// Why something could not be done on a cluster.
#[derive(Debug, Error)]
pub enum Error {
    /// No cluster is configured, or its configuration cannot be used.
    #[error(
        "no usable configuration of a Kubernetes cluster\n\
         hint: `kubectl config get-contexts` lists the configured ones; KUBECONFIG names the file"
    )]
    Configuration {
        /// What is wrong with it.
        source: Cause,
    },
    /// The objects cannot be launched as a Job.
    #[error("the objects cannot be launched: {reason}")]
    Objects {
        /// What is wrong with them.
        reason: String,
    },
    /// The API server does not know the user.
    #[error(
        "the API server does not accept the credentials: {message}\n\
         hint: log in to the cluster again; `kubectl auth whoami` must work"
    )]
    Unauthorized {
        /// The API server's words.
        message: String,
    },
    /// The user lacks a permission.
    #[error(
        "not allowed to {verb} {resource} {place}: {message}\n\
         hint: ask the cluster's administrator for it; \
         `kubectl auth can-i {verb} {resource}{option}` tells whether it is allowed"
    )]
    Forbidden {
        /// The verb, such as `create`.
        verb: &'static str,
        /// The resource, such as `jobs.batch`.
        resource: String,
        /// Where, such as ``in namespace `ml` ``.
        place: String,
        /// The option of `kubectl` for the place.
        option: String,
        /// The API server's words.
        message: String,
    },
    /// The namespace's quota is used up.
    #[error(
        "the namespace's quota does not allow {what}: {message}\n\
         hint: delete what is no longer needed, or ask for a larger quota; \
         `kubectl describe quota{option}` shows it"
    )]
    Quota {
        /// What was to be created.
        what: String,
        /// The option of `kubectl` for the namespace.
        option: String,
        /// The API server's words.
        message: String,
    },
    /// The API server does not accept an object.
    #[error("the API server refuses {what}: {}", lines(reasons))]
    Refused {
        /// The object, such as ``jobs.batch `tune-1` ``.
        what: String,
        /// What is wrong, field by field where the API server says so.
        reasons: Vec<String>,
    },
    /// The API server has no such namespace or resource.
    #[error(
        "the API server does not know the place of {what}: {message}\n\
         hint: `kubectl get namespaces` lists what exists; --namespace names another"
    )]
    NoPlace {
        /// The object, such as ``jobs.batch `tune-1` ``.
        what: String,
        /// The API server's words.
        message: String,
    },
    /// The API server gave no useful answer for a long time.
    #[error(
        "the API server gave no answer to `{what}` within {} s\n\
         hint: it is safe to try again; nothing is created twice", tried.as_secs()
    )]
    Unreachable {
        /// The request, such as ``create jobs.batch `tune-1` ``.
        what: String,
        /// How long it was tried.
        tried: Duration,
        /// The last failure.
        source: Cause,
    },
    /// A Job of the name exists that was launched from something else, or that has ended.
    #[error(
        "Job `{job}` exists since {since} and {state}\n\
         hint: launch another one with another --attempt or --run, or follow this one"
    )]
    Exists {
        /// The Job.
        job: String,
        /// When it was created.
        since: String,
        /// What is known of it, as the rest of a sentence.
        state: String,
    },
    /// A Job of the name is being deleted, and that does not end.
    #[error(
        "Job `{job}` is being deleted since {since}, and is still there\n\
         hint: `kubectl get pods --namespace {namespace} --selector \
         batch.kubernetes.io/job-name={job}` shows what it waits for; or use another --attempt"
    )]
    Deleting {
        /// The Job.
        job: String,
        /// Its namespace.
        namespace: String,
        /// When the deletion began.
        since: String,
    },
    /// An object of the name exists and belongs to something else.
    #[error(
        "{object} exists and belongs to {owner}\n\
         hint: `kubectl delete {kind} {name} --namespace {namespace}` removes it; or use another \
         --attempt or --run"
    )]
    Taken {
        /// The object in words.
        object: String,
        /// Whose it is, in words.
        owner: String,
        /// Its kind as `kubectl` knows it.
        kind: String,
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
    },
    /// Somebody deleted the Job while it was being launched.
    #[error("Job `{job}` was deleted while it was being launched\nhint: launch it again")]
    Vanished {
        /// The Job.
        job: String,
    },
    /// The launch has failed half-way, and the suspended Job could not be removed.
    #[error(
        "Job `{job}` was created, but stays suspended, because its launch could not be completed\n\
         hint: the same command continues the launch; \
         `kubectl delete job {job} --namespace {namespace}` removes all that exists"
    )]
    Incomplete {
        /// The Job.
        job: String,
        /// Its namespace.
        namespace: String,
        /// Why the launch could not be completed.
        source: Box<Error>,
    },
    /// No such Job exists.
    #[error(
        "no Job `{job}` in namespace `{namespace}`\n\
         hint: `kubectl get jobs --namespace {namespace}` lists what exists"
    )]
    NotFound {
        /// The Job.
        job: String,
        /// The namespace.
        namespace: String,
    },
}

/// One reason behind the colon, several on lines of their own.
fn lines(reasons: &[String]) -> String {
    match reasons {
        [only] => only.clone(),
        several => several.iter().map(|reason| format!("\n  {reason}")).collect(),
    }
}
