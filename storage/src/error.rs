//! What can go wrong with storage, and what a store's answer means for whoever runs Muster.
//!
//! A store's whole answer is never told: it repeats parts of the signed request.

use crate::hub;
use crate::kind::Kind;
use object_store::client::{HttpError, HttpErrorKind};
use thiserror::Error;

/// What can go wrong with storage.
#[derive(Debug, Error)]
pub enum Error {
    /// The location cannot be used at all.
    #[error("`{url}` cannot be used as storage: {reason}")]
    Location {
        /// As given.
        url: String,
        /// Why, and perhaps a hint.
        reason: String,
        /// The operating system's word, where there is one.
        #[source]
        source: Option<std::io::Error>,
    },
    /// There is no such object.
    #[error("`{url}/{key}` does not exist")]
    NotFound {
        /// The storage.
        url: String,
        /// The object.
        key: String,
    },
    /// The object is no longer what it was.
    #[error("`{url}/{key}` has changed since the run began\nhint: start the run again")]
    Changed {
        /// The storage.
        url: String,
        /// The object.
        key: String,
    },
    /// What came, or what was stored, is not what was sent.
    #[error("`{url}/{key}` is damaged: {what}\nhint: {DAMAGED}")]
    Damaged {
        /// The storage.
        url: String,
        /// The object.
        key: String,
        /// How it shows.
        what: String,
    },
    /// The store refused or broke.
    #[error("cannot {verb} `{url}/{key}`")]
    Access {
        /// What was tried.
        verb: &'static str,
        /// The storage.
        url: String,
        /// The object.
        key: String,
        /// The store's word.
        #[source]
        source: Cause,
    },
}

impl Error {
    /// Whether what was named is not there, or not for this user: nothing that trying again would mend.
    pub fn is_users(&self) -> bool {
        match self {
            Error::Location { .. } | Error::NotFound { .. } => true,
            Error::Access { source, .. } => match source {
                Cause::Answer { status, .. } => (400..500).contains(status),
                Cause::NoCredentials { .. } | Cause::Region | Cause::Special(_) => true,
                Cause::Hub(source) => source.is_users(),
                Cause::Store(error) => is_denied(&**error),
                Cause::Unreachable { .. } => false,
            },
            Error::Changed { .. } | Error::Damaged { .. } => false,
        }
    }

    /// Whether somebody can mend what is wrong while the same request is tried again: an outage, a full disk, a right
    /// that is missing.
    pub fn can_be_mended(&self) -> bool {
        match self {
            Error::Access { source, .. } => match source {
                Cause::Answer { status, .. } => {
                    [401, 403, 404, 408, 409, 412, 429].contains(status) || *status >= 500
                }
                Cause::Unreachable { .. } => true,
                Cause::Store(error) => !matches!(
                    **error,
                    object_store::Error::InvalidPath { .. }
                        | object_store::Error::NotSupported { .. }
                        | object_store::Error::NotImplemented { .. }
                ),
                Cause::NoCredentials { .. } | Cause::Region | Cause::Special(_) | Cause::Hub(_) => {
                    false
                }
            },
            Error::Location { .. }
            | Error::NotFound { .. }
            | Error::Changed { .. }
            | Error::Damaged { .. } => false,
        }
    }

    /// Whether the same request may go better a moment later, though a client does not try it again by itself.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Error::Damaged { .. } => true,
            Error::Access { source, .. } => match source {
                Cause::Answer { status, code, .. } => {
                    [409, 412, 429].contains(status) || *status >= 500 || code == "BadDigest"
                }
                Cause::Unreachable { .. } => true,
                Cause::Store(error) => error.to_string().contains(GARBLED),
                Cause::NoCredentials { .. } | Cause::Region | Cause::Special(_) | Cause::Hub(_) => {
                    false
                }
            },
            Error::Location { .. } | Error::NotFound { .. } | Error::Changed { .. } => false,
        }
    }
}

/// What object_store says of an answer that began well and makes no sense: cut short, or damaged on its way.
const GARBLED: &str = "Got invalid ";

const DAMAGED: &str =
    "try again; what stays damaged is so where it is stored, or what lies between damages it";

/// Why a store did not do what it was asked.
#[derive(Debug, Error)]
pub enum Cause {
    /// It answered with an error.
    #[error("the store answers {status}{}{}", spaced(.code), hinted(.hint))]
    Answer {
        /// The HTTP status.
        status: u16,
        /// The store's name for it, where it gave one.
        code: String,
        /// What usually mends it.
        hint: Option<&'static str>,
    },
    /// There was nothing to sign a request with.
    #[error("there are no credentials\nhint: {hint}")]
    NoCredentials {
        /// Where they are looked for.
        hint: &'static str,
    },
    /// The bucket lies in another region.
    #[error("the bucket is in another region\nhint: set AWS_REGION to the bucket's")]
    Region,
    /// A fifo, a device or a socket on a disk.
    #[error("it is {0}, not a regular file\nhint: write its content to a file, and name that")]
    Special(&'static str),
    /// Nobody answered.
    #[error("{what}\nhint: {hint}")]
    Unreachable {
        /// How it went.
        what: String,
        /// What to look at.
        hint: &'static str,
    },
    /// The hub refused or broke.
    #[error(transparent)]
    Hub(hub::Error),
    /// Anything else, in the words of whoever noticed it.
    #[error(transparent)]
    Store(Box<object_store::Error>),
}

/// What `error` of a store of this kind comes to.
pub(crate) fn explain(kind: Kind, error: object_store::Error) -> Cause {
    let error = match error {
        object_store::Error::Generic { store, source } => match source.downcast::<hub::Error>() {
            Ok(error) => return Cause::Hub(*error),
            Err(source) => object_store::Error::Generic { store, source },
        },
        error => error,
    };
    let text = error.to_string();
    // Who has no credentials is asked by object_store to be a machine in the cloud, whose metadata service has some.
    if METADATA_SERVICES.iter().any(|path| text.contains(path))
        && let Some(hint) = kind.credentials()
    {
        return Cause::NoCredentials { hint };
    }
    if let Some((status, body)) = answer(&text) {
        return answered(kind, status, body);
    }
    if text.contains("redirect without LOCATION") {
        return Cause::Region;
    }
    let Some(http) = http(&error) else {
        return Cause::Store(Box::new(error));
    };
    if text.contains(NOT_SHOWN) {
        let what = format!("credentials could not be asked for{}", deepest(&error));
        return Cause::Unreachable { what, hint: kind.identity() };
    }
    let what = match http {
        HttpErrorKind::Timeout => "there was no answer in time",
        HttpErrorKind::Connect => "nobody can be reached there",
        _ => "the connection broke",
    };
    Cause::Unreachable { what: format!("{what}{}", deepest(&error)), hint: kind.address() }
}

/// What an answer with an error comes to.
pub(crate) fn answered(kind: Kind, status: u16, body: &str) -> Cause {
    let code = element(body, "Code").unwrap_or_default();
    if is_elsewhere(code) {
        return Cause::Region;
    }
    Cause::Answer { status, code: code.to_owned(), hint: kind.hint(status, code) }
}

/// What no answer comes to. The address is not told: it is signed.
pub(crate) fn unreachable(kind: Kind, error: reqwest::Error) -> Cause {
    let what = match &error {
        e if e.is_timeout() => "there was no answer in time",
        e if e.is_connect() => "nobody can be reached there",
        _ => "the connection broke",
    };
    Cause::Unreachable { what: format!("{what}{}", deepest(&error)), hint: kind.address() }
}

/// What is asked of the metadata services of AWS, of its containers, of Google and of Azure.
const METADATA_SERVICES: [&str; 5] = [
    "/latest/api/token",
    "/latest/meta-data/iam/",
    "169.254.170.2",
    "/computeMetadata/",
    "/metadata/identity/",
];

/// What object_store puts in the place of an address that has a secret in it: that of a service which gives credentials
/// for an identity.
const NOT_SHOWN: &str = "REDACTED";

/// Whether what is not there is the bucket itself.
pub(crate) fn names_a_bucket(error: &(dyn std::error::Error + 'static)) -> bool {
    let text = error.to_string();
    let code = answer(&text).and_then(|(_, body)| element(body, "Code"));
    matches!(code, Some("NoSuchBucket" | "ContainerNotFound"))
}

/// Status and body of an answer, which object_store tells only in words.
fn answer(text: &str) -> Option<(u16, &str)> {
    let (_, rest) = text.split_once("status code: ")?;
    let status = rest.get(..3)?.parse().ok()?;
    Some((status, rest))
}

/// The text of an XML element; S3, Google and Azure all answer `<Error><Code>...`.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    (text.len() < 100 && text.chars().all(|c| c.is_ascii_alphanumeric())).then_some(text)
}

fn is_elsewhere(code: &str) -> bool {
    ["AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"]
        .contains(&code)
}

fn http(error: &(dyn std::error::Error + 'static)) -> Option<HttpErrorKind> {
    causes(error).find_map(|e| e.downcast_ref::<HttpError>()).map(HttpError::kind)
}

/// Whether the operating system denied this user access.
fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let denied = |e: &std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
    causes(error).filter_map(|e| e.downcast_ref()).any(denied)
}

/// The operating system's word, where it comes to one.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let io = causes(error).filter_map(|e| e.downcast_ref::<std::io::Error>()).last();
    io.map(|e| format!(": {e}")).unwrap_or_default()
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |e| e.source())
}

fn spaced(code: &str) -> String {
    if code.is_empty() { String::new() } else { format!(" {code}") }
}

fn hinted(hint: &Option<&'static str>) -> String {
    hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default()
}
