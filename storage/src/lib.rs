//! The operations on object stores on which everything durable relies.
//!
//! Create-if-absent is the only conditional write, because a local disk has no compare-and-swap. If the outcome of
//! a create is unclear, the object is read back: if it has the same bytes, they are ours, because every document
//! contains a token of its writer. Files are written with fsync, so that an acknowledged write survives a power
//! failure.
//!
//! ```text
//! open         opens a store by URL, with credentials from the environment
//! url          URLs of storages and of objects     kind      kinds of stores, and the hints for their errors
//! patience     timeouts and retries, by use        retry     retries in addition to the client's own
//! client       HTTP clients
//! write        writes and verifies small objects   upload    writes large objects part by part
//! unfinished   finds uploads that were begun and never ended
//! hub          the Hugging Face hub: revisions and files, and a repository as a store
//! error        errors, and what a store's reply means
//! ```

pub mod allow;
mod client;
mod error;
pub mod hub;
mod kind;
mod open;
mod patience;
mod retry;
mod unfinished;
mod upload;
mod url;
mod write;

pub use error::{Cause, Error};
pub use patience::Patience;
pub use unfinished::Unfinished;
pub use url::{split, url};

use allow::Allowed;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use kind::Kind;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of a large object that are read with one request.
const PIECE: u64 = 8 << 20;
/// The number of concurrent requests for pieces of an object.
const PIECES: usize = 4;

/// The URL of a store in memory.
const MEMORY: &str = "memory:";

/// An object store and a prefix in it.
#[derive(Clone, Debug)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    url: String,
    kind: Kind,
    patience: Patience,
    uploads: unfinished::Uploads,
    /// What may be read of a local folder, if that is limited.
    allowed: Option<&'static Allowed>,
}

/// The outcome of a create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object is the one that we wrote.
    Ours,
    /// Another writer was first, and wrote this object.
    Theirs(Bytes),
}

/// Metadata of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key, relative to the prefix.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// Its ETag, if the store has one.
    pub etag: Option<String>,
    /// The time of its last change, in milliseconds since 1970.
    pub modified_ms: u64,
}

impl Storage {
    /// The same storage, for what a spec names: a file is only read if it is allowed after all links.
    ///
    /// # Errors
    /// [`Error::Location`] if the list of what is allowed cannot be used.
    pub fn confined(self) -> Result<Self, Error> {
        let allowed = Allowed::here().map_err(|e| url::refuse(&self.url, e.to_string()))?;
        Ok(Self { allowed: Some(allowed), ..self })
    }

    /// The storage's URL, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether the storage is in memory and ends with this process.
    pub fn is_memory(&self) -> bool {
        self.url == MEMORY
    }

    /// Reads an object.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Access`], or [`Error::Damaged`] if the object is not what was written. The
    /// content of an object that was uploaded in parts is not verified.
    pub async fn read(&self, key: &str) -> Result<Bytes, Error> {
        self.insist("read", key, || self.get(key, GetOptions::new(), None)).await
    }

    /// Reads `range` of an object, or the part of it that exists. If an `etag` is given, the object must still have
    /// it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Changed`], or [`Error::Access`], which is also returned if the range begins past
    /// the end of the object.
    pub async fn read_range(
        &self,
        key: &str,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Bytes, Error> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        // A weak ETag never matches in `If-Match`. The ETag of the reply is compared in any case.
        let strong = etag.filter(|e| !e.starts_with("W/"));
        let options =
            GetOptions::new().with_range(Some(GetRange::Bounded(range))).with_if_match(strong);
        self.insist("read", key, || self.get(key, options.clone(), etag)).await
    }

    async fn get(
        &self,
        key: &str,
        options: GetOptions,
        etag: Option<&str>,
    ) -> Result<Bytes, Error> {
        self.regular("read", key).await?;
        let access = |e| self.access("read", key, e);
        let found = self.store.get_opts(&self.path(key)?, options).await.map_err(access)?;
        if etag.zip(found.meta.e_tag.as_deref()).is_some_and(|(a, b)| a != b) {
            return Err(self.changed(key));
        }
        let (bytes, seal) = (found.range.end - found.range.start, write::seal(&found));
        self.intact(key, found.bytes().await.map_err(access)?, bytes, seal.as_deref())
    }

    /// Reads an object of `bytes` bytes in pieces, in order, and fetches a few pieces ahead. If an `etag` is given,
    /// the object must still have it.
    ///
    /// # Errors
    /// The errors of [`Self::read_range`], and [`Error::Changed`] if the object is shorter than `bytes`.
    pub fn pieces<'a>(
        &'a self,
        key: &'a str,
        bytes: u64,
        etag: Option<&'a str>,
    ) -> impl Stream<Item = Result<Bytes, Error>> + 'a {
        let starts = (0..bytes.div_ceil(PIECE)).map(|i| i * PIECE);
        let read = move |from| async move {
            let to = bytes.min(from + PIECE);
            let piece = self.read_range(key, from..to, etag).await?;
            if piece.len() as u64 == to - from { Ok(piece) } else { Err(self.changed(key)) }
        };
        futures::stream::iter(starts).map(read).buffered(PIECES)
    }

    /// The path of an object in the local file system, if the storage is a local folder.
    pub fn local_path(&self, key: &str) -> Option<PathBuf> {
        Some(PathBuf::from(self.url.strip_prefix("file://")?).join(key))
    }

    /// The metadata of the object at `key`, or `None` if there is no such object.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn head(&self, key: &str) -> Result<Option<Object>, Error> {
        self.regular("check", key).await?;
        let path = self.path(key)?;
        let look =
            || async { self.store.head(&path).await.map_err(|e| self.access("check", key, e)) };
        match self.insist("check", key, look).await {
            Ok(meta) => Ok(Some(self.object(meta))),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every object under `folder`, sorted by key.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn list(&self, folder: &str) -> Result<Vec<Object>, Error> {
        self.list_noting(folder, || {}).await
    }

    /// Lists like [`Self::list`], and calls `note` for each object as it arrives, so that the caller can show
    /// progress.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn list_noting(&self, folder: &str, note: impl Fn()) -> Result<Vec<Object>, Error> {
        let prefix = self.path(folder)?;
        let list = || async {
            let found = self.store.list(Some(&prefix)).inspect_ok(|_| note());
            let found: Result<Vec<_>, _> = found.try_collect().await;
            found.map_err(|e| self.access("list", folder, e))
        };
        let found = self.insist("list", folder, list).await?;
        let mut objects: Vec<_> = found.into_iter().map(|meta| self.object(meta)).collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// Whether there is any object under `folder`. Lists only its first entries.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn holds(&self, folder: &str) -> Result<bool, Error> {
        let prefix = self.path(folder)?;
        let look = || async {
            let first = self.store.list(Some(&prefix)).next().await.transpose();
            first.map_err(|e| self.access("list", folder, e))
        };
        Ok(self.insist("list", folder, look).await?.is_some())
    }

    /// The names of the folders directly under `folder`, sorted.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, Error> {
        let prefix = self.path(folder)?;
        let list = || async {
            let found = self.store.list_with_delimiter(Some(&prefix)).await;
            found.map_err(|e| self.access("list", folder, e))
        };
        let found = self.insist("list", folder, list).await?;
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
        if self.local_path(from).is_some() {
            // object_store would create a hard link, and a later write to one file would change the other.
            let (url, key) = (self.url.clone(), from.to_owned());
            let bytes = self.head(from).await?.ok_or(Error::NotFound { url, key })?.bytes;
            return self.put_stream(to, bytes, self.pieces(from, bytes, None)).await.map(drop);
        }
        self.store
            .copy(&self.path(from)?, &self.path(to)?)
            .await
            .map_err(|e| self.access("copy", from, e))
    }

    /// Deletes an object, if it exists.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        match self.store.delete(&self.path(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.access("delete", key, e)),
        }
    }

    /// Checks that the store replies, and that the credentials allow listing.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn probe(&self) -> Result<(), Error> {
        let first = self.store.list(None).next().await.transpose();
        first.map(drop).map_err(|e| self.access("list", "", e))
    }

    /// Checks that `key` is not a special file on a disk, without opening it, because opening a fifo without a writer
    /// blocks forever, and that it may be read. A missing file passes.
    ///
    /// # Errors
    /// [`Error::Access`] for a fifo, a device or a socket, and for a file that is not allowed.
    pub async fn regular(&self, verb: &'static str, key: &str) -> Result<(), Error> {
        let Some(path) = self.local_path(key) else { return Ok(()) };
        if let Some(allowed) = self.allowed
            && let Ok(real) = tokio::fs::canonicalize(&path).await
        {
            let refused = allowed.check_file(&real);
            refused.map_err(|refused| self.caused(verb, key, Cause::Refused(refused)))?;
        }
        let Ok(found) = tokio::fs::metadata(path).await else { return Ok(()) };
        match special(found.file_type()) {
            None => Ok(()),
            Some(kind) => Err(self.caused(verb, key, Cause::Special(kind))),
        }
    }

    /// The special files under `folder`, which [`Self::list`] leaves out: fifos, devices and sockets on a disk.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn irregular(&self, folder: &str) -> Result<Vec<String>, Error> {
        let Some(root) = self.local_path("") else { return Ok(Vec::new()) };
        let at = root.join(folder);
        let walk = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            irregular(&at, &mut found)?;
            found.sort();
            Ok::<_, std::io::Error>((root, found))
        });
        let (root, found) = walk.await.expect("walking does not panic").map_err(|e| {
            let source = Box::new(e);
            let cause = object_store::Error::Generic { store: "LocalFileSystem", source };
            self.caused("list", folder, Cause::Store(Box::new(cause)))
        })?;
        let key = |path: &PathBuf| Some(path.strip_prefix(&root).ok()?.to_str()?.to_owned());
        Ok(found.iter().filter_map(key).collect())
    }

    /// Keys are plain text, not percent-encoded, so that a key from a listing can be passed back.
    fn path(&self, key: &str) -> Result<Path, Error> {
        Path::parse(key).map_err(|e| Error::Location {
            url: format!("{}/{key}", self.url),
            reason: e.to_string(),
            source: None,
        })
    }

    fn object(&self, meta: object_store::ObjectMeta) -> Object {
        // Azure's listings omit the quotes around ETags that its headers have.
        let quoted = |etag: String| match self.kind {
            Kind::Azure if !etag.starts_with('"') => format!("\"{etag}\""),
            _ => etag,
        };
        Object {
            key: meta.location.to_string(),
            bytes: meta.size,
            etag: meta.e_tag.map(quoted),
            modified_ms: meta.last_modified.timestamp_millis().try_into().unwrap_or(0),
        }
    }

    fn changed(&self, key: &str) -> Error {
        Error::Changed { url: self.url.clone(), key: key.to_owned() }
    }

    fn damaged(&self, key: &str, what: String) -> Error {
        Error::Damaged { url: self.url.clone(), key: key.to_owned(), what }
    }

    fn access(&self, verb: &'static str, key: &str, source: object_store::Error) -> Error {
        match source {
            // A missing bucket is reported as an access error, not as a missing object.
            object_store::Error::NotFound { source, .. } if !error::names_a_bucket(&*source) => {
                Error::NotFound { url: self.url.clone(), key: key.to_owned() }
            }
            object_store::Error::Precondition { .. } => self.changed(key),
            source => self.caused(verb, key, error::explain(self.kind, source)),
        }
    }

    fn caused(&self, verb: &'static str, key: &str, source: Cause) -> Error {
        Error::Access { verb, url: self.url.clone(), key: key.to_owned(), source }
    }
}

/// Collects the special files under `folder`. Links to folders are not followed, because they may form a cycle.
fn irregular(folder: &std::path::Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            irregular(&entry.path(), found)?;
        } else if entry.path().metadata().is_ok_and(|file| special(file.file_type()).is_some()) {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// The kind of a special file, or `None` for a regular file or a folder.
fn special(file: std::fs::FileType) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    match file {
        file if file.is_fifo() => Some("a fifo"),
        file if file.is_socket() => Some("a socket"),
        file if file.is_char_device() || file.is_block_device() => Some("a device"),
        _ => None,
    }
}
