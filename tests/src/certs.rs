//! Credentials for a coordinator, its workers and its users, as `coordinator certs` and `coordinator token` make them.

use crate::{Process, programs};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use wire::credentials::Credentials;

/// A folder with the credentials of a pool.
pub struct Certs(TempDir);

impl Certs {
    /// Makes an authority and certificates.
    pub fn new(arguments: &[&str]) -> Self {
        let certs = Self(tempfile::tempdir().expect("a temporary folder"));
        certs.renew(arguments);
        certs
    }

    /// Renews the certificates.
    pub fn renew(&self, arguments: &[&str]) {
        let folder = self.0.path().to_str().expect("a temporary path");
        let all = [&["certs", folder], arguments].concat();
        Process::start(&programs::coordinator(), &all).end_with_text(0);
    }

    /// The folder of one party: `coordinator`, `worker`, `user`, `admin`, or one that [`issue`](Self::issue) has made.
    pub fn folder(&self, party: &str) -> String {
        self.0.path().join(party).display().to_string()
    }

    /// Makes a token for a party, and stores it in the party's folder.
    pub fn token(&self, party: &str, scope: &str, arguments: &[&str]) {
        let (folder, to) = (self.folder("coordinator"), self.folder(party));
        let token = ["token", &folder, "--scope", scope, "--name", party, "--to", &to];
        let all = [&token[..], arguments].concat();
        Process::start(&programs::coordinator(), &all).end_with_text(0);
    }

    /// The credentials of a party.
    pub fn client(&self, party: &str) -> Credentials {
        Credentials::new(Some(self.folder(party).into()), false)
    }

    /// Issues a certificate that expires at a time of the caller's choice, with a URI for what it allows.
    pub fn issue(&self, party: &str, uri: &str, expires: SystemTime) {
        self.issue_with(party, &[], uri, expires);
    }

    /// The same for a party that is also a server, with these host names.
    pub fn issue_with(&self, party: &str, hosts: &[&str], uri: &str, expires: SystemTime) {
        let read = |name: &str| {
            fs::read_to_string(self.0.path().join("ca").join(name)).expect("the authority")
        };
        let key = KeyPair::from_pem(&read("ca.key")).expect("the authority's key");
        let issuer = Issuer::new(named(&self.authority()), key);
        let mut params = named(party);
        let host = |host: &&str| SanType::DnsName((*host).try_into().expect("a host name"));
        params.subject_alt_names = hosts.iter().map(host).collect();
        params.subject_alt_names.push(SanType::URI(uri.try_into().expect("a URI")));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !hosts.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
        params.not_after = expires.into();
        let key = KeyPair::generate().expect("a key");
        let issued = params.signed_by(&key, &issuer).expect("a certificate");
        let folder = PathBuf::from(self.folder(party));
        fs::create_dir_all(&folder).expect("the folder");
        let write = |name: &str, text: &str| {
            let next = folder.join("next");
            fs::write(&next, text).expect("the folder can be written");
            fs::rename(&next, folder.join(name)).expect("the folder can be written");
        };
        write("ca.crt", &read("ca.crt"));
        write("tls.key", &key.serialize_pem());
        write("tls.crt", &issued.pem());
    }

    /// The name of the authority.
    fn authority(&self) -> String {
        let der = fs::read(self.0.path().join("ca/ca.crt")).expect("the authority");
        let text = String::from_utf8(der).expect("PEM");
        let body: String = text.lines().filter(|line| !line.starts_with("---")).collect();
        let der = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, body).expect("PEM");
        let text = String::from_utf8_lossy(&der);
        let begin = text.find("Muster authority").expect("its name");
        text[begin..begin + "Muster authority 12345678".len()].to_owned()
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
