//! Opens storages by URL.
//!
//! Credentials, endpoints and regions come from the environment, from the same variables that the tools of each store
//! use. They are never part of a spec.

use crate::allow::{Allowed, check_host, real};
use crate::client::{self, Guarded, Redirects};
use crate::hub::Hub;
use crate::hub::store::HubStore;
use crate::kind::Kind;
use crate::patience::{Limits, Patience};
use crate::unfinished::Uploads;
use crate::url::{self, location, refuse, url_of};
use crate::{Error, MEMORY, Storage};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, ClientOptions, ObjectStore};
use proto::spec::{HubName, Location, Scheme};
use reqwest::header::HeaderMap;
use std::sync::Arc;

impl Storage {
    /// Opens `url` for reading and writing: a path, `file://`, `s3://bucket/prefix`, `gs://`,
    /// `az://container/prefix`. A local folder is created. Its URL is its real path, so that all paths to a folder
    /// have the same URL.
    ///
    /// # Errors
    /// [`Error::Location`] if the folder cannot be created or written to, or the store cannot be configured.
    pub fn open(url: &str) -> Result<Self, Error> {
        let Location::File(folder) = location(url)? else { return Self::open_existing(url) };
        create_folder(url, &folder)?;
        Ok(Self { url: url_of(&real(&folder)), ..local(url, &folder)? })
    }

    /// Opens `url` for reading. Besides the URLs of [`Self::open`], it accepts read-only ones:
    /// `https://host/folder` and `hf://owner/name@commit`.
    ///
    /// # Errors
    /// [`Error::Location`] if the folder does not exist, or the store cannot be configured.
    pub fn open_existing(url: &str) -> Result<Self, Error> {
        existing(url, Patience::default())
    }

    /// Opens `url` like [`Self::open_existing`], with the given patience instead of [`Patience::Data`].
    ///
    /// # Errors
    /// The errors of [`Self::open_existing`].
    pub fn open_with_patience(url: &str, patience: Patience) -> Result<Self, Error> {
        existing(url, patience)
    }

    /// The same storage with another patience. Opens another client if the client depends on it.
    ///
    /// # Errors
    /// [`Error::Location`] if the environment no longer configures the store.
    pub fn patient(&self, patience: Patience) -> Result<Self, Error> {
        let same = patience == self.patience;
        match self.kind {
            Kind::S3 | Kind::Gcs | Kind::Azure if !same => existing(&self.url, patience),
            // A disk has no timeouts. Read-only stores were already opened with the right patience, and cannot be
            // opened again: the stored URL of a web server's folder lacks its query.
            Kind::S3 | Kind::Gcs | Kind::Azure | Kind::Local | Kind::Web | Kind::Hub => {
                Ok(Self { patience, ..self.clone() })
            }
        }
    }

    /// Opens a storage that contains the object at `url`, and returns it with the object's key.
    ///
    /// # Errors
    /// [`Error::Location`], which is also returned if `url` does not name an object.
    pub fn containing(url: &str) -> Result<(Self, String), Error> {
        let (root, key) = url::split(url)?;
        Ok((Self::open_existing(&root)?, key))
    }

    /// A storage in memory, for tests.
    pub fn memory() -> Self {
        Self::over(Arc::new(object_store::memory::InMemory::new()))
    }

    /// A storage in the given store, for tests.
    pub fn over(store: Arc<dyn ObjectStore>) -> Self {
        let (url, patience) = (MEMORY.into(), Patience::default());
        let uploads = Uploads::None;
        Self { store, url, kind: Kind::Local, patience, uploads, allowed: None }
    }
}

/// Opens a storage without creating anything.
pub(crate) fn existing(url: &str, patience: Patience) -> Result<Storage, Error> {
    match location(url)? {
        Location::File(folder) => local(url, &folder),
        Location::Hub(name) => in_hub(url, &name, patience),
        Location::Url { scheme: scheme @ (Scheme::Https | Scheme::Http), path } => {
            web(&format!("{}://{path}", scheme.as_str()), patience)
        }
        Location::Url { scheme: Scheme::S3, path } => bucket(url, &path, patience, (Kind::S3, s3)),
        Location::Url { scheme: Scheme::Gs, path } => {
            bucket(url, &path, patience, (Kind::Gcs, gcs))
        }
        Location::Url { scheme: Scheme::Az, path } => {
            bucket(url, &path, patience, (Kind::Azure, azure))
        }
    }
}

/// Creates a folder and checks that it can be written to.
fn create_folder(url: &str, folder: &std::path::Path) -> Result<(), Error> {
    let refuse = |reason: &str, source| Error::Location {
        url: url.to_owned(),
        reason: reason.to_owned(),
        source: Some(source),
    };
    std::fs::create_dir_all(folder).map_err(|e| refuse("the folder cannot be created", e))?;
    let probe = folder.join(format!(".probe-{}", proto::id::unique()));
    std::fs::write(&probe, [0u8; 4096]).and_then(|()| std::fs::remove_file(&probe)).map_err(|e| {
        let _ = std::fs::remove_file(&probe);
        refuse("the folder cannot be written to", e)
    })
}

fn local(url: &str, folder: &std::path::Path) -> Result<Storage, Error> {
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|e| refuse(url, e.to_string()))?;
    Ok(Storage {
        store: Arc::new(store.with_fsync(true)),
        url: url_of(folder),
        kind: Kind::Local,
        patience: Patience::default(),
        uploads: Uploads::Folder(folder.to_owned()),
        allowed: None,
    })
}

/// A store, and the place of its unfinished uploads.
type Opened = (Arc<dyn ObjectStore>, Uploads);
/// A function that opens a bucket or container for a storage under a prefix. The error is a message.
type Cloud = fn(&str, Path, &Limits) -> Result<Opened, String>;

/// Opens a storage in a bucket or container, under the prefix in `path`, if any.
fn bucket(
    url: &str,
    path: &str,
    patience: Patience,
    (kind, open): (Kind, Cloud),
) -> Result<Storage, Error> {
    let (name, prefix) = path.split_once('/').unwrap_or((path, ""));
    client::use_ring();
    let prefix = Path::parse(prefix).map_err(|e| refuse(url, e.to_string()))?;
    // The name becomes part of a URL, so it must not contain other characters.
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._$".contains(c);
    if name.is_empty() || !name.chars().all(fits) {
        return Err(refuse(url, format!("`{name}` is not a valid bucket or container name")));
    }
    let opened = open(name, prefix.clone(), &patience.limits());
    let (store, uploads) = opened.map_err(|reason| refuse(url, reason))?;
    let store: Arc<dyn ObjectStore> =
        if prefix.is_root() { store } else { Arc::new(PrefixStore::new(store, prefix)) };
    Ok(Storage { store, url: url::url(url)?, kind, patience, uploads, allowed: None })
}

/// The error message for a store that cannot be configured.
fn unfit(kind: Kind, error: &object_store::Error) -> String {
    let hint = kind.credentials().map(|hint| format!("\nhint: {hint}"));
    format!("{error}{}", hint.unwrap_or_default())
}

/// Whether the value of a variable means "yes" for object_store.
fn is_on(value: Option<String>) -> bool {
    let value = value.unwrap_or_default().to_ascii_lowercase();
    ["1", "true", "on", "yes", "y"].contains(&&value[..])
}

/// Checks that an endpoint is a URL, which object_store does not do.
fn check_endpoint(variable: &str, endpoint: &str) -> Result<(), String> {
    let url = reqwest::Url::parse(endpoint).ok();
    match url.filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host()) {
        Some(_) => Ok(()),
        None => Err(format!(
            "{variable} is `{endpoint}`, which is not a URL\nhint: write it as `https://host:port`, or unset it"
        )),
    }
}

fn s3(bucket: &str, prefix: Path, limits: &Limits) -> Result<Opened, String> {
    let builder = AmazonS3Builder::from_env();
    for (key, variable) in [
        (AmazonS3ConfigKey::AccessKeyId, "AWS_ACCESS_KEY_ID"),
        (AmazonS3ConfigKey::SecretAccessKey, "AWS_SECRET_ACCESS_KEY"),
        (AmazonS3ConfigKey::Token, "AWS_SESSION_TOKEN"),
    ] {
        let value = builder.get_config_value(&key).unwrap_or_default();
        if value.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(format!("{variable} contains white space or a control character"));
        }
    }
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    let endpoint = endpoint.iter().find_map(|key| builder.get_config_value(key));
    let set = |builder: AmazonS3Builder, (key, value)| {
        builder.with_config(AmazonS3ConfigKey::Client(key), value)
    };
    let mut builder = client_settings(endpoint.clone(), limits).into_iter().fold(builder, set);
    if let Some(endpoint) = endpoint {
        check_endpoint("AWS_ENDPOINT_URL", &endpoint)?;
        if is_on(builder.get_config_value(&AmazonS3ConfigKey::VirtualHostedStyleRequest)) {
            let own = with_host(&endpoint, bucket);
            check_endpoint("with AWS_VIRTUAL_HOSTED_STYLE_REQUEST, the bucket's URL", &own)?;
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, own);
        }
    }
    if builder.get_config_value(&AmazonS3ConfigKey::Checksum).is_none() {
        // Stores verify bodies by this checksum. It costs nothing, because the signature contains the same digest.
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    // A bulk delete sends the keys in the body, which not every store verifies. A key in the URL is signed.
    let builder = builder.with_disable_bulk_delete(true);
    // Uploads can only be listed with a signature, for which there are no credentials here.
    let unsigned = is_on(builder.get_config_value(&AmazonS3ConfigKey::SkipSignature));
    let store = builder.with_bucket_name(bucket).with_retry(limits.retry()).build();
    let store = Arc::new(store.map_err(|e| unfit(Kind::S3, &e))?);
    let uploads = if unsigned { Uploads::Unlisted } else { Uploads::Bucket(store.clone(), prefix) };
    Ok((store, uploads))
}

/// The endpoint with the bucket's name in front of the host, as S3's own tools build it. object_store would use the
/// endpoint unchanged for every bucket.
fn with_host(endpoint: &str, bucket: &str) -> String {
    let (scheme, host) = endpoint.split_once("://").unwrap_or(("https", endpoint));
    let own = format!("{bucket}.");
    if host.starts_with(&own) { endpoint.to_owned() } else { format!("{scheme}://{own}{host}") }
}

fn gcs(bucket: &str, _: Path, limits: &Limits) -> Result<Opened, String> {
    let builder = GoogleCloudStorageBuilder::from_env();
    let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    endpoint.as_deref().map_or(Ok(()), |endpoint| check_endpoint("GOOGLE_BASE_URL", endpoint))?;
    let set = |builder: GoogleCloudStorageBuilder, (key, value)| {
        builder.with_config(GoogleConfigKey::Client(key), value)
    };
    let builder = client_settings(endpoint, limits).into_iter().fold(builder, set);
    let store = builder.with_bucket_name(bucket).with_retry(limits.retry()).build();
    Ok((Arc::new(store.map_err(|e| unfit(Kind::Gcs, &e))?), Uploads::Unlisted))
}

fn azure(container: &str, _: Path, limits: &Limits) -> Result<Opened, String> {
    let builder = MicrosoftAzureBuilder::from_env();
    let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
    endpoint.as_deref().map_or(Ok(()), |endpoint| check_endpoint("AZURE_ENDPOINT", endpoint))?;
    if builder.get_config_value(&AzureConfigKey::AccountName).is_none()
        && !is_on(builder.get_config_value(&AzureConfigKey::UseEmulator))
    {
        return Err("no account is named\nhint: set AZURE_STORAGE_ACCOUNT_NAME".into());
    }
    let set = |builder: MicrosoftAzureBuilder, (key, value)| {
        builder.with_config(AzureConfigKey::Client(key), value)
    };
    let builder = client_settings(endpoint, limits).into_iter().fold(builder, set);
    let store = builder.with_container_name(container).with_retry(limits.retry()).build();
    Ok((Arc::new(store.map_err(|e| unfit(Kind::Azure, &e))?), Uploads::Unlisted))
}

/// Additional settings of a client that is configured from the environment. Plain HTTP is allowed if the endpoint
/// asks for it.
fn client_settings(endpoint: Option<String>, limits: &Limits) -> Vec<(ClientConfigKey, String)> {
    let plain = endpoint.is_some_and(|e| e.starts_with("http://"));
    let mut settings = Vec::from(limits.client());
    settings.extend(plain.then(|| (ClientConfigKey::AllowHttp, "true".into())));
    settings
}

/// Opens a folder of a web server. A query in `url` is sent with every request, but is never shown.
fn web(url: &str, patience: Patience) -> Result<Storage, Error> {
    let folder = url.split('?').next().unwrap_or(url).to_owned();
    let allowed = Allowed::here().map_err(|e| refuse(&folder, e.to_string()))?;
    let parsed = reqwest::Url::parse(url).map_err(|e| refuse(&folder, e.to_string()))?;
    // Each request is checked against the list; what is opened here is only the folder of an object.
    check_host(&parsed).map_err(|e| refuse(&folder, e.to_string()))?;
    let redirects = Redirects::Allowed(allowed);
    let limits = patience.limits();
    let guarded = Guarded { limits, headers: HeaderMap::new(), redirects };
    let store = HttpBuilder::new().with_url(url).with_retry(patience.limits().retry());
    let options = ClientOptions::new().with_allow_http(true);
    let store = store.with_client_options(options).with_http_connector(guarded);
    let store = store.build().map_err(|e| refuse(&folder, e.to_string()))?;
    Ok(read_only(store, folder, Kind::Web, patience))
}

fn in_hub(url: &str, name: &HubName, patience: Patience) -> Result<Storage, Error> {
    let commit = name.pinned().ok_or_else(|| refuse(url, "its revision is not resolved"))?;
    let hub = Hub::from_env().map_err(|e| refuse(url, proto::error::chain(&e)))?;
    let store = HubStore::new(hub, name.kind, &name.repo, &commit, patience);
    let store = store.map_err(|e| refuse(url, e.to_string()))?;
    let prefix = Path::parse(&name.path).map_err(|e| refuse(url, e.to_string()))?;
    let root = HubName { revision: Some(commit.as_str().to_owned()), commit: None, ..name.clone() };
    let url = Location::Hub(root).to_string();
    Ok(read_only(PrefixStore::new(store, prefix), url, Kind::Hub, patience))
}

fn read_only(store: impl ObjectStore, url: String, kind: Kind, patience: Patience) -> Storage {
    let (store, uploads) = (Arc::new(store), Uploads::None);
    Storage { store, url, kind, patience, uploads, allowed: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::url;

    #[test]
    fn the_bucket_is_prepended_to_the_host_once() {
        let own = "https://data.s3.example.com:9000";
        assert_eq!(with_host("https://s3.example.com:9000", "data"), own);
        assert_eq!(with_host(own, "data"), own);
    }

    #[test]
    fn all_paths_to_a_folder_have_the_same_url() {
        let at = tempfile::tempdir().unwrap();
        let path = |name: &str| at.path().join(name).display().to_string();
        std::os::unix::fs::symlink(at.path(), at.path().join("link")).unwrap();
        let pool = Storage::open(&path("pool")).unwrap();
        for name in ["pool", "link/pool", "./pool/../link/pool", "link/pool/../pool/"] {
            assert_eq!(url(&path(name)).unwrap(), pool.url(), "{name}");
            assert_eq!(Storage::open(&path(name)).unwrap().url(), pool.url(), "{name}");
        }
        assert_ne!(url(&path("other")).unwrap(), pool.url());
        assert_eq!(url(&path("link/new/one")).unwrap(), url(&path("new/one")).unwrap());
    }

    #[test]
    fn an_invalid_endpoint_is_refused_and_its_variable_is_named() {
        let refused =
            ["", "127.0.0.1:9000", "s3.example.com", "http://data.127.0.0.1:9000", "ftp://a"];
        for endpoint in refused {
            let reason = check_endpoint("AWS_ENDPOINT_URL", endpoint).unwrap_err();
            assert!(
                reason.contains("AWS_ENDPOINT_URL is `") && reason.contains("hint: "),
                "{reason}"
            );
        }
        assert_eq!(check_endpoint("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"), Ok(()));
        assert_eq!(check_endpoint("AWS_ENDPOINT_URL", "https://[::1]:9000/path"), Ok(()));
    }

    #[test]
    fn invalid_bucket_names_are_refused_before_any_request() {
        for url in ["s3://mus ter/a", "gs://a%b", "az://\u{e4}"] {
            let error = Storage::open(url).unwrap_err().to_string();
            assert!(error.contains("is not a valid bucket or container name"), "{error}");
        }
    }
}
