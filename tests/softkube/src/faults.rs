//! Faults that the test injects, and the log of requests.

use std::time::Duration;

use crate::clock::Time;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// 409 `Conflict`; the request is not performed.
    Conflict,
    /// 410 `Expired`; the request is not performed.
    Expired,
    /// 429 `TooManyRequests` with `Retry-After`, in whole seconds; the request is not performed.
    TooManyRequests {
        /// The time to wait that the client is told.
        retry_after: Duration,
    },
    /// 500 `InternalError`; the request is not performed.
    InternalError,
    /// 503 `ServiceUnavailable`; the request is not performed.
    ServiceUnavailable,
    /// 504 `Timeout`; the request is not performed.
    GatewayTimeout,
    /// The connection is closed without an answer, and the request is not performed.
    CloseBefore,
    /// The request is performed, and the connection is closed without an answer.
    CloseAfter,
    /// The request is performed after this much real time.
    Delay(Duration),
    /// The request is performed, and the answer breaks off half way.
    TruncateBody,
    /// A watch delivers what has happened so far and ends, as if it had timed out.
    WatchEnds,
    /// A watch delivers what has happened so far and then nothing, with the connection open.
    WatchStalls,
    /// A get, list or watch sees the state of this many revisions ago, as from a watch cache that lags behind.
    StaleRead {
        /// Revisions that the reader does not see yet.
        revisions: u64,
    },
}

/// Requests that a fault befalls.
#[derive(Clone, Debug)]
pub struct FaultRule {
    /// The verb: `create`, `get`, `list`, `watch`, `update`, `patch`, `delete`, `deletecollection`, or `*`.
    pub verb: String,
    /// The resource, such as `jobs` or `pods/log`, or `*`.
    pub resource: String,
    /// The name; `None` matches every name.
    pub name: Option<String>,
    /// How many requests the fault befalls.
    pub times: u32,
    /// What goes wrong.
    pub kind: FaultKind,
}

impl FaultRule {
    /// A fault that befalls the next request with this verb on this resource.
    pub fn once(verb: &str, resource: &str, kind: FaultKind) -> Self {
        Self { verb: verb.to_owned(), resource: resource.to_owned(), name: None, times: 1, kind }
    }

    /// The same fault, for this many requests.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// The same fault, for requests that name this object.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with this HTTP status; watches and followed logs are recorded when they start.
    Answered(u16),
    /// The connection was closed without performing the request.
    ClosedBefore,
    /// The request was performed with this result, and the connection was closed without an answer.
    ClosedAfter(u16),
}

/// A request that the server received.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// Cluster time of the arrival.
    pub at: Time,
    /// The verb, as authorization names it.
    pub verb: String,
    /// The resource with its subresource, such as `pods/log`; the path for requests without a resource.
    pub resource: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The name, or empty.
    pub name: String,
    /// The query string.
    pub query: String,
    /// The user; empty when the request was not authenticated.
    pub user: String,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// How the request ended.
    pub outcome: Outcome,
}

/// The faults that wait for their requests.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<FaultRule>);

impl Faults {
    pub(crate) fn add(&mut self, rule: FaultRule) {
        self.0.push(rule);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes the first fault that befalls a request.
    pub(crate) fn take(&mut self, verb: &str, resource: &str, name: &str) -> Option<FaultKind> {
        let matches = |rule: &&mut FaultRule| {
            rule.times > 0
                && (rule.verb == "*" || rule.verb == verb)
                && (rule.resource == "*" || rule.resource == resource)
                && rule.name.as_deref().is_none_or(|wanted| wanted == name)
        };
        let rule = self.0.iter_mut().find(matches)?;
        rule.times -= 1;
        Some(rule.kind.clone())
    }
}
