//! `coordinator certs`: an authority, and certificates for a coordinator, its workers and its users.
//!
//! ```text
//! FOLDER/ca/            ca.crt, ca.key                 the authority; keep it away from all hosts
//! FOLDER/coordinator/   tls.crt, tls.key, ca.crt       for `serve --credentials`
//! FOLDER/worker/        the same                       may join
//! FOLDER/user/          the same                       may submit runs, and change its own
//! FOLDER/admin/         the same                       may do everything
//! FOLDER/job/           the same                       for all pods of a Job: the coordinator's names, and may join
//! ```

use super::{Blame, Exit, Outcome, Refusal};
use crate::service::certificate;
use crate::service::grants::Scope;
use crate::takeover::holder;
use anyhow::Context;
use clap::Args;
use proto::print;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

/// How long the authority's certificate is valid.
const AUTHORITY_DAYS: i64 = 3650;
/// How far clocks may differ.
const SKEW: Duration = Duration::HOUR;

#[derive(Args)]
pub(super) struct Arguments {
    /// Folder for the authority and the certificates; the same command renews the certificates in it
    folder: PathBuf,
    /// Name or address under which others reach the coordinator; may be repeated [default: those of the certificate
    /// that is renewed, or this host's name; `localhost` and the loopback addresses are always included]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Number of days for which the certificates are valid
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(i64).range(1..=3650))]
    days: i64,
    /// The beginning of the names of workers that may use the worker's certificate [default: any name]
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    worker_prefix: String,
    /// Name of the user, which is recorded with the runs that they submit
    #[arg(long, value_name = "NAME", default_value = "user")]
    user: String,
}

pub(super) fn certs(arguments: &Arguments) -> Outcome {
    let authority = Authority::open_or_make(&arguments.folder.join("ca"))?;
    let folder = |name| arguments.folder.join(name);
    let hosts = hosts(arguments, &folder("coordinator"))?;
    let days = arguments.days;
    let mut issued = Vec::new();
    let mut issue = |name, common, names, server| {
        issued.push(folder(name));
        authority.store(&folder(name), Wanted { common, names, server, days })
    };
    let role = |scope, prefix: &str| uri(&certificate::uri(scope, prefix));
    let mut both = hosts.clone();
    both.push(role(Scope::Join, &arguments.worker_prefix)?);
    issue("coordinator", "coordinator", hosts, true)?;
    issue("job", "job", both, true)?;
    issue("worker", "worker", vec![role(Scope::Join, &arguments.worker_prefix)?], false)?;
    issue("user", &arguments.user, vec![role(Scope::Submit, "")?], false)?;
    issue("admin", "admin", vec![role(Scope::Admin, "")?], false)?;
    for folder in issued {
        print::line(folder.display())?;
    }
    Ok(Exit::Done)
}

/// The alternative names of the coordinator's certificate.
fn hosts(arguments: &Arguments, folder: &Path) -> Result<Vec<SanType>, Refusal> {
    let mut hosts = arguments.hosts.clone();
    if hosts.is_empty() {
        let before = wire::credentials::Folder::at(folder).identity().blame(Exit::User)?;
        let before = before.and_then(|(chain, _)| certificate::hosts(chain.first()?).ok());
        hosts = before.unwrap_or_else(|| vec![holder::host()]);
    }
    for always in ["localhost", "127.0.0.1", "::1"] {
        if !hosts.iter().any(|host| host == always) {
            hosts.push(always.to_owned());
        }
    }
    hosts.iter().map(|host| host_name(host)).collect()
}

/// A host as an alternative name of a certificate.
pub(super) fn host_name(host: &str) -> Result<SanType, Refusal> {
    if let Ok(address) = host.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let name = host.try_into().map(SanType::DnsName);
    name.with_context(|| format!("`{host}` is neither a name nor an address")).blame(Exit::User)
}

/// A URI as an alternative name of a certificate.
pub(super) fn uri(text: &str) -> Result<SanType, Refusal> {
    let uri = text.try_into().map(SanType::URI);
    uri.with_context(|| format!("`{text}` cannot be part of a certificate")).blame(Exit::User)
}

/// Issues certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, in PEM form.
    pub(super) certificate: String,
}

/// A certificate to issue.
pub(super) struct Wanted<'a> {
    pub(super) common: &'a str,
    pub(super) names: Vec<SanType>,
    /// Whether it is a server's, too.
    pub(super) server: bool,
    pub(super) days: i64,
}

/// A certificate and its private key, in PEM form.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    /// Reads the authority in `folder`, or makes one.
    fn open_or_make(folder: &Path) -> Result<Self, Refusal> {
        let (certificate, key) = (folder.join("ca.crt"), folder.join("ca.key"));
        if key.exists() {
            let read =
                |path: &Path| fs::read_to_string(path).with_context(|| path.display().to_string());
            let pair = KeyPair::from_pem(&read(&key).blame(Exit::User)?)
                .with_context(|| key.display().to_string())
                .blame(Exit::User)?;
            let certificate = read(&certificate).blame(Exit::User)?;
            let named = CertificateDer::from_pem_slice(certificate.as_bytes())
                .map_err(anyhow::Error::from)
                .and_then(|der| Ok(certificate::Holder::read(&der)?.name));
            let name = named.with_context(|| folder.join("ca.crt").display().to_string());
            let params = authority(&name.blame(Exit::User)?);
            return Ok(Self { issuer: Issuer::new(params, pair), certificate });
        }
        let made = Self::make()?;
        store(&key, &made.issuer.key().serialize_pem(), SECRET)?;
        store(&certificate, &made.certificate, PUBLIC)?;
        Ok(made)
    }

    /// Makes an authority, of which nothing is stored.
    pub(super) fn make() -> Result<Self, Refusal> {
        // Errors about certificates are clearer if no two authorities have the same name.
        let params = authority(&format!("Muster authority {}", &proto::id::unique()[..8]));
        let pair = KeyPair::generate().blame(Exit::Infrastructure)?;
        let certificate = params.self_signed(&pair).blame(Exit::Infrastructure)?.pem();
        Ok(Self { issuer: Issuer::new(params, pair), certificate })
    }

    /// Issues a certificate with a new key.
    pub(super) fn issue(&self, wanted: Wanted<'_>) -> Result<Issued, Refusal> {
        let mut params = params(wanted.common, wanted.days);
        params.subject_alt_names = wanted.names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if wanted.server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let pair = KeyPair::generate().blame(Exit::Infrastructure)?;
        let issued = params.signed_by(&pair, &self.issuer).blame(Exit::Infrastructure)?;
        Ok(Issued { certificate: issued.pem(), key: pair.serialize_pem() })
    }

    /// Issues a certificate with a new key, and stores both in `folder`.
    fn store(&self, folder: &Path, wanted: Wanted<'_>) -> Result<(), Refusal> {
        let Issued { certificate, key } = self.issue(wanted)?;
        store(&folder.join("ca.crt"), &self.certificate, PUBLIC)?;
        store(&folder.join("tls.key"), &key, SECRET)?;
        store(&folder.join("tls.crt"), &certificate, PUBLIC)
    }
}

/// The certificate of an authority with this name.
fn authority(name: &str) -> CertificateParams {
    let mut params = params(name, AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(common: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + Duration::days(days);
    params
}

/// The access mode of private keys and tokens.
pub(super) const SECRET: u32 = 0o600;
/// The access mode of certificates.
const PUBLIC: u32 = 0o644;

/// Writes a file through another one, so that readers see the old contents or the new ones.
pub(super) fn store(path: &Path, text: &str, mode: u32) -> Result<(), Refusal> {
    let written = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let next = path.with_extension("new");
        // Left by an earlier attempt, perhaps with other access modes.
        let _ = fs::remove_file(&next);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, path)
    };
    written().with_context(|| format!("`{}` cannot be written", path.display())).blame(Exit::User)
}
