//! Which locations a spec may name, and which addresses are never asked.
//!
//! A spec comes from a user, but is carried out with the rights of the programs. Operators therefore limit with
//! `MUSTER_ALLOW` what specs may name: folders, buckets, hosts and repositories, separated by commas. Without it, a
//! spec may name everything. Operators' own locations, such as the output of a pool, are not limited.
//!
//! Addresses of one's own link, among them the metadata services of clouds, are never asked for a spec, whether they
//! are written in a URL, come from a redirect, or from resolving a name.

use proto::spec::{Location, Scheme, Spec};
use reqwest::Url;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

/// The variable with the list.
pub const VARIABLE: &str = "MUSTER_ALLOW";

/// What specs may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// `None` if everything is allowed.
    entries: Option<Vec<Entry>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    /// A folder and everything below it, by its real path.
    Folder(PathBuf),
    /// `hf://` and the beginning of a name.
    Hub(String),
    /// A bucket, container or host, and the beginning of a key. An empty text is every one of them.
    Url(Scheme, String),
}

/// Why a location is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not in the list.
    #[error("`{what}` may not be read\nhint: {VARIABLE} allows {allowed}")]
    Unlisted {
        /// The location, or the file to which it leads.
        what: String,
        /// The list.
        allowed: String,
    },
    /// It is an address of the host's own link.
    #[error("`{0}` is an address of this host's own network link, which is never asked")]
    Link(String),
    /// An encrypted connection is redirected to one that is not.
    #[error("it redirects to `{0}`, which is not encrypted")]
    Plain(String),
    /// A URL whose meaning depends on the server.
    #[error("`{0}` has an encoded slash")]
    Slash(String),
}

impl Refused {
    /// The refusal that caused an error, if one did.
    pub(crate) fn among(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut causes = std::iter::successors(Some(error), |e| e.source());
        causes.find_map(|e| e.downcast_ref::<Self>()).cloned()
    }
}

/// An entry of the list that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE}: `{entry}` {reason}")]
pub struct BadEntry {
    entry: String,
    reason: String,
}

impl Allowed {
    /// The list of this process, from its environment.
    ///
    /// # Errors
    /// [`BadEntry`].
    pub fn here() -> Result<&'static Self, BadEntry> {
        static HERE: OnceLock<Result<Allowed, BadEntry>> = OnceLock::new();
        let read = || match std::env::var(VARIABLE) {
            Ok(text) => Allowed::parse(&text),
            Err(_) => Ok(Allowed::default()),
        };
        HERE.get_or_init(read).as_ref().map_err(Clone::clone)
    }

    /// Parses a list. An empty text allows everything.
    ///
    /// # Errors
    /// [`BadEntry`].
    pub fn parse(text: &str) -> Result<Self, BadEntry> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let entries: Vec<_> = entries.map(Entry::parse).collect::<Result<_, _>>()?;
        Ok(Self { entries: (!entries.is_empty()).then_some(entries) })
    }

    /// Checks a location that a spec names.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self, location: &Location) -> Result<(), Refused> {
        match location {
            Location::File(path) => self.check_file(&real(&fixed(path))),
            Location::Hub(name) => {
                // A run has a commit of it, and an entry may have a revision.
                let name = name.unpinned();
                let name = Location::Hub(name).to_string();
                self.check_with(&location.to_string(), |entry| match entry {
                    Entry::Hub(prefix) => is_of_hub(&name["hf://".len()..], prefix),
                    Entry::Folder(_) | Entry::Url(..) => false,
                })
            }
            Location::Url { scheme: Scheme::Https | Scheme::Http, .. } => {
                let text = location.to_string();
                let url = Url::parse(&text).map_err(|_| self.unlisted(&text))?;
                self.check_url(&url)
            }
            Location::Url { scheme, path } => self.check_with(&location.to_string(), |entry| {
                let dots = path.split('/').any(|part| part == "." || part == "..");
                matches!(entry, Entry::Url(of, prefix) if of == scheme && is_below(path, prefix))
                    && !dots
            }),
        }
    }

    /// Checks everything that a spec names, except its output. The error begins with the field.
    ///
    /// # Errors
    /// [`Refused`], with the name of the field.
    pub fn check_spec(&self, spec: &Spec) -> Result<(), (String, Refused)> {
        for (field, location) in spec.inputs() {
            self.check(&location).map_err(|refused| (field, refused))?;
        }
        Ok(())
    }

    /// Checks a file by its real path, after all links.
    ///
    /// # Errors
    /// [`Refused::Unlisted`].
    pub fn check_file(&self, real: &Path) -> Result<(), Refused> {
        self.check_with(&real.display().to_string(), |entry| match entry {
            Entry::Folder(folder) => real.starts_with(folder),
            Entry::Hub(_) | Entry::Url(..) => false,
        })
    }

    /// Checks a URL of a web server, which a spec names or to which one redirects.
    ///
    /// # Errors
    /// [`Refused`].
    pub(crate) fn check_url(&self, url: &Url) -> Result<(), Refused> {
        check_host(url)?;
        if self.entries.is_none() {
            return Ok(());
        }
        let shown = || shown(url);
        let path = url.path().to_ascii_lowercase();
        if ["%2f", "%5c"].iter().any(|slash| path.contains(slash)) {
            return Err(Refused::Slash(shown()));
        }
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let place = format!("{}{port}{}", url.host_str().unwrap_or_default(), url.path());
        self.check_with(&shown(), |entry| match entry {
            Entry::Url(scheme, prefix) => {
                scheme.as_str() == url.scheme() && is_below(&place, prefix)
            }
            Entry::Folder(_) | Entry::Hub(_) => false,
        })
    }

    fn check_with(&self, what: &str, allows: impl Fn(&Entry) -> bool) -> Result<(), Refused> {
        match &self.entries {
            Some(entries) if !entries.iter().any(allows) => Err(self.unlisted(what)),
            Some(_) | None => Ok(()),
        }
    }

    fn unlisted(&self, what: &str) -> Refused {
        Refused::Unlisted { what: what.to_owned(), allowed: self.to_string() }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(entries) = &self.entries else { return write!(f, "everything") };
        for (index, entry) in entries.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            match entry {
                Entry::Folder(folder) => write!(f, "{comma}`{}`", folder.display())?,
                Entry::Hub(prefix) => write!(f, "{comma}`hf://{prefix}`")?,
                Entry::Url(scheme, prefix) => write!(f, "{comma}`{}://{prefix}`", scheme.as_str())?,
            }
        }
        Ok(())
    }
}

impl Entry {
    fn parse(text: &str) -> Result<Self, BadEntry> {
        let bad = |reason: String| BadEntry { entry: text.to_owned(), reason };
        let schemes = Scheme::ALL.into_iter();
        if let Some(scheme) = schemes.clone().find(|s| text == format!("{}://", s.as_str())) {
            return Ok(Self::Url(scheme, String::new()));
        }
        if let Some(prefix) = text.strip_prefix("hf://") {
            return Ok(Self::Hub(prefix.trim_end_matches('/').to_owned()));
        }
        if !text.contains("://") && !text.starts_with('/') {
            return Err(bad("is neither an absolute path nor a URL".into()));
        }
        let parsed = Location::parse(text, Path::new("/"));
        match parsed.map_err(|error| bad(format!("cannot be used: {error}")))? {
            Location::File(folder) => Ok(Self::Folder(real(&folder))),
            Location::Url { scheme: scheme @ (Scheme::Https | Scheme::Http), .. } => {
                let url = Url::parse(text).map_err(|error| bad(format!("is no URL: {error}")))?;
                let host = url.host_str().ok_or_else(|| bad("has no host".into()))?;
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                let path = url.path().trim_end_matches('/');
                Ok(Self::Url(scheme, format!("{host}{port}{path}")))
            }
            Location::Url { scheme, path } => Ok(Self::Url(scheme, path)),
            Location::Hub(_) => Err(bad("cannot be used".into())),
        }
    }
}

/// The path without links and dots. If it does not exist yet, only the part that exists is resolved.
pub(crate) fn real(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(name)) => real(parent).join(name),
        (Err(_), _, _) => path.to_owned(),
    }
}

/// Whether `path` is `prefix` or below it.
fn is_below(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix);
    prefix.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a name on the hub is `prefix`, a revision of it, or below it.
fn is_of_hub(name: &str, prefix: &str) -> bool {
    is_below(name, prefix) || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('@'))
}

/// The part of a pattern before its first wildcard. Nothing that it matches is outside.
fn fixed(pattern: &Path) -> PathBuf {
    if pattern.symlink_metadata().is_ok() {
        return pattern.to_owned();
    }
    let is_fixed =
        |part: &Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    pattern.components().take_while(is_fixed).collect()
}

/// A URL without its query, which can have a secret.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

/// Checks the host of a URL, if it is an address. Names are checked when they are resolved.
pub(crate) fn check_host(url: &Url) -> Result<(), Refused> {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match address {
        Ok(address) if is_of_link(address) => Err(Refused::Link(host.to_owned())),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether an address belongs to this host's own link: link-local addresses, the metadata services of clouds, which
/// give credentials to everybody who asks, and addresses of no host.
pub(crate) fn is_of_link(address: IpAddr) -> bool {
    /// Metadata services outside the link-local ranges: Alibaba Cloud, Azure, and AWS and Google Cloud over IPv6.
    const METADATA: [IpAddr; 4] = [
        IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
        IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
        IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    ];
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(v4) => {
            v4.is_link_local() || v4.is_broadcast() || v4.is_multicast() || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => is_of_link(IpAddr::V4(v4)),
            None => v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified(),
        },
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291), or translated (RFC 6052).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let last = address.octets().last_chunk::<4>().map(|four| Ipv4Addr::from(*four));
    let translated = address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    address.to_ipv4_mapped().or(last.filter(|_| translated))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(text: &str) -> Location {
        Location::parse(text, Path::new("/")).unwrap()
    }

    #[test]
    fn only_what_is_listed_is_allowed() {
        let at = tempfile::tempdir().unwrap();
        let at = at.path().canonicalize().unwrap();
        for folder in ["data/deep", "database", "other"] {
            std::fs::create_dir_all(at.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink(at.join("other"), at.join("data/link")).unwrap();
        let path = |below: &str| format!("{}/{below}", at.display());
        let list = format!(
            "{}, s3://bucket/sets,gs://, hf://org/name, hf://datasets/org,\
             https://data.example.com/public/, https://cdn.example.com:8443",
            path("data")
        );
        let allowed = Allowed::parse(&list).unwrap();
        let paths = ["data", "data/a.jsonl", "data/deep/*.jsonl", "data/missing/x", "data/*/a.csv"];
        let urls = [
            "s3://bucket/sets",
            "s3://bucket/sets/a/b.jsonl",
            "gs://any/thing",
            "hf://org/name",
            "hf://org/name@v2",
            "hf://org/name#0123456789abcdef0123456789abcdef01234567",
            "hf://datasets/org/set",
            "https://data.example.com/public/a.jsonl",
            "https://DATA.example.com/public/deep/../a.jsonl?version=2",
            "https://cdn.example.com:8443/x",
        ];
        for text in paths.map(path).into_iter().chain(urls.map(str::to_owned)) {
            assert_eq!(allowed.check(&location(&text)), Ok(()), "{text}");
        }

        let paths = ["data/../other/x", "database/x", "other", "data/link/x", "data/link", "*/x"];
        let urls = [
            "/etc/passwd",
            "s3://bucket",
            "s3://bucket/sets-private/x",
            "s3://bucket/sets/../private",
            "s3://bucket/sets@private/x",
            "s3://other/sets",
            "az://bucket/sets",
            "hf://org/name-private",
            "hf://org/other",
            "hf://datasets/organization/set",
            "https://data.example.com/private/a.jsonl",
            "https://data.example.com/public/../private/a.jsonl",
            "https://data.example.com/public/%2e%2e/private/a.jsonl",
            "https://data.example.com/public/..%2fprivate/a.jsonl",
            "https://data.example.com/public/..%5Cprivate/a.jsonl",
            "https://data.example.com/public\\..\\..\\private",
            "https://data.example.com.evil.org/public/a",
            "https://data.example.com:8443/public/a",
            "https://cdn.example.com/x",
            "http://127.0.0.1/public",
        ];
        for text in paths.map(path).into_iter().chain(urls.map(str::to_owned)) {
            let refused = allowed.check(&location(&text)).expect_err(&text);
            let words = refused.to_string();
            assert!(words.contains("may not be read") || words.contains("slash"), "{words}");
        }
        let everything = Allowed::parse(" , ").unwrap();
        assert_eq!(everything.check(&location("/etc/passwd")), Ok(()));
    }

    #[test]
    fn addresses_of_the_link_are_refused_however_they_are_written() {
        let allowed = Allowed::default();
        for host in [
            "169.254.169.254",
            "169.254.170.2",
            "2852039166",
            "0xA9FEA9FE",
            "0251.0376.0251.0376",
            "169.254.43518",
            "[fe80::1]",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "168.63.129.16",
            "0.0.0.0",
            "[::]",
            "[ff02::1]",
        ] {
            let refused = allowed.check(&location(&format!("https://{host}/latest/meta-data")));
            assert!(matches!(refused, Err(Refused::Link(_))), "{host}: {refused:?}");
        }
        for host in ["10.0.0.7", "127.0.0.1:8000", "[fd00::1]", "data.example.com", "1.1.1.1"] {
            assert_eq!(allowed.check(&location(&format!("https://{host}/x"))), Ok(()), "{host}");
        }
    }

    #[test]
    fn an_entry_that_cannot_be_used_is_named() {
        for entry in
            ["data", "ftp://host", "http://example.com", "https://user@host/x", "s3:/bucket"]
        {
            let error = Allowed::parse(&format!("/data,{entry}")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("MUSTER_ALLOW: `{entry}` ")), "{error}");
        }
    }
}
