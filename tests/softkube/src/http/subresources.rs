//! Subresources other than the status: eviction, binding, service account tokens and logs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;

use crate::auth::{API_AUDIENCE, TokenSpec};
use crate::clock::Time;
use crate::error::ApiError;
use crate::http::answer::Answer;
use crate::http::options;
use crate::http::route::{Query, Route};
use crate::json::Json;
use crate::kubelet::logs::{Line, Log};
use crate::kubelet::status;
use crate::pods;
use crate::registry::{Registry, Target, Write};
use crate::selector::Labels;
use crate::state::{Shared, State};

const TOKEN_SECONDS: i64 = 3600;
const TOKEN_SECONDS_MIN: i64 = 600;

/// Evicts a pod, unless a disruption budget forbids it.
pub(super) fn evict(state: &mut State, route: &Route, body: &Value) -> Result<Answer, ApiError> {
    let registry = &mut state.registry;
    let target = Target { kind: route.kind, namespace: &route.namespace, name: &route.name };
    let pod = registry.get(target)?;
    let options = options::delete(&route.query, body.at("deleteOptions"))?;
    let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    let unprotected = pods::is_terminal(&pod)
        || pods::is_deleting(&pod)
        || pod.text("status.phase") == Some("Pending");
    if !unprotected {
        spend_budget(registry, &pod)?;
    }
    if options.dry_run {
        return Ok(Answer::new(201, success));
    }
    let message = "Eviction API: evicting";
    registry.disrupt(target, "kube-apiserver", "EvictionByEvictionAPI", message)?;
    registry.delete(target, &options)?;
    Ok(Answer::new(201, success))
}

/// Takes a disruption from the budget that covers a pod.
fn spend_budget(registry: &mut Registry, pod: &Value) -> Result<(), ApiError> {
    let namespace = pod.str("metadata.namespace");
    let covers = |budget: &Value| {
        Labels::from_object(budget.at("spec.selector"))
            .is_some_and(|selector| selector.matches(pod))
    };
    let budgets: Vec<Arc<Value>> = registry
        .list("poddisruptionbudgets", namespace)
        .into_iter()
        .filter(|budget| covers(budget))
        .collect();
    let budget = match budgets.as_slice() {
        [] => return Ok(()),
        [budget] => budget,
        _ => {
            let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not \
                support.";
            return Err(ApiError::internal(message));
        }
    };
    let allowed = budget.int("status.disruptionsAllowed").unwrap_or(0);
    if allowed <= 0 {
        let name = budget.str("metadata.name");
        let (needed, healthy) =
            (budget.int("status.desiredHealthy"), budget.int("status.currentHealthy"));
        let cause = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            needed.unwrap_or(0),
            healthy.unwrap_or(0)
        );
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut error = ApiError::too_many_requests(message, 0);
        error.details =
            json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]}).into();
        return Err(error);
    }
    registry
        .force(
            Target::of("poddisruptionbudgets", budget),
            &Write::status("kube-apiserver"),
            |budget| {
                budget.put("status.disruptionsAllowed", allowed - 1);
            },
        )
        .map(drop)
}

/// Issues a token for a service account, bound to a pod if the request says so.
pub(super) fn token(state: &mut State, route: &Route, body: &Value) -> Result<Answer, ApiError> {
    let account =
        state.registry.get(Target::new("serviceaccounts", &route.namespace, &route.name))?;
    let seconds = body.int("spec.expirationSeconds").unwrap_or(TOKEN_SECONDS);
    let mut errors = crate::field_errors::FieldErrors::default();
    if seconds < TOKEN_SECONDS_MIN {
        let detail = "may not specify a duration less than 10 minutes";
        errors.invalid("spec.expirationSeconds", seconds, detail);
    }
    let subject = crate::error::Subject {
        group: "authentication.k8s.io",
        resource: "tokenrequests",
        kind: "TokenRequest",
        name: &route.name,
    };
    errors.into_result(subject)?;
    let bound = body.at("spec.boundObjectRef");
    let pod = if bound.text("kind") == Some("Pod") {
        let pod = state.registry.get(Target::new("pods", &route.namespace, bound.str("name")))?;
        let uid = pod.str("metadata.uid");
        if bound.text("uid").is_some_and(|wanted| wanted != uid) {
            let cause = "the UID in the bound object reference does not match the UID in record. The object might have \
                been deleted and then recreated";
            return Err(ApiError::conflict(subject, cause));
        }
        Some((bound.str("name").to_owned(), uid.to_owned()))
    } else {
        None
    };
    let audiences: Vec<String> =
        body.list("spec.audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let spec = TokenSpec {
        namespace: &route.namespace,
        account: &route.name,
        account_uid: account.str("metadata.uid"),
        pod,
        audiences: if audiences.is_empty() { vec![API_AUDIENCE.to_owned()] } else { audiences },
        lifetime: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
    };
    let (token, expires) = state.auth.issue(&mut state.registry, &spec);
    let mut answer = body.clone();
    answer.put("apiVersion", "authentication.k8s.io/v1");
    answer.put("kind", "TokenRequest");
    answer.put("metadata", json!({"name": route.name, "namespace": route.namespace}));
    answer.put("spec.audiences", spec.audiences);
    answer.put("spec.expirationSeconds", seconds);
    answer.put("status", json!({"token": token, "expirationTimestamp": expires.rfc3339()}));
    Ok(Answer::new(201, answer))
}

/// What of a container's output is wanted.
struct LogRequest {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail: Option<usize>,
    since: Option<Duration>,
    since_time: Option<Time>,
}

impl LogRequest {
    /// # Errors
    /// 400 for both `sinceSeconds` and `sinceTime`, or for a time that is none.
    fn parse(query: &Query) -> Result<Self, ApiError> {
        let since_time = query.get("sinceTime").map(|text| {
            Time::parse(text).ok_or_else(|| {
                ApiError::bad_request(format!(
                    "sinceTime: \"{text}\" is not in the format of RFC 3339"
                ))
            })
        });
        if since_time.is_some() && query.get("sinceSeconds").is_some() {
            let message = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            return Err(ApiError::bad_request(message));
        }
        Ok(Self {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            tail: query.get("tailLines").and_then(|text| text.parse().ok()),
            since: query
                .get("sinceSeconds")
                .and_then(|text| text.parse().ok())
                .map(Duration::from_secs),
            since_time: since_time.transpose()?,
        })
    }
}

/// A log being followed.
struct Follow {
    shared: Arc<Shared>,
    changes: Receiver<u64>,
    uid: String,
    container: String,
    request: LogRequest,
    /// Lines that were sent or skipped.
    sent: usize,
    over: bool,
}

/// Streams the output of a container.
///
/// # Errors
/// 404 for the pod, 400 for a container that is not named, does not exist or has not started.
pub(super) fn log(
    shared: &Arc<Shared>,
    route: &Route,
) -> Result<impl Stream<Item = Result<Bytes, io::Error>> + Send + use<>, ApiError> {
    let request = LogRequest::parse(&route.query)?;
    let mut follow = Follow {
        changes: shared.subscribe(),
        shared: shared.clone(),
        uid: String::new(),
        container: String::new(),
        request,
        sent: 0,
        over: false,
    };
    shared.read(|state| {
        let pod = state.registry.get(Target::new("pods", &route.namespace, &route.name))?;
        follow.uid = pod.str("metadata.uid").to_owned();
        follow.container = container(&pod, &route.query)?;
        let log = state.logs.get(&follow.uid, &follow.container).cloned().unwrap_or_default();
        if follow.request.previous && log.previous.is_none() {
            let message = format!(
                "previous terminated container \"{}\" in pod \"{}\" not found",
                follow.container, route.name
            );
            return Err(ApiError::bad_request(message));
        }
        let lines = follow.lines(&log).len();
        follow.sent = follow.request.tail.map_or(0, |tail| lines.saturating_sub(tail));
        Ok(())
    })?;
    Ok(stream::unfold(follow, |mut follow| async move {
        follow.next().await.map(|chunk| (Ok(chunk), follow))
    }))
}

fn container(pod: &Value, query: &Query) -> Result<String, ApiError> {
    let name = pod.str("metadata.name");
    let names: Vec<&str> = pod.list("spec.containers").iter().map(|one| one.str("name")).collect();
    let wanted = match (query.get("container"), names.as_slice()) {
        (Some(wanted), _) => wanted,
        (None, [only]) => *only,
        (None, _) => {
            let message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                names.join(" ")
            );
            return Err(ApiError::bad_request(message));
        }
    };
    let inits = pod.list("spec.initContainers").iter().map(|one| one.str("name"));
    if !names.iter().copied().chain(inits).any(|one| one == wanted) {
        return Err(ApiError::bad_request(format!(
            "container {wanted} is not valid for pod {name}"
        )));
    }
    let waiting = status::container(pod, wanted)
        .is_none_or(|one| one.has("state.waiting") && !one.has("lastState.terminated"));
    if waiting {
        let reason = status::container(pod, wanted)
            .map_or("PodScheduled", |one| one.str("state.waiting.reason"));
        let message =
            format!("container \"{wanted}\" in pod \"{name}\" is waiting to start: {reason}");
        return Err(ApiError::bad_request(message));
    }
    Ok(wanted.to_owned())
}

impl Follow {
    fn lines<'a>(&self, log: &'a Log) -> &'a [Line] {
        let lines = if self.request.previous {
            log.previous.as_deref().unwrap_or_default()
        } else {
            &log.lines
        };
        let since = self.request.since.map(|since| self.shared.clock.now().before(since));
        let Some(oldest) = since.or(self.request.since_time) else { return lines };
        &lines[lines.partition_point(|line| line.at < oldest)..]
    }

    async fn next(&mut self) -> Option<Bytes> {
        while !self.over {
            let shared = self.shared.clone();
            self.changes.borrow_and_update();
            let (text, ended) = shared.read(|state| {
                let empty = Log::default();
                let log = state.logs.get(&self.uid, &self.container).unwrap_or(&empty);
                let lines = self.lines(log);
                let new = lines.get(self.sent..).unwrap_or_default();
                let show = |line: &Line| {
                    let stamp = if self.request.timestamps {
                        format!("{} ", line.at.rfc3339_micro())
                    } else {
                        String::new()
                    };
                    format!("{stamp}{}\n", line.text)
                };
                let text: String = new.iter().map(show).collect();
                let exists = state
                    .registry
                    .store
                    .list("pods", "")
                    .any(|(_, pod)| pod.str("metadata.uid") == self.uid);
                (text, log.ended || !exists || self.request.previous)
            });
            self.sent += text.matches('\n').count();
            self.over = ended || !self.request.follow;
            if !text.is_empty() {
                return Some(Bytes::from(text));
            }
            if !self.over && self.changes.changed().await.is_err() {
                return None;
            }
        }
        None
    }
}
