//! Splits, builds and normalizes the URLs of storages and of objects in them.

use crate::Error;
use crate::allow::real;
use object_store::path::Path;
use proto::spec::{HubName, Location, Scheme};

/// Splits the URL of an object into the URL of a storage that contains it and the object's key in that storage.
///
/// # Errors
/// [`Error::Location`] if `url` does not name an object.
pub fn split(url: &str) -> Result<(String, String), Error> {
    let nothing = || refuse(url, "it does not name an object");
    match location(url)? {
        Location::File(path) => {
            let name = path.file_name().ok_or_else(nothing)?.to_string_lossy().into_owned();
            Ok((url_of(path.parent().ok_or_else(nothing)?), name))
        }
        Location::Hub(name) => {
            let root = HubName { path: String::new(), ..name.clone() };
            Ok((Location::Hub(root).to_string(), name.path))
        }
        Location::Url { scheme: scheme @ (Scheme::Https | Scheme::Http), path } => {
            let (path, query) = match path.split_once('?') {
                Some((path, query)) => (path, format!("?{query}")),
                None => (&path[..], String::new()),
            };
            let (folder, name) = path.rsplit_once('/').ok_or_else(nothing)?;
            // Keys are plain text. They are percent-encoded only in requests.
            let key = Path::from_url_path(name).map_err(|_| nothing())?;
            Ok((format!("{}://{folder}{query}", scheme.as_str()), key.to_string()))
        }
        Location::Url { scheme, path } => {
            let (root, key) = path.split_once('/').ok_or_else(nothing)?;
            Ok((format!("{}://{root}", scheme.as_str()), key.to_owned()))
        }
    }
}

/// The URL that a storage would have if it were opened for writing at `url`.
///
/// # Errors
/// [`Error::Location`] if `url` is not a valid location.
pub fn url(url: &str) -> Result<String, Error> {
    Ok(match location(url)? {
        Location::File(folder) => url_of(&real(&folder)),
        location @ (Location::Url { .. } | Location::Hub(_)) => location.to_string(),
    })
}

/// A folder's URL, without a trailing slash.
pub(crate) fn url_of(folder: &std::path::Path) -> String {
    format!("file://{}", folder.display()).trim_end_matches('/').to_owned()
}

/// Parses `url`. Relative paths start at the current folder.
pub(crate) fn location(url: &str) -> Result<Location, Error> {
    let here = std::env::current_dir().map_err(|e| Error::Location {
        url: url.to_owned(),
        reason: "there is no current folder".into(),
        source: Some(e),
    })?;
    Location::parse(url, &here).map_err(|e| refuse(url, format!("{e}\nhint: {}", e.hint())))
}

/// The error for a `url` that cannot be used.
pub(crate) fn refuse(url: &str, reason: impl Into<String>) -> Error {
    Error::Location { url: url.to_owned(), reason: reason.into(), source: None }
}
