//! What a client certificate says: who has it, what they may do, and until when.
//!
//! The name is the subject's common name. What it allows is in its alternative names, as URIs:
//!
//! ```text
//! muster:join           join as any worker          muster:submit    what the scope `submit` of a token allows
//! muster:join:PREFIX    join as a worker whose      muster:admin     what the scope `admin` of a token allows
//!                       name begins with PREFIX
//! ```
//!
//! `coordinator certs` issues such certificates; so can any other authority, such as cert-manager with its field
//! `uris`.

use super::grants::{Grants, Runs, Scope};
use rustls::pki_types::CertificateDer;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The common name's object identifier.
const COMMON_NAME: &str = "2.5.4.3";

/// A certificate that cannot be read.
#[derive(Debug, Error)]
#[error("the certificate cannot be read: {0}")]
pub(crate) struct Unreadable(String);

/// Who has a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) name: String,
    pub(crate) grants: Grants,
    pub(crate) expires: SystemTime,
}

impl Holder {
    /// Reads a certificate, whose signature has been verified.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let unreadable = |error: x509_cert::der::Error| Unreadable(error.to_string());
        let read = Certificate::from_der(certificate).map_err(unreadable)?;
        let body = read.tbs_certificate();
        let name = body.subject().iter().find_map(|part| {
            if part.oid.to_string() != COMMON_NAME {
                return None;
            }
            let utf8 = part.value.decode_as::<Utf8StringRef<'_>>().map(|s| s.as_str().to_owned());
            let text = utf8.or_else(|_| {
                part.value.decode_as::<PrintableStringRef<'_>>().map(|s| s.as_str().to_owned())
            });
            text.ok()
        });
        let mut grants = Grants::none();
        for name in alternative_names(&read)? {
            if let GeneralName::UniformResourceIdentifier(uri) = name {
                add(&mut grants, uri.as_str());
            }
        }
        let expires = body.validity().not_after.to_unix_duration();
        Ok(Self { name: name.unwrap_or_default(), grants, expires: UNIX_EPOCH + expires })
    }

    /// How long the certificate is still valid.
    pub(crate) fn remaining(&self) -> Duration {
        self.expires.duration_since(SystemTime::now()).unwrap_or_default()
    }
}

/// The names and addresses of hosts in a certificate.
///
/// # Errors
/// [`Unreadable`].
pub(crate) fn hosts(certificate: &CertificateDer<'_>) -> Result<Vec<String>, Unreadable> {
    let read = Certificate::from_der(certificate).map_err(|e| Unreadable(e.to_string()))?;
    let host = |name| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(octets) => {
            let octets = octets.as_bytes();
            let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    };
    Ok(alternative_names(&read)?.into_iter().filter_map(host).collect())
}

fn alternative_names(certificate: &Certificate) -> Result<Vec<GeneralName>, Unreadable> {
    let names = certificate.tbs_certificate().get_extension::<SubjectAltName>();
    let names = names.map_err(|e| Unreadable(e.to_string()))?;
    Ok(names.map_or(Vec::new(), |(_, names)| names.0))
}

/// The URI that allows what a scope allows.
pub(crate) fn uri(scope: Scope, prefix: &str) -> String {
    match prefix {
        "" => format!("muster:{}", scope.name()),
        prefix => format!("muster:{}:{prefix}", scope.name()),
    }
}

/// Adds what a URI allows. Others than ours allow nothing.
fn add(grants: &mut Grants, uri: &str) {
    let Some(role) = uri.strip_prefix("muster:") else { return };
    match role.split_once(':').unwrap_or((role, "")) {
        ("join", prefix) => grants.join = Some(prefix.to_owned()),
        ("submit", "") => grants.runs = grants.runs.max(Runs::Own),
        ("admin", "") => grants.runs = Runs::All,
        _ => {}
    }
}
