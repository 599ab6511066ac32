//! The few operations on an object store that everything durable relies on.
//!
//! Create-if-absent is the only conditional write (a local disk has no compare-and-swap), and a create whose outcome
//! is unclear is settled by reading back: the same bytes are ours, since every document carries its writer's token.
//! Files are opened with fsync: an acknowledged write survives a power cut.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// An object store and a prefix in it.
#[derive(Clone, Debug)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    url: String,
}

/// Who holds a key after a create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The key holds what we wrote.
    Ours,
    /// Another wrote first; this is what.
    Theirs(Bytes),
}

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Relative to the prefix.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// The store's identity of its content, where it has one.
    pub etag: Option<String>,
    /// Milliseconds since 1970.
    pub modified_ms: u64,
}

/// What can go wrong with storage.
#[derive(Debug, Error)]
pub enum Error {
    /// The location cannot be used at all.
    #[error("`{url}` cannot be used as storage: {reason}")]
    Location {
        /// As given.
        url: String,
        /// Why.
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
        source: Box<object_store::Error>,
    },
}

impl Storage {
    /// Opens `url` (`file:///folder` or an absolute path) for reading and writing, and makes the folder.
    ///
    /// # Errors
    /// [`Error::Location`] if the scheme is not implemented or the folder cannot be made or written to.
    pub fn open(url: &str) -> Result<Self, Error> {
        let folder = local_folder(url)?;
        let refuse = |reason: &str, source| Error::Location {
            url: url.to_owned(),
            reason: reason.to_owned(),
            source: Some(source),
        };
        std::fs::create_dir_all(&folder).map_err(|e| refuse("the folder cannot be made", e))?;
        let probe = folder.join(format!(".probe-{}", crate::id::unique()));
        std::fs::write(&probe, [0u8; 4096]).and_then(|()| std::fs::remove_file(&probe)).map_err(
            |e| {
                let _ = std::fs::remove_file(&probe);
                refuse("the folder cannot be written to", e)
            },
        )?;
        Self::local(url, &folder)
    }

    /// Opens `url` for reading.
    ///
    /// # Errors
    /// [`Error::Location`] if the scheme is not implemented or there is no such folder.
    pub fn open_existing(url: &str) -> Result<Self, Error> {
        Self::local(url, &local_folder(url)?)
    }

    fn local(url: &str, folder: &std::path::Path) -> Result<Self, Error> {
        let store = LocalFileSystem::new_with_prefix(folder).map_err(|e| Error::Location {
            url: url.to_owned(),
            reason: e.to_string(),
            source: None,
        })?;
        Ok(Self { store: Arc::new(store.with_fsync(true)), url: url_of(folder) })
    }

    /// A store that lives in memory, for tests.
    pub fn memory() -> Self {
        Self { store: Arc::new(object_store::memory::InMemory::new()), url: "memory:".into() }
    }

    /// The storage's own URL, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Reads an object.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Access`].
    pub async fn read(&self, key: &str) -> Result<Bytes, Error> {
        let found = self.store.get(&Path::from(key)).await;
        match found {
            Ok(object) => object.bytes().await.map_err(|e| self.access("read", key, e)),
            Err(e) => Err(self.access("read", key, e)),
        }
    }

    /// Reads `range` of an object, or as much of it as the object has; where an `etag` is given, of
    /// that object only, and not of one that took its place.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Access`], also where the range begins past the object's end.
    pub async fn read_range(
        &self,
        key: &str,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Bytes, Error> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: etag.map(str::to_owned),
            ..GetOptions::default()
        };
        let found = self.store.get_opts(&Path::from(key), options).await;
        match found {
            Ok(object) => object.bytes().await.map_err(|e| self.access("read", key, e)),
            Err(e) => Err(self.access("read", key, e)),
        }
    }

    /// Where an object lies in the local file system, if it does: for mapping it.
    pub fn local_path(&self, key: &str) -> Option<PathBuf> {
        Some(PathBuf::from(self.url.strip_prefix("file://")?).join(key))
    }

    /// Writes an object, over whatever is there.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn put(&self, key: &str, body: impl Into<Bytes>) -> Result<(), Error> {
        let payload = PutPayload::from_bytes(body.into());
        self.store
            .put(&Path::from(key), payload)
            .await
            .map(drop)
            .map_err(|e| self.access("write", key, e))
    }

    /// Writes an object if there is none, and says who holds the key.
    ///
    /// # Errors
    /// [`Error::Access`] if the outcome cannot be known.
    pub async fn create(&self, key: &str, body: impl Into<Bytes>) -> Result<Created, Error> {
        let body = body.into();
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let payload = PutPayload::from_bytes(body.clone());
        let refused = match self.store.put_opts(&Path::from(key), payload, options).await {
            Ok(_) => return Ok(Created::Ours),
            Err(e) => e,
        };
        // A retry of a write that had won is answered "already exists"; a time-out says nothing at all.
        match self.read(key).await {
            Ok(found) if found == body => Ok(Created::Ours),
            Ok(found) => Ok(Created::Theirs(found)),
            Err(_) => Err(self.access("create", key, refused)),
        }
    }

    /// The object at `key`, if there is one.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn head(&self, key: &str) -> Result<Option<Object>, Error> {
        match self.store.head(&Path::from(key)).await {
            Ok(meta) => Ok(Some(object(meta))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.access("look at", key, e)),
        }
    }

    /// Every object under `folder`, sorted by key.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn list(&self, folder: &str) -> Result<Vec<Object>, Error> {
        let prefix = Path::from(folder);
        let found: Vec<_> = self
            .store
            .list(Some(&prefix))
            .try_collect()
            .await
            .map_err(|e| self.access("list", folder, e))?;
        let mut objects: Vec<_> = found.into_iter().map(object).collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// The names of the folders directly under `folder`, sorted.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, Error> {
        let found = self
            .store
            .list_with_delimiter(Some(&Path::from(folder)))
            .await
            .map_err(|e| self.access("list", folder, e))?;
        let name = |p: &Path| p.filename().map(str::to_owned);
        let mut names: Vec<_> = found.common_prefixes.iter().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// Copies an object within the store.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        self.store
            .copy(&Path::from(from), &Path::from(to))
            .await
            .map_err(|e| self.access("copy", from, e))
    }

    /// Deletes an object; one that is not there is fine.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        match self.store.delete(&Path::from(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.access("delete", key, e)),
        }
    }

    fn access(&self, verb: &'static str, key: &str, source: object_store::Error) -> Error {
        let (url, key) = (self.url.clone(), key.to_owned());
        match source {
            object_store::Error::NotFound { .. } => Error::NotFound { url, key },
            source => Error::Access { verb, url, key, source: Box::new(source) },
        }
    }
}

/// The URL by which a storage opened at `url` would call itself.
///
/// # Errors
/// [`Error::Location`] if the scheme is not implemented.
pub fn url(url: &str) -> Result<String, Error> {
    local_folder(url).map(|folder| url_of(&folder))
}

fn url_of(folder: &std::path::Path) -> String {
    format!("file://{}", folder.display()).trim_end_matches('/').to_owned()
}

/// The folder that a local URL names.
fn local_folder(url: &str) -> Result<PathBuf, Error> {
    let path = url.strip_prefix("file://").unwrap_or(url);
    if path.contains("://") {
        return Err(Error::Location {
            url: url.to_owned(),
            reason: "only local folders (`file://`) are implemented yet".into(),
            source: None,
        });
    }
    std::path::absolute(path).map_err(|e| Error::Location {
        url: url.to_owned(),
        reason: "not a path".into(),
        source: Some(e),
    })
}

fn object(meta: object_store::ObjectMeta) -> Object {
    Object {
        key: meta.location.to_string(),
        bytes: meta.size,
        etag: meta.e_tag,
        modified_ms: meta.last_modified.timestamp_millis().try_into().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every backend must do.
    async fn conforms(storage: Storage) {
        assert!(matches!(storage.read("a/b").await, Err(Error::NotFound { .. })));
        assert_eq!(storage.head("a/b").await.unwrap(), None);
        assert_eq!(storage.create("a/b", "first").await.unwrap(), Created::Ours);
        assert_eq!(storage.create("a/b", "first").await.unwrap(), Created::Ours, "read back");
        let second = storage.create("a/b", "second").await.unwrap();
        assert_eq!(second, Created::Theirs(Bytes::from("first")));
        assert_eq!(storage.read("a/b").await.unwrap(), "first");
        storage.put("a/b", "third").await.unwrap();
        let etag = storage.head("a/b").await.unwrap().and_then(|o| o.etag);
        assert_eq!(storage.read_range("a/b", 1..3, etag.as_deref()).await.unwrap(), "hi");
        assert_eq!(storage.read_range("a/b", 3..90, None).await.unwrap(), "rd", "what there is");
        assert!(storage.read_range("a/b", 5..6, None).await.is_err(), "past the end");
        assert!(storage.read_range("a/b", 1..3, Some("another")).await.is_err(), "changed");
        storage.copy("a/b", "c/d").await.unwrap();
        assert_eq!(storage.read("c/d").await.unwrap(), "third");
        storage.put("a/a", "x").await.unwrap();
        let keys: Vec<_> = storage.list("a").await.unwrap().into_iter().map(|o| o.key).collect();
        assert_eq!(keys, ["a/a", "a/b"]);
        assert_eq!(storage.folders("").await.unwrap(), ["a", "c"]);
        storage.delete("c/d").await.unwrap();
        storage.delete("c/d").await.unwrap();
        assert!(storage.list("nothing").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn memory_conforms() {
        conforms(Storage::memory()).await;
    }

    #[tokio::test]
    async fn a_local_folder_conforms() {
        let folder = tempfile::tempdir().unwrap();
        conforms(Storage::open(folder.path().to_str().unwrap()).unwrap()).await;
    }

    #[test]
    fn an_output_that_is_a_file_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Storage::open(file.path().to_str().unwrap()).unwrap_err();
        assert!(error.to_string().contains("the folder cannot be made"), "{error}");
    }
}
