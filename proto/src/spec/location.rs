//! Locations of models, sources and a run's output: a path, or the URL of a store.
//!
//! Nothing here checks whether a location exists. The disk is only consulted for `..`: after a folder, the two cancel
//! out; after a symbolic link, `..` leads to the folder that contains the link's target.

use super::hub::HubName;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// A file, folder or glob on this machine, or an object, prefix or name in a store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Location {
    /// An absolute path.
    File(PathBuf),
    /// `scheme://path`.
    Url {
        /// The kind of store.
        scheme: Scheme,
        /// Bucket and key, or host and path; never empty.
        path: String,
    },
    /// `hf://name`.
    Hub(HubName),
}

/// The stores that a spec can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// S3, or a store with the same protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// A web server, read-only.
    Https,
    /// A web server on this machine, read-only. To other machines, connections must be encrypted.
    Http,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 5] = [Scheme::S3, Scheme::Gs, Scheme::Az, Scheme::Https, Scheme::Http];

    /// The scheme without `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Az => "az",
            Scheme::Https => "https",
            Scheme::Http => "http",
        }
    }

    /// Whether a run can write there.
    pub fn is_writable(self) -> bool {
        match self {
            Scheme::S3 | Scheme::Gs | Scheme::Az => true,
            Scheme::Https | Scheme::Http => false,
        }
    }

    /// Whether objects can be listed there.
    pub fn is_listed(self) -> bool {
        self.is_writable()
    }
}

/// Why a text is not a location.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An unknown scheme.
    #[error(
        "scheme `{0}://` is not one of `s3://`, `gs://`, `az://`, `https://`, `hf://` and `file://`"
    )]
    Scheme(String),
    /// A URL with only one slash after the colon.
    #[error("`{0}:/` is neither a URL nor a path")]
    Slash(String),
    /// An unencrypted URL of another machine.
    #[error("`http://` is unencrypted")]
    Plain,
    /// A text after `hf://` that does not name a repository.
    #[error("`hf://{0}` is not a valid name on the Hugging Face hub")]
    Hub(String),
    /// A scheme without a bucket, host or path after it, or an empty text.
    #[error("`{0}` does not name a file, folder or bucket")]
    Empty(String),
    /// A path that starts with `~`, which only a shell expands.
    #[error("`~` is not expanded in `{0}`")]
    Home(String),
    /// A URL with a user name or password, which the error does not show.
    #[error("the URL has a user name or password before the `@`")]
    Secret,
    /// A web URL with a signature or token, which the error does not show.
    #[error("the URL has a credential after the `?`")]
    Signed,
    /// A relative path that leaves the bucket or host that it starts in.
    #[error("`{0}` leaves the bucket, host or repository of the spec")]
    Outside(String),
}

impl Error {
    /// What to write instead.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Slash(_) => "write two slashes after the colon, or `./` before a path",
            Error::Scheme(scheme) => match scheme.as_str() {
                "s3a" | "s3n" | "r2" | "minio" => {
                    "write `s3://`, and set the endpoint in the environment"
                }
                "gcs" => "write `gs://`",
                "abfs" | "abfss" | "azure" | "adl" => "write `az://container/prefix`",
                "huggingface" => "write `hf://org/name`",
                _ => "write a path, or one of these schemes",
            },
            Error::Plain => "write `https://`",
            Error::Hub(_) => {
                "write `hf://owner/name[@revision]` for a model, \
                 `hf://datasets/owner/name[@revision][/path]` for data"
            }
            Error::Empty(_) => "write a path, or a URL such as `s3://bucket/prefix`",
            Error::Home(_) => "write the full path, or a path relative to the spec's folder",
            Error::Secret | Error::Signed => {
                "secrets are never in a spec; credentials come from the environment"
            }
            Error::Outside(_) => "write the full URL",
        }
    }
}

impl Location {
    /// Parses a path or URL. A relative path starts at `base`, which must be absolute.
    pub fn parse(text: &str, base: &Path) -> Result<Location, Error> {
        Self::parse_in(text, &Location::File(base.to_owned()))
    }

    /// Parses a path or URL. A relative path starts at `folder`, which may be in a store.
    pub fn parse_in(text: &str, folder: &Location) -> Result<Location, Error> {
        let empty = || Error::Empty(text.to_owned());
        let Some((scheme, path)) = text.split_once("://") else {
            if text.is_empty() {
                return Err(empty());
            }
            let scheme = text.split_once(":/").map_or("", |(scheme, _)| scheme);
            if ["file", "hf"].contains(&scheme) || Scheme::ALL.iter().any(|s| s.as_str() == scheme)
            {
                return Err(Error::Slash(scheme.to_owned()));
            }
            if text == "~" || text.starts_with("~/") {
                return Err(Error::Home(text.to_owned()));
            }
            return folder.relative(text);
        };
        if scheme == "file" {
            let absolute = path.starts_with('/');
            let path = absolute.then(|| Location::File(plain(Path::new(path))));
            return path.ok_or_else(empty);
        }
        if scheme == "hf" {
            let name = path.trim_end_matches('/');
            if name.is_empty() {
                return Err(empty());
            }
            let found = HubName::parse(name).map(Location::Hub);
            return found.ok_or_else(|| Error::Hub(name.to_owned()));
        }
        let known = Scheme::ALL.into_iter().find(|s| s.as_str() == scheme);
        let scheme = known.ok_or_else(|| Error::Scheme(scheme.to_owned()))?;
        let first = path.split('/').next().unwrap_or_default();
        if first.is_empty() {
            return Err(empty());
        }
        if first.contains('@') {
            return Err(Error::Secret);
        }
        match scheme {
            Scheme::Http if !is_loopback(first) => return Err(Error::Plain),
            Scheme::Https | Scheme::Http if is_signed(path) => return Err(Error::Signed),
            Scheme::Https | Scheme::Http | Scheme::S3 | Scheme::Gs | Scheme::Az => {}
        }
        let path = path.trim_end_matches('/').to_owned();
        Ok(Location::Url { scheme, path })
    }

    /// Resolves a path relative to this location.
    fn relative(&self, path: &str) -> Result<Location, Error> {
        if path.starts_with('/') {
            return Ok(Location::File(plain(Path::new(path))));
        }
        let outside = || Error::Outside(path.to_owned());
        Ok(match self {
            Location::File(folder) => Location::File(plain(&folder.join(path))),
            Location::Url { scheme, path: folder } => {
                let (root, folder) = folder.split_once('/').unwrap_or((folder, ""));
                let below = resolve(folder, path).ok_or_else(outside)?;
                let path = format!("{root}/{below}").trim_end_matches('/').to_owned();
                Location::Url { scheme: *scheme, path }
            }
            Location::Hub(hub) => {
                let path = resolve(&hub.path, path).ok_or_else(outside)?;
                Location::Hub(HubName { path, ..hub.clone() })
            }
        })
    }

    /// The path, if this is a local one.
    pub fn as_file(&self) -> Option<&Path> {
        match self {
            Location::File(path) => Some(path),
            Location::Url { .. } | Location::Hub(_) => None,
        }
    }

    /// The name on the hub, if this is one.
    pub fn as_hub(&self) -> Option<&HubName> {
        match self {
            Location::Hub(name) => Some(name),
            Location::File(_) | Location::Url { .. } => None,
        }
    }

    /// The folder of this file or object, and its name in that folder. `None` if this is not a file or object.
    pub fn split(&self) -> Option<(Location, String)> {
        match self {
            Location::File(path) => {
                let name = path.file_name()?.to_string_lossy().into_owned();
                Some((Location::File(path.parent()?.to_owned()), name))
            }
            Location::Url { scheme, path } => {
                let path = path.split('?').next().unwrap_or(path);
                let (folder, name) = path.rsplit_once('/')?;
                Some((Location::Url { scheme: *scheme, path: folder.to_owned() }, name.to_owned()))
            }
            Location::Hub(_) => None,
        }
    }

    /// The location `name` below this one; `name` is a relative path with `/` as separator.
    pub fn join(&self, name: &str) -> Location {
        match self {
            Location::File(path) => Location::File(path.join(name)),
            Location::Url { scheme, path } => {
                Location::Url { scheme: *scheme, path: format!("{path}/{name}") }
            }
            Location::Hub(hub) => {
                let path = format!("{}/{name}", hub.path).trim_start_matches('/').to_owned();
                Location::Hub(HubName { path, ..hub.clone() })
            }
        }
    }
}

/// Formats a path or URL that [`Location::parse`] reads back.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::File(path) => write!(f, "{}", path.display()),
            Location::Url { scheme, path } => write!(f, "{}://{path}", scheme.as_str()),
            Location::Hub(name) => write!(f, "hf://{name}"),
        }
    }
}

/// Whether `authority`, a host with an optional port, is this machine.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Whether a web URL contains a credential.
fn is_signed(path: &str) -> bool {
    const CREDENTIALS: [&str; 7] = [
        "x-amz-signature",
        "x-amz-security-token",
        "x-goog-signature",
        "signature",
        "sig",
        "token",
        "access_token",
    ];
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let mut names = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    names.any(|name| CREDENTIALS.contains(&name.to_ascii_lowercase().as_str()))
}

/// Resolves `path` relative to `folder`. Returns `None` if it leads above the root.
fn resolve(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<_> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// The path without `.`, doubled separators and `..`: a worker on another machine may see the target but not the
/// folders that the user's path goes through. A `..` after something that does not exist stays.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        let above = match component {
            Component::ParentDir => above(&plain),
            Component::CurDir => continue,
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => None,
        };
        match above {
            Some(above) => plain = above,
            None => plain.push(component),
        }
    }
    plain
}

/// The parent of `path`, if `path` is a folder, or the parent of its target, if it is a link to a folder.
fn above(path: &Path) -> Option<PathBuf> {
    let found = path.symlink_metadata().ok()?;
    let real = if found.is_symlink() { path.canonicalize().ok()? } else { path.to_owned() };
    if !real.is_dir() || real.ends_with("..") {
        return None;
    }
    Some(real.parent().unwrap_or(&real).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, Error> {
        Location::parse(text, Path::new("/specs")).map(|location| location.to_string())
    }

    #[test]
    fn relative_paths_start_at_the_base() {
        assert_eq!(parse("./a//b/./c.json"), Ok("/specs/a/b/c.json".into()));
        assert_eq!(parse("../a"), Ok("/specs/../a".into()));
        assert_eq!(parse("/a/*.jsonl"), Ok("/a/*.jsonl".into()));
        assert_eq!(parse("file:///a/b"), Ok("/a/b".into()));
    }

    #[test]
    fn parent_components_are_resolved_as_the_file_system_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().canonicalize().expect("it is there");
        std::fs::create_dir_all(at.join("far/specs")).expect("written");
        std::os::unix::fs::symlink(at.join("far/specs"), at.join("link")).expect("written");
        let parse = |text: &str, base: &str| {
            let location = Location::parse(text, &at.join(base)).expect("a path");
            let path = location.as_file().expect("a path").to_owned();
            path.strip_prefix(&at).map_or(path.clone(), Path::to_owned)
        };
        assert_eq!(parse("../pool", "far/specs"), Path::new("far/pool"));
        assert_eq!(parse("../../a/../*.jsonl", "far/specs"), Path::new("a/../*.jsonl"));
        assert_eq!(parse("./../specs/./x", "far/specs"), Path::new("far/specs/x"));
        assert_eq!(parse("../pool", "link"), Path::new("far/pool"), "as `ls ../pool` does there");
        assert_eq!(parse("x", "link"), Path::new("link/x"), "a link alone stays");
        assert_eq!(parse("/../etc", "link"), Path::new("/etc"));
        assert_eq!(parse("../../y", "missing"), Path::new("missing/../../y"));
    }

    #[test]
    fn relative_paths_start_at_a_folder_in_a_store() {
        let folder = Location::parse("s3://bucket/specs", Path::new("/")).expect("a URL");
        let parse = |text| Location::parse_in(text, &folder).map(|location| location.to_string());
        assert_eq!(parse("./a//b/./c.json").as_deref(), Ok("s3://bucket/specs/a/b/c.json"));
        assert_eq!(parse("../a/*.jsonl").as_deref(), Ok("s3://bucket/a/*.jsonl"));
        assert_eq!(parse("..").as_deref(), Ok("s3://bucket"));
        assert_eq!(parse("../../a"), Err(Error::Outside("../../a".into())));
        assert_eq!(parse("/a/b").as_deref(), Ok("/a/b"));
        assert_eq!(parse("hf://owner/name").as_deref(), Ok("hf://owner/name"));
    }

    #[test]
    fn urls_are_kept_and_read_back() {
        for url in ["s3://b/p", "gs://b", "az://c/p", "https://h/p?x=1", "hf://org/name@v1"] {
            assert_eq!(parse(url).as_deref(), Ok(url));
        }
        assert_eq!(parse("s3://bucket/prefix/").as_deref(), Ok("s3://bucket/prefix"));
    }

    #[test]
    fn invalid_locations_are_refused() {
        assert_eq!(parse("gcs://b"), Err(Error::Scheme("gcs".into())));
        for scheme in ["s3", "gs", "az", "https", "hf", "file"] {
            assert_eq!(parse(&format!("{scheme}:/b/c")), Err(Error::Slash(scheme.into())));
            assert!(parse(&format!("./{scheme}:/b/c")).is_ok());
        }
        assert_eq!(parse("s3:///key"), Err(Error::Empty("s3:///key".into())));
        assert_eq!(parse("~/models"), Err(Error::Home("~/models".into())));
        assert_eq!(parse("file://host/a"), Err(Error::Empty("file://host/a".into())));
        assert_eq!(parse(""), Err(Error::Empty(String::new())));
    }

    #[test]
    fn http_is_allowed_only_for_this_machine() {
        for host in ["127.0.0.1:9000", "localhost:80", "[::1]:80", "127.9.9.9"] {
            assert!(parse(&format!("http://{host}/a.jsonl")).is_ok(), "{host}");
        }
        for host in ["example.com", "localhost.example.com", "10.0.0.1", "[::2]:80"] {
            assert_eq!(parse(&format!("http://{host}/a.jsonl")), Err(Error::Plain));
        }
    }

    #[test]
    fn signed_urls_are_refused_and_not_shown() {
        let error = parse("https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature=hush");
        assert_eq!(error, Err(Error::Signed));
        assert!(!Error::Signed.to_string().contains("hush"));
        assert!(parse("https://host/file.jsonl?download=true").is_ok());
    }

    #[test]
    fn passwords_are_refused_and_not_shown() {
        let error = parse("s3://key:hush@bucket/p").expect_err("a secret");
        assert_eq!(error, Error::Secret);
        assert!(!error.to_string().contains("hush"));
    }
}
