//! One request to the API server: repeated while that may help, and judged by its answer.
//!
//! Only requests that are safe to repeat may be made here: creations of a fixed name, reads, and
//! changes that name the version or the uid of what they change.

use crate::error::{Cause, Error};
use crate::patience::Patience;
use kube::core::Status;
use std::fmt;
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// What a request is about.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The verb, as permissions name it.
    pub(crate) verb: &'static str,
    /// The resource with its group, such as `jobs.batch`.
    pub(crate) resource: String,
    /// `None` for the whole cluster.
    pub(crate) namespace: Option<String>,
    /// `None` for lists.
    pub(crate) name: Option<String>,
}

/// The answer to a request that the caller decides about.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    Done(T),
    /// 404.
    Missing(Box<Status>),
    /// 409 `AlreadyExists`.
    Exists,
    /// 409 because of a uid or version that is not the current one.
    Conflict,
}

/// What to do about a failure.
enum Verdict {
    /// Repeat the request, after this time if the server names one.
    Again(Option<Duration>),
    Missing(Box<Status>),
    Exists,
    Conflict,
    Fatal(Error),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.object())
    }
}

impl Call {
    /// The object in words.
    pub(crate) fn object(&self) -> String {
        match &self.name {
            Some(name) => format!("{} `{name}`", self.resource),
            None => self.resource.clone(),
        }
    }

    fn place(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("in namespace `{namespace}`"),
            None => "in the whole cluster".to_owned(),
        }
    }

    fn option(&self) -> String {
        self.namespace.as_ref().map_or_else(String::new, |name| format!(" --namespace {name}"))
    }

    /// Makes the request until it is answered for good.
    ///
    /// # Errors
    /// What the API server refuses, or that it gave no useful answer for `patience.repetition`.
    pub(crate) async fn make<T, F>(
        &self,
        patience: &Patience,
        request: impl Fn() -> F,
    ) -> Result<Outcome<T>, Error>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let started = Instant::now();
        let mut count = 0;
        loop {
            let (wanted, source) = match timeout(patience.request, request()).await {
                Ok(Ok(done)) => return Ok(Outcome::Done(done)),
                Ok(Err(error)) => match self.judge(&error) {
                    Verdict::Again(after) => (after, cause(error)),
                    Verdict::Missing(status) => return Ok(Outcome::Missing(status)),
                    Verdict::Exists => return Ok(Outcome::Exists),
                    Verdict::Conflict => return Ok(Outcome::Conflict),
                    Verdict::Fatal(error) => return Err(error),
                },
                Err(elapsed) => (None, elapsed.into()),
            };
            let pause = patience.pause(count).max(wanted.unwrap_or_default());
            if started.elapsed() + pause > patience.repetition {
                let tried = started.elapsed();
                return Err(Error::Unreachable { what: self.to_string(), tried, source });
            }
            tracing::debug!(request = %self, ?pause, error = %source, "the request is repeated");
            sleep(pause).await;
            count += 1;
        }
    }

    /// The answer of a request that names nothing which may be missing or exist.
    pub(crate) async fn expect<T, F>(
        &self,
        patience: &Patience,
        request: impl Fn() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = kube::Result<T>>,
    {
        match self.make(patience, request).await? {
            Outcome::Done(done) => Ok(done),
            Outcome::Missing(status) => Err(self.no_place(&status)),
            Outcome::Exists | Outcome::Conflict => {
                Err(self.refused("it conflicts with an existing object"))
            }
        }
    }

    pub(crate) fn no_place(&self, status: &Status) -> Error {
        Error::NoPlace { what: self.object(), message: status.message.clone() }
    }

    pub(crate) fn refused(&self, reason: &str) -> Error {
        Error::Refused { what: self.object(), reasons: vec![reason.to_owned()] }
    }

    /// The error of a failure that repeating does not help, if it is one.
    pub(crate) fn fatal(&self, error: &kube::Error) -> Option<Error> {
        match self.judge(error) {
            Verdict::Fatal(error) => Some(error),
            Verdict::Again(_) | Verdict::Missing(_) | Verdict::Exists | Verdict::Conflict => None,
        }
    }

    fn judge(&self, error: &kube::Error) -> Verdict {
        match error {
            kube::Error::Api(status) => self.judge_status(status),
            kube::Error::Auth(source) => {
                Verdict::Fatal(Error::Configuration { source: source.to_string().into() })
            }
            kube::Error::BuildRequest(source) => Verdict::Fatal(self.refused(&source.to_string())),
            // The connection broke, or an answer broke off. Whether the request was performed is
            // unknown.
            _ => Verdict::Again(None),
        }
    }

    fn judge_status(&self, status: &Status) -> Verdict {
        match status.code {
            401 => Verdict::Fatal(Error::Unauthorized { message: status.message.clone() }),
            403 => Verdict::Fatal(self.forbidden(status)),
            404 => Verdict::Missing(Box::new(status.clone())),
            409 if status.reason == "AlreadyExists" => Verdict::Exists,
            409 if matches!(self.verb, "patch" | "delete") => Verdict::Conflict,
            // The API server's own bookkeeping, such as that of a quota, met another request.
            409 => Verdict::Again(None),
            408 | 410 | 429 | 500.. => {
                let seconds = status.details.as_ref().map_or(0, |one| one.retry_after_seconds);
                Verdict::Again((seconds > 0).then(|| Duration::from_secs(seconds.into())))
            }
            _ => Verdict::Fatal(Error::Refused { what: self.object(), reasons: reasons(status) }),
        }
    }

    /// A quota, an admission plugin and a missing permission all answer 403.
    fn forbidden(&self, status: &Status) -> Error {
        let message = status.message.clone();
        if message.contains("exceeded quota") {
            return Error::Quota { what: self.object(), option: self.option(), message };
        }
        if !message.contains(" cannot ") {
            return Error::Refused { what: self.object(), reasons: reasons(status) };
        }
        Error::Forbidden {
            verb: self.verb,
            resource: self.resource.clone(),
            place: self.place(),
            option: self.option(),
            message,
        }
    }
}

/// What is wrong, field by field where the API server says so.
fn reasons(status: &Status) -> Vec<String> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields: Vec<String> = causes
        .filter(|cause| !cause.field.is_empty())
        .map(|cause| format!("{}: {}", cause.field, cause.message))
        .collect();
    if fields.is_empty() { vec![status.message.clone()] } else { fields }
}

/// The failure without the wrappers of `kube`, which repeat their source in their text.
pub(crate) fn cause(error: kube::Error) -> Cause {
    match error {
        kube::Error::Api(status) => status.message.clone().into(),
        kube::Error::HyperError(source) => source.into(),
        kube::Error::Service(source) => source,
        kube::Error::ReadEvents(source) => source.into(),
        kube::Error::SerdeError(source) => source.into(),
        other => other.into(),
    }
}
