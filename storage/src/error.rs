//! Errors of storage, with hints for the user.
//!
//! A store's complete reply is never shown, because it may repeat parts of the signed request.

use crate::allow::Refused;
use crate::hub;
use crate::kind::Kind;
use object_store::client::{HttpError, HttpErrorKind};
use thiserror::Error;

/// An error of a storage operation.
#[derive(Debug, Error)]
pub enum Error {
    /// The location cannot be used as storage.
    #[error("`{url}` cannot be used as storage: {reason}")]
    Location {
        /// The URL as given.
        url: String,
        /// The reason, and possibly a hint.
        reason: String,
        /// The error of the operating system, if any.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The object does not exist.
    #[error("`{url}/{key}` does not exist")]
    NotFound {
        /// The storage.
        url: String,
        /// The object.
        key: String,
    },
    /// The object is no longer the one that was pinned.
    #[error("`{url}/{key}` has changed since the run began\nhint: start the run again")]
    Changed {
        /// The storage.
        url: String,
        /// The object.
        key: String,
    },
    /// The bytes that arrived, or that are stored, are not the bytes that were sent.
    #[error("`{url}/{key}` is damaged: {what}\nhint: {DAMAGED}")]
    Damaged {
        /// The storage.
        url: String,
        /// The object.
        key: String,
        /// How the damage was detected.
        what: String,
    },
    /// The store refused the request or could not be reached.
    #[error("cannot {verb} `{url}/{key}`")]
    Access {
        /// The operation.
        verb: &'static str,
        /// The storage.
        url: String,
        /// The object.
        key: String,
        /// The cause.
        #[source]
        source: Cause,
    },
}

impl Error {
    /// Whether the location does not exist or this user may not access it, so that trying again does not help.
    pub fn is_users(&self) -> bool {
        match self {
            Error::Location { .. } | Error::NotFound { .. } => true,
            Error::Access { source, .. } => match source {
                Cause::Answer { status, .. } => (400..500).contains(status),
                Cause::NoCredentials { .. }
                | Cause::Region
                | Cause::Special(_)
                | Cause::Refused(_) => true,
                Cause::Hub(source) => source.is_users(),
                Cause::Store(error) => is_denied(&**error),
                Cause::Unreachable { .. } => false,
            },
            Error::Changed { .. } | Error::Damaged { .. } => false,
        }
    }

    /// Whether the cause may be fixed by someone while the same request is repeated: an outage, a full disk, a
    /// missing permission.
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
                Cause::NoCredentials { .. }
                | Cause::Region
                | Cause::Special(_)
                | Cause::Refused(_)
                | Cause::Hub(_) => false,
            },
            Error::Location { .. }
            | Error::NotFound { .. }
            | Error::Changed { .. }
            | Error::Damaged { .. } => false,
        }
    }

    /// Whether the same request may succeed a moment later, although the client does not retry it by itself.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Error::Damaged { .. } => true,
            Error::Access { source, .. } => match source {
                Cause::Answer { status, code, .. } => {
                    [409, 412, 429].contains(status) || *status >= 500 || code == "BadDigest"
                }
                Cause::Unreachable { .. } => true,
                Cause::Store(error) => error.to_string().contains(GARBLED),
                Cause::NoCredentials { .. }
                | Cause::Region
                | Cause::Special(_)
                | Cause::Refused(_)
                | Cause::Hub(_) => false,
            },
            Error::Location { .. } | Error::NotFound { .. } | Error::Changed { .. } => false,
        }
    }
}

/// The beginning of object_store's error for a successful reply that it cannot parse, because it was truncated or
/// damaged on its way.
const GARBLED: &str = "Got invalid ";

const DAMAGED: &str =
    "try again; if it stays damaged, the stored object is damaged, or the connection damages data";

/// Why a store did not perform an operation.
#[derive(Debug, Error)]
pub enum Cause {
    /// The store replied with an error.
    #[error("the store answers {status}{}{}", spaced(.code), hinted(.hint))]
    Answer {
        /// The HTTP status.
        status: u16,
        /// The store's error code. Empty if it sent none.
        code: String,
        /// How to fix the most likely cause.
        hint: Option<&'static str>,
    },
    /// There are no credentials to sign requests with.
    #[error("there are no credentials\nhint: {hint}")]
    NoCredentials {
        /// How to set credentials.
        hint: &'static str,
    },
    /// The bucket is in another region.
    #[error("the bucket is in another region\nhint: set AWS_REGION to the bucket's region")]
    Region,
    /// A fifo, a device or a socket on a disk.
    #[error("it is {0}, not a regular file\nhint: write its content to a file, and name that")]
    Special(&'static str),
    /// A spec may not name it.
    #[error(transparent)]
    Refused(Refused),
    /// There was no reply.
    #[error("{what}\nhint: {hint}")]
    Unreachable {
        /// What happened.
        what: String,
        /// What to check.
        hint: &'static str,
    },
    /// An error of the Hugging Face hub.
    #[error(transparent)]
    Hub(hub::Error),
    /// Any other error of object_store.
    #[error(transparent)]
    Store(Box<object_store::Error>),
}

/// Determines the cause of an error of a store of this kind.
pub(crate) fn explain(kind: Kind, error: object_store::Error) -> Cause {
    let error = match error {
        object_store::Error::Generic { store, source } => match source.downcast::<hub::Error>() {
            Ok(error) => return Cause::Hub(*error),
            Err(source) => object_store::Error::Generic { store, source },
        },
        error => error,
    };
    let text = error.to_string();
    // Without credentials in the environment, object_store asks the metadata service of the cloud. If that fails,
    // there are no credentials.
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
    if let Some(refused) = Refused::among(&error) {
        return Cause::Refused(refused);
    }
    let Some(http) = http(&error) else {
        return Cause::Store(Box::new(error));
    };
    if text.contains(NOT_SHOWN) {
        let what = format!("credentials could not be requested{}", deepest(&error));
        return Cause::Unreachable { what, hint: kind.identity() };
    }
    let what = match http {
        HttpErrorKind::Timeout => "there was no answer in time",
        HttpErrorKind::Connect => "the store cannot be reached",
        _ => "the connection broke",
    };
    Cause::Unreachable { what: format!("{what}{}", deepest(&error)), hint: kind.address() }
}

/// The cause for an error reply with this status and body.
pub(crate) fn answered(kind: Kind, status: u16, body: &str) -> Cause {
    let code = element(body, "Code").unwrap_or_default();
    if is_elsewhere(code) {
        return Cause::Region;
    }
    Cause::Answer { status, code: code.to_owned(), hint: kind.hint(status, code) }
}

/// The cause for a request without a reply. The URL is not shown, because it contains a signature.
pub(crate) fn unreachable(kind: Kind, error: reqwest::Error) -> Cause {
    let what = match &error {
        e if e.is_timeout() => "there was no answer in time",
        e if e.is_connect() => "the store cannot be reached",
        _ => "the connection broke",
    };
    Cause::Unreachable { what: format!("{what}{}", deepest(&error)), hint: kind.address() }
}

/// Parts of the URLs of metadata services: those of AWS, of containers on AWS, of Google and of Azure.
const METADATA_SERVICES: [&str; 5] = [
    "/latest/api/token",
    "/latest/meta-data/iam/",
    "169.254.170.2",
    "/computeMetadata/",
    "/metadata/identity/",
];

/// The text with which object_store replaces a URL that contains a secret: that of a service that issues credentials.
const NOT_SHOWN: &str = "REDACTED";

/// Whether the error says that the bucket itself does not exist.
pub(crate) fn names_a_bucket(error: &(dyn std::error::Error + 'static)) -> bool {
    let text = error.to_string();
    let code = answer(&text).and_then(|(_, body)| element(body, "Code"));
    matches!(code, Some("NoSuchBucket" | "ContainerNotFound"))
}

/// Parses status and body of a reply out of an error's text, because object_store does not expose them otherwise.
fn answer(text: &str) -> Option<(u16, &str)> {
    let (_, rest) = text.split_once("status code: ")?;
    let status = rest.get(..3)?.parse().ok()?;
    Some((status, rest))
}

/// The text of an XML element. S3, Google and Azure all reply with `<Error><Code>...`.
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

/// The innermost error of the operating system as text with a leading colon, or an empty text if there is none.
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
