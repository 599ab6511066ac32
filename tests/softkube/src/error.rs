//! Errors of the API: HTTP code, reason and details, as `metav1.Status` bodies carry them.

use std::fmt;

use serde_json::{Value, json};

/// An error answer of the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, such as `NotFound`.
    pub reason: String,
    /// The message for people.
    pub message: String,
    /// The `details` object of the status, or null.
    pub details: Box<Value>,
}

/// The resource and name that an error is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) name: &'a str,
}

impl Subject<'_> {
    /// `jobs.batch`, or `pods` for the core group.
    fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    fn details(&self) -> Value {
        let mut details = json!({"name": self.name, "kind": self.resource});
        if !self.group.is_empty() {
            details["group"] = self.group.into();
        }
        details
    }
}

impl ApiError {
    pub(crate) fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self { code, reason: reason.to_owned(), message: message.into(), details: Box::default() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn not_found(subject: Subject<'_>) -> Self {
        let message = format!("{} \"{}\" not found", subject.qualified(), subject.name);
        Self { details: subject.details().into(), ..Self::new(404, "NotFound", message) }
    }

    /// The answer to a path that no resource has.
    pub(crate) fn no_such_path() -> Self {
        let message = "the server could not find the requested resource";
        Self { details: json!({}).into(), ..Self::new(404, "NotFound", message) }
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self { details: json!({}).into(), ..Self::new(405, "MethodNotAllowed", message) }
    }

    pub(crate) fn already_exists(subject: Subject<'_>) -> Self {
        let message = format!("{} \"{}\" already exists", subject.qualified(), subject.name);
        Self { details: subject.details().into(), ..Self::new(409, "AlreadyExists", message) }
    }

    pub(crate) fn conflict(subject: Subject<'_>, cause: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{}\": {cause}",
            subject.qualified(),
            subject.name
        );
        Self { details: subject.details().into(), ..Self::new(409, "Conflict", message) }
    }

    pub(crate) fn forbidden(subject: Subject<'_>, cause: &str) -> Self {
        let target = if subject.name.is_empty() {
            subject.qualified()
        } else {
            format!("{} \"{}\"", subject.qualified(), subject.name)
        };
        let mut details = subject.details();
        if subject.name.is_empty() {
            details.as_object_mut().expect("details are an object").remove("name");
        }
        Self {
            details: details.into(),
            ..Self::new(403, "Forbidden", format!("{target} is forbidden: {cause}"))
        }
    }

    /// The answer to an invalid object; `causes` are (reason, message, field).
    pub(crate) fn invalid(subject: Subject<'_>, causes: &[(String, String, String)]) -> Self {
        let lines: Vec<String> =
            causes.iter().map(|(_, message, field)| format!("{field}: {message}")).collect();
        let summary =
            if lines.len() == 1 { lines[0].clone() } else { format!("[{}]", lines.join(", ")) };
        let kind = if subject.group.is_empty() {
            subject.kind.to_owned()
        } else {
            format!("{}.{}", subject.kind, subject.group)
        };
        let mut details = json!({"name": subject.name, "kind": subject.kind});
        if !subject.group.is_empty() {
            details["group"] = subject.group.into();
        }
        details["causes"] = causes
            .iter()
            .map(|(reason, message, field)| json!({"reason": reason, "message": message, "field": field}))
            .collect();
        let message = format!("{kind} \"{}\" is invalid: {summary}", subject.name);
        Self { details: details.into(), ..Self::new(422, "Invalid", message) }
    }

    /// 410 with reason `Expired`: the requested revision was compacted.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn too_many_requests(message: impl Into<String>, retry_after_seconds: u64) -> Self {
        let details = json!({"retryAfterSeconds": retry_after_seconds});
        Self { details: details.into(), ..Self::new(429, "TooManyRequests", message) }
    }

    pub(crate) fn internal(message: &str) -> Self {
        let details = json!({"causes": [{"message": message}]});
        Self {
            details: details.into(),
            ..Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
        }
    }

    /// Whether the error is a 404.
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// Whether a cause of the error has the given reason.
    pub(crate) fn has_cause(&self, reason: &str) -> bool {
        let causes = self.details.get("causes").and_then(Value::as_array);
        causes.is_some_and(|causes| causes.iter().any(|cause| cause["reason"] == reason))
    }

    /// The `metav1.Status` body.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = (*self.details).clone();
        }
        status
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.message, self.code, self.reason)
    }
}

impl std::error::Error for ApiError {}
