//! What a caller may do: the grants of certificates and tokens, and the check of every request against them.
//!
//! A request is allowed if everything that the coordinator asks for allows it. With client certificates, the
//! certificate must; with a list of tokens, the token must; with both, both must. A coordinator that asks for nothing
//! allows everything, and listens on the loopback only unless the user insists.

use super::accept::Origin;
use super::grants::{Grants, Runs};
use super::reload::Reloaded;
use super::reviews::{Reviews, Unreviewed};
use super::tokens::{Entry, Refusal, Tokens};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;
use wire::connect::AUTHORIZATION;

/// Requests about runs that one caller may make in a second.
const RATE: f64 = 200.0;
/// Requests that it may make at once after a pause.
const BURST: f64 = 1000.0;

/// A party that makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The name in its certificate or token; `None` if the coordinator asks for neither.
    pub(crate) name: Option<String>,
    pub(crate) grants: Grants,
    /// Whether only a number may follow the beginning of a worker's name.
    of_pod: bool,
}

impl Caller {
    /// Checks that the caller may be a worker of this name.
    ///
    /// # Errors
    /// The status for the caller.
    pub(crate) fn check_worker(&self, worker: &str) -> Result<(), Status> {
        match &self.grants.join {
            Some(prefix) if self.covers(prefix, worker) => Ok(()),
            Some(prefix) => Err(Status::permission_denied(format!(
                "these credentials are for workers whose names begin with `{prefix}`, not for `{worker}`\n\
                 hint: name the node so with --name, or use credentials for its name"
            ))),
            None => Err(Status::permission_denied("these credentials do not allow to join")),
        }
    }

    fn covers(&self, prefix: &str, worker: &str) -> bool {
        let is_rank = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
        let rest = worker.strip_prefix(prefix);
        rest.is_some_and(|rest| !self.of_pod || is_rank(rest))
    }

    /// Checks that the caller may change a run that `submitter` has submitted.
    ///
    /// # Errors
    /// The status for the caller.
    pub(crate) fn check_change(&self, submitter: Option<&str>) -> Result<(), Status> {
        let own = self.name.is_some() && self.name.as_deref() == submitter;
        match self.grants.runs {
            Runs::All => Ok(()),
            Runs::Own if own => Ok(()),
            Runs::Own | Runs::None => {
                let by = submitter.unwrap_or("somebody unknown");
                let error = format!(
                    "this run was submitted by {by}, and only they or an admin may change it"
                );
                Err(Status::permission_denied(error))
            }
        }
    }
}

/// The checks that a coordinator makes before it handles a request.
pub(crate) struct Access {
    /// Whether every connection has a verified client certificate.
    certificates: bool,
    tokens: Option<Reloaded<Tokens>>,
    /// Who vouches for tokens that are not in the list.
    reviews: Option<Reviews>,
    rates: Mutex<BTreeMap<Option<String>, Bucket>>,
}

/// What is left of a caller's requests, and when it was counted.
struct Bucket {
    left: f64,
    at: Instant,
}

impl Access {
    /// Asks for client certificates, for tokens of a list or of a cluster, for both, or for nothing.
    pub(crate) fn new(
        certificates: bool,
        tokens: Option<Reloaded<Tokens>>,
        reviews: Option<Reviews>,
    ) -> Self {
        Self { certificates, tokens, reviews, rates: Mutex::default() }
    }

    fn wants_tokens(&self) -> bool {
        self.tokens.is_some() || self.reviews.is_some()
    }

    /// Whether everybody who can connect may do everything.
    pub(crate) fn is_open(&self) -> bool {
        !self.certificates && !self.wants_tokens()
    }

    /// The credentials that it asks for, in words.
    pub(crate) fn wanted(&self) -> &'static str {
        match (self.certificates, self.wants_tokens()) {
            (true, true) => "clients need a certificate and a token",
            (true, false) => "clients need a certificate",
            (false, true) => "clients need a token",
            (false, false) => "no credentials are asked for",
        }
    }

    /// The entry of a token in the list, or the one for a pod whose token it is.
    async fn look_up(&self, token: String) -> Result<Entry, Status> {
        let refused = |refusal: Refusal| Err(Status::unauthenticated(refusal.to_string()));
        if let Some(tokens) = &self.tokens {
            match tokens.current().find(&token, chrono::Utc::now()) {
                Ok(entry) => return Ok(entry.clone()),
                Err(Refusal::Unknown) => {}
                Err(expired) => return refused(expired),
            }
        }
        let Some(reviews) = &self.reviews else { return refused(Refusal::Unknown) };
        match reviews.find(&token).await {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => refused(Refusal::Unknown),
            Err(Unreviewed::Busy) => Err(Status::resource_exhausted(Unreviewed::Busy.to_string())),
            Err(error) => {
                let error = proto::error::chain(&error);
                tracing::warn!(error, "a token could not be reviewed");
                Err(Status::unavailable("the cluster could not be asked about this token"))
            }
        }
    }

    /// Who makes a request, and whether it may. `token` is the entry of its token, if tokens are asked for.
    fn admit(
        &self,
        request: &Request,
        token: Option<Result<Entry, Status>>,
    ) -> Result<Caller, Status> {
        let origin = request.extensions().get::<Origin>();
        let need = need(request.uri().path());
        if need == Need::Nothing {
            return Ok(Caller { name: None, grants: Grants::none(), of_pod: false });
        }
        let mut caller = Caller { name: None, grants: Grants::all(), of_pod: false };
        if self.certificates {
            let certificate = origin.and_then(|origin| origin.certificate.as_deref());
            let found = certificate
                .ok_or_else(|| Status::unauthenticated("there is no client certificate"))?;
            let (name, grants) = (Some(found.name.clone()), found.grants.clone());
            caller = Caller { name, grants, of_pod: false };
        }
        if let Some(token) = token {
            let entry = token.inspect_err(|status| {
                let address = origin.map(|origin| origin.address.to_string());
                tracing::warn!(address, reason = status.message(), "refused a token");
            })?;
            let grants = caller.grants.and(&entry.grants());
            caller = Caller { name: Some(entry.name.clone()), grants, of_pod: entry.of_pod };
        }
        match need {
            Need::Nothing => {}
            Need::Join if caller.grants.join.is_some() => {}
            Need::Runs if caller.grants.runs > Runs::None => self.count(&caller)?,
            Need::Join => return Err(not_allowed(&caller, "join as a worker (scope `join`)")),
            Need::Runs => {
                return Err(not_allowed(
                    &caller,
                    "submit and see runs (scope `submit` or `admin`)",
                ));
            }
        }
        if let Some(origin) = origin {
            origin.proof.set();
        }
        Ok(caller)
    }

    /// Counts a request about runs, and refuses it if the caller makes too many.
    fn count(&self, caller: &Caller) -> Result<(), Status> {
        let mut rates = self.rates.lock().expect("nothing panics while it holds the lock");
        let now = Instant::now();
        // A full bucket needs no entry.
        let refilled = Duration::from_secs_f64(BURST / RATE);
        rates.retain(|_, bucket| now.duration_since(bucket.at) < refilled);
        let bucket = rates.entry(caller.name.clone()).or_insert(Bucket { left: BURST, at: now });
        let refill = now.duration_since(bucket.at).as_secs_f64() * RATE;
        bucket.left = (bucket.left + refill).min(BURST) - 1.0;
        bucket.at = now;
        if bucket.left < 0.0 {
            bucket.left = 0.0;
            return Err(Status::resource_exhausted(format!(
                "more than {RATE} requests in a second; try again"
            )));
        }
        Ok(())
    }
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Any connection will do.
    Nothing,
    /// A worker's credentials.
    Join,
    /// A user's credentials. Requests that change a run are checked further by the service.
    Runs,
}

/// What requests to a path need. Unknown paths need what most do.
fn need(path: &str) -> Need {
    match path {
        "/muster.v1.Workers/Session" => Need::Join,
        // Another coordinator asks before it takes over; the answer is known to all who can read the output.
        "/muster.v1.Runs/Holds" => Need::Nothing,
        path if path.starts_with("/grpc.health.v1.Health/") => Need::Nothing,
        path if path.starts_with("/grpc.reflection.") => Need::Nothing,
        _ => Need::Runs,
    }
}

fn bearer(request: &Request) -> Result<String, Status> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer "));
    token.map(str::to_owned).ok_or_else(|| {
        Status::unauthenticated(
            "the coordinator asks for a token\n\
             hint: `coordinator token` makes one; put it into the file `token` in the folder of --credentials",
        )
    })
}

fn not_allowed(caller: &Caller, what: &str) -> Status {
    let name = caller.name.as_deref().unwrap_or("this caller");
    Status::permission_denied(format!("`{name}` is not allowed to {what}"))
}

/// Checks a request, and passes it on with its [`Caller`].
pub(crate) async fn guard(
    State(access): State<Arc<Access>>,
    mut request: Request,
    next: Next,
) -> Response {
    // The request itself cannot be lent across the wait.
    let token = match access.wants_tokens() && need(request.uri().path()) != Need::Nothing {
        true => Some(bearer(&request)),
        false => None,
    };
    let token = match token {
        Some(Ok(token)) => Some(access.look_up(token).await),
        Some(Err(status)) => Some(Err(status)),
        None => None,
    };
    match access.admit(&request, token) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(status) => status.into_http(),
    }
}
