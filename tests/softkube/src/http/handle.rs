//! One request: authentication, faults, authorization, and the operation.

use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use hyper::{Request, Response};
use serde_json::{Value, json};

use crate::auth::{API_AUDIENCE, Identity};
use crate::error::{ApiError, Subject};
use crate::faults::{FaultKind, Outcome, RequestRecord};
use crate::http::answer::{self, Answer, Body, Closed};
use crate::http::objects::{self, Author};
use crate::http::route::{self, Query, Route};
use crate::http::{discovery, list, reviews, subresources, watch};
use crate::state::{Shared, State};

/// The limit of request bodies (`--max-resource-write-bytes`).
const BODY_LIMIT_BYTES: usize = 3 * 1024 * 1024;

/// What is known of a request before its body is read.
struct Head {
    path: String,
    query: String,
    token: Option<String>,
    user_agent: String,
    content_type: String,
}

impl Head {
    fn read(request: &Request<Incoming>) -> Self {
        let header = |name| {
            request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            token: header(AUTHORIZATION)
                .strip_prefix("Bearer ")
                .map(|token| token.trim().to_owned()),
            user_agent: header(USER_AGENT),
            content_type: header(CONTENT_TYPE),
        }
    }

    fn record(&self, shared: &Shared, route: Option<&Route>, user: &str, outcome: Outcome) {
        let record = RequestRecord {
            at: shared.clock.now(),
            verb: route.map_or("get", |route| route.verb).to_owned(),
            resource: route.map_or_else(|| self.path.clone(), Route::resource),
            namespace: route.map_or_else(String::new, |route| route.namespace.clone()),
            name: route.map_or_else(String::new, |route| route.name.clone()),
            query: self.query.clone(),
            user: user.to_owned(),
            user_agent: self.user_agent.clone(),
            outcome,
        };
        shared.write(|state| state.requests.push(record));
    }
}

/// Answers a request, or closes its connection.
pub(super) async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Closed> {
    let head = Head::read(&request);
    if matches!(head.path.as_str(), "/healthz" | "/readyz" | "/livez") {
        return Ok(answer::text("ok"));
    }
    let method = request.method().clone();
    if let Some(body) = discovery::answer(&head.path).filter(|_| method == hyper::Method::GET) {
        head.record(&shared, None, "", Outcome::Answered(200));
        return Ok(Answer::new(200, body).respond(false));
    }
    let refuse = |route: Option<&Route>, user: &str, error: &ApiError| {
        head.record(&shared, route, user, Outcome::Answered(error.code));
        Ok(Answer::error(error).respond(false))
    };
    let audience = [API_AUDIENCE.to_owned()];
    let identity = head.token.as_ref().and_then(|token| {
        shared
            .read(|state| state.auth.authenticate(&state.registry, token, &audience))
            .map(|(identity, _)| identity)
    });
    let Some(identity) = identity else { return refuse(None, "", &ApiError::unauthorized()) };
    let route = match route::parse(&method, &head.path, Query::parse(&head.query)) {
        Ok(route) => route,
        Err(error) => return refuse(None, &identity.name, &error),
    };
    if let Err(error) = shared.read(|state| authorize(state, &identity, &route)) {
        return refuse(Some(&route), &identity.name, &error);
    }
    let fault = shared.write(|state| state.faults.take(route.verb, &route.resource(), &route.name));
    if let Some(error) = fault.as_ref().and_then(|fault| fault_error(fault, &route)) {
        return refuse(Some(&route), &identity.name, &error);
    }
    match &fault {
        Some(FaultKind::CloseBefore) => {
            head.record(&shared, Some(&route), &identity.name, Outcome::ClosedBefore);
            return Err(Closed);
        }
        Some(FaultKind::Delay(delay)) => tokio::time::sleep(*delay).await,
        Some(_) | None => {}
    }
    let body = match read_body(request, &head.content_type).await {
        Ok(body) => body,
        Err(error) => return refuse(Some(&route), &identity.name, &error),
    };
    perform(&shared, &head, &route, &identity, (body, fault)).await
}

/// Performs a request that is allowed, and answers as its fault lets it.
async fn perform(
    shared: &Arc<Shared>,
    head: &Head,
    route: &Route,
    identity: &Identity,
    (body, fault): (Value, Option<FaultKind>),
) -> Result<Response<Body>, Closed> {
    let closes = fault == Some(FaultKind::CloseAfter);
    let outcome = |code| if closes { Outcome::ClosedAfter(code) } else { Outcome::Answered(code) };
    let streamed =
        match (route.verb, route.subresource.as_str()) {
            ("watch", "") => Some(watch::start(shared, route, fault.clone()).map(|events| {
                answer::stream_response(answer::streamed(events), "application/json")
            })),
            ("get", "log") if route.kind.resource == "pods" => Some(
                subresources::log(shared, route)
                    .map(|lines| answer::stream_response(answer::streamed(lines), "text/plain")),
            ),
            _ => None,
        };
    let response = match streamed {
        Some(Ok(response)) => {
            head.record(shared, Some(route), &identity.name, outcome(200));
            response
        }
        Some(Err(error)) => {
            head.record(shared, Some(route), &identity.name, outcome(error.code));
            Answer::error(&error).respond(false)
        }
        None => {
            let lag = match fault {
                Some(FaultKind::StaleRead { revisions }) => revisions,
                _ => 0,
            };
            let author = Author { user_agent: &head.user_agent, content_type: &head.content_type };
            let answer = match list::wait_for_version(shared, &route.query).await {
                Ok(()) if reads(route) => shared.read(|state| read(state, route, lag)),
                Ok(()) => shared.write(|state| operate(state, route, (identity, author), &body)),
                Err(error) => Err(error),
            };
            let answer = answer.unwrap_or_else(|error| Answer::error(&error));
            head.record(shared, Some(route), &identity.name, outcome(answer.code));
            answer.respond(fault == Some(FaultKind::TruncateBody))
        }
    };
    if closes { Err(Closed) } else { Ok(response) }
}

fn authorize(state: &State, identity: &Identity, route: &Route) -> Result<(), ApiError> {
    let resource = route.resource();
    // Everyone may ask what they may do.
    let open = route.kind.resource == "selfsubjectaccessreviews";
    if open || state.auth.allows(identity, route.verb, &resource, &route.namespace) {
        return Ok(());
    }
    let place = if route.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", route.namespace)
    };
    let cause = format!(
        "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
        identity.name, route.verb, route.kind.group
    );
    Err(ApiError::forbidden(route.kind.subject(&route.name), &cause))
}

/// The error that a fault answers with instead of performing the request.
fn fault_error(fault: &FaultKind, route: &Route) -> Option<ApiError> {
    let subject: Subject<'_> = route.kind.subject(&route.name);
    match fault {
        FaultKind::Conflict => {
            let cause = "the object has been modified; please apply your changes to the latest version and try again";
            Some(ApiError::conflict(subject, cause))
        }
        FaultKind::Expired => {
            Some(ApiError::expired("The resourceVersion for the provided watch is too old."))
        }
        FaultKind::TooManyRequests { retry_after } => {
            let message =
                "The server has received too many requests and has asked us to try again later";
            Some(ApiError::too_many_requests(message, retry_after.as_secs()))
        }
        FaultKind::InternalError => Some(ApiError::internal("injected fault")),
        FaultKind::ServiceUnavailable => {
            let message = "the server is currently unable to handle the request";
            Some(ApiError::new(503, "ServiceUnavailable", message))
        }
        FaultKind::GatewayTimeout => {
            let message = "the server was unable to return a response in the time allotted, but may still be \
                processing the request";
            Some(ApiError::new(504, "Timeout", message))
        }
        FaultKind::CloseBefore
        | FaultKind::CloseAfter
        | FaultKind::Delay(_)
        | FaultKind::TruncateBody
        | FaultKind::WatchEnds
        | FaultKind::WatchStalls
        | FaultKind::StaleRead { .. } => None,
    }
}

async fn read_body(request: Request<Incoming>, content_type: &str) -> Result<Value, ApiError> {
    // Patches check their own formats.
    let is_json = content_type.is_empty()
        || content_type.contains("json")
        || request.method() == hyper::Method::PATCH;
    let body =
        Limited::new(request.into_body(), BODY_LIMIT_BYTES).collect().await.map_err(|_| {
            let message = format!("Request entity too large: limit is {BODY_LIMIT_BYTES}");
            ApiError::new(413, "RequestEntityTooLarge", message)
        })?;
    let bytes = body.to_bytes();
    if bytes.is_empty() {
        return Ok(json!({}));
    }
    if !is_json {
        let message = "the body of the request was in an unknown format - accepted media types include: \
            application/json";
        return Err(ApiError::new(415, "UnsupportedMediaType", message));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("json parse error: {error}")))
}

fn reads(route: &Route) -> bool {
    matches!(route.verb, "get" | "list")
}

fn read(state: &State, route: &Route, lag: u64) -> Result<Answer, ApiError> {
    let body = match (route.verb, route.subresource.as_str()) {
        ("list", "") if route.kind.stored => list::list(state, route, lag)?,
        ("get", "") => list::get(state, route, lag)?,
        ("get", "status") if route.kind.status => list::get(state, route, lag)?,
        _ => return Err(ApiError::no_such_path()),
    };
    Ok(Answer::new(200, body))
}

fn operate(
    state: &mut State,
    route: &Route,
    (identity, author): (&Identity, Author<'_>),
    body: &Value,
) -> Result<Answer, ApiError> {
    // Warnings of a request that failed must not reach the next one.
    drop(state.registry.take_warnings());
    let resource = route.resource();
    match (route.verb, route.subresource.as_str()) {
        ("create", "") if !route.kind.stored => reviews::answer(state, route, identity, body),
        ("create", "") if route.name.is_empty() => objects::create(state, route, author, body),
        ("create", "eviction") if resource == "pods/eviction" => {
            subresources::evict(state, route, body)
        }
        ("create", "token") if resource == "serviceaccounts/token" => {
            subresources::token(state, route, body)
        }
        ("update", "") => objects::update(state, route, author, body),
        ("patch", "") => objects::patch(state, route, author, body),
        ("update", "status") if route.kind.status => objects::update(state, route, author, body),
        ("patch", "status") if route.kind.status => objects::patch(state, route, author, body),
        ("delete", "") => objects::delete(state, route, body),
        ("deletecollection", "") => objects::delete_collection(state, route, body),
        (_, "") => Err(ApiError::method_not_allowed()),
        _ => Err(ApiError::no_such_path()),
    }
}
