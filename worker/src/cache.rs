//! This host's copies of remote models. A model is downloaded and verified once, by the first rank that needs it, and
//! then read as a folder.
//!
//! A folder's name is derived from the store's listing: different content gives a different folder. It is filled
//! under a temporary name while a lock is held, and renamed once it is complete, so that an existing folder can be
//! trusted. The lock is released when its process ends. Nothing is ever removed: that is up to the owner of the disk.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use proto::manifest::{self, Checksum, Staged};
use proto::spec::Location;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use storage::hub::{self, Hub};
use storage::{Object, Storage};
use thiserror::Error;
use tokio::io::AsyncWriteExt;

/// Why a model could not be fetched to this host.
#[derive(Debug, Error)]
pub enum Error {
    /// The store refused the request, or failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The hub refused the request, or failed.
    #[error(transparent)]
    Hub(#[from] hub::Error),
    /// The location holds no model.
    #[error(
        "there is no model in `{0}`: it has no `config.json`\nhint: name a folder in Hugging Face's format"
    )]
    NoModel(String),
    /// A file differs from what was staged.
    #[error("`{file}` of `{url}` is damaged\nhint: delete it there, and start the run again")]
    Damaged {
        /// URL of the model.
        url: String,
        /// Key of the file.
        file: String,
    },
    /// The cache folder cannot be used.
    #[error("cannot write to the cache folder {}\nhint: set MUSTER_CACHE to a writable folder", path.display())]
    Disk {
        /// The path that could not be accessed.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the location that the user named is at fault, rather than the machines in between.
    pub fn is_users(&self) -> bool {
        match self {
            Error::Storage(e) => e.is_users(),
            Error::Hub(e) => e.is_users(),
            Error::NoModel(_) => true,
            Error::Damaged { .. } | Error::Disk { .. } => false,
        }
    }
}

/// The folder on this host that holds the model at `location`, downloaded first if necessary.
///
/// # Errors
/// [`enum@Error`].
pub async fn folder(location: &Location) -> Result<PathBuf, Error> {
    let url = match location {
        Location::File(path) => return Ok(path.clone()),
        Location::Url { .. } => location.to_string(),
        Location::Hub(name) => {
            let commit = Hub::from_env()?.resolve(name).await?;
            Location::Hub(name.at(commit)).to_string()
        }
    };
    fetched(&Storage::open_existing(&url)?, &root()).await
}

/// Where this host keeps downloaded models: `MUSTER_CACHE`, else the user's cache folder, else the temporary folder.
pub(crate) fn root() -> PathBuf {
    let folder = |variable, below: &str| {
        std::env::var_os(variable).filter(|v| !v.is_empty()).map(|v| Path::new(&v).join(below))
    };
    folder("MUSTER_CACHE", "")
        .or_else(|| folder("XDG_CACHE_HOME", "muster"))
        .or_else(|| folder("HOME", ".cache/muster"))
        .unwrap_or_else(|| std::env::temp_dir().join("muster"))
}

async fn fetched(model: &Storage, cache: &Path) -> Result<PathBuf, Error> {
    let objects: Vec<_> =
        model.list("").await?.into_iter().filter(|o| Staged::takes(&o.key)).collect();
    if !objects.iter().any(|o| o.key == "config.json") {
        return Err(Error::NoModel(model.url().to_owned()));
    }
    let models = cache.join("models");
    let folder = models.join(name(model.url(), &objects));
    let disk = |source| Error::Disk { path: folder.clone(), source };
    std::fs::create_dir_all(&models).map_err(disk)?;
    let lock = File::create(folder.with_extension("lock")).map_err(disk)?;
    let locked = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await;
    // The lock is held until this function returns. The task cannot panic, since it only waits.
    let _lock = locked.map_err(|e| disk(std::io::Error::other(e)))?.map_err(disk)?;
    if folder.is_dir() {
        return Ok(folder);
    }
    let part = folder.with_extension("part");
    if part.exists() {
        std::fs::remove_dir_all(&part).map_err(disk)?;
    }
    std::fs::create_dir(&part).map_err(disk)?;
    let digests = digests(model).await?;
    for object in &objects {
        tracing::info!(model = model.url(), file = object.key, bytes = object.bytes, "fetching");
        let pieces = model.pieces(&object.key, object.bytes, object.etag.as_deref());
        let path = part.join(&object.key);
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(disk)?;
        let found = write(&path, pieces).await?;
        if digests.get(&object.key).is_some_and(|wanted| *wanted != found) {
            let (url, file) = (model.url().to_owned(), object.key.clone());
            return Err(Error::Damaged { url, file });
        }
    }
    std::fs::rename(&part, &folder).map_err(disk)?;
    Ok(folder)
}

/// The name of a model's folder, derived from its URL and content.
fn name(url: &str, objects: &[Object]) -> String {
    let mut identity = url.to_owned();
    for Object { key, bytes, etag, .. } in objects {
        identity += &format!("\n{key} {bytes} {}", etag.as_deref().unwrap_or_default());
    }
    manifest::sha256(identity.as_bytes())[..32].to_owned()
}

/// The expected checksums of a staged model's files, by key; empty for a model that was not staged.
async fn digests(model: &Storage) -> Result<BTreeMap<String, String>, Error> {
    let body = match model.read(Staged::MANIFEST).await {
        Ok(body) => body,
        // A user's own model, which was not staged.
        Err(storage::Error::NotFound { .. }) => return Ok(BTreeMap::new()),
        Err(e) => return Err(e.into()),
    };
    let staged: Staged = serde_json::from_slice(&body).map_err(|_| Error::Damaged {
        url: model.url().to_owned(),
        file: Staged::MANIFEST.to_owned(),
    })?;
    Ok(staged.files.into_iter().map(|f| (f.key, f.digests.xxh3)).collect())
}

/// Writes a file, syncs it to disk and returns its checksum.
async fn write(
    path: &Path,
    pieces: impl Stream<Item = Result<Bytes, storage::Error>>,
) -> Result<String, Error> {
    let disk = |source| Error::Disk { path: path.to_owned(), source };
    let mut file = tokio::fs::File::create_new(path).await.map_err(disk)?;
    let mut hash = Checksum::default();
    let mut pieces = std::pin::pin!(pieces);
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        hash.update(&piece);
        file.write_all(&piece).await.map_err(disk)?;
    }
    file.sync_all().await.map_err(disk)?;
    Ok(hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::manifest::Digests;

    async fn model() -> Storage {
        let storage = Storage::memory();
        for (key, body) in [("config.json", "{}"), ("model.safetensors", "weights")] {
            storage.put(key, body).await.unwrap();
        }
        storage.put("pytorch_model.bin", "the same, in another format").await.unwrap();
        storage.put("additional_chat_templates/tool_use.jinja", "tools").await.unwrap();
        storage.put("original/params.json", "{}").await.unwrap();
        storage
    }

    #[tokio::test]
    async fn concurrent_ranks_fetch_a_model_once() {
        let (model, cache) = (model().await, tempfile::tempdir().unwrap());
        let ranks = (0..4).map(|_| fetched(&model, cache.path()));
        let folders = futures::future::try_join_all(ranks).await.unwrap();
        assert!(folders.iter().all(|f| *f == folders[0]));
        assert_eq!(std::fs::read(folders[0].join("model.safetensors")).unwrap(), b"weights");
        let template = folders[0].join("additional_chat_templates/tool_use.jinja");
        assert_eq!(std::fs::read(template).unwrap(), b"tools");
        assert!(!folders[0].join("pytorch_model.bin").exists());
        assert!(!folders[0].join("original").exists());
        let entries = cache.path().join("models").read_dir().unwrap().count();
        assert_eq!(entries, 2, "the model and its lock");
    }

    #[tokio::test]
    async fn new_content_gets_a_new_folder_and_a_broken_fetch_starts_over() {
        let (model, cache) = (model().await, tempfile::tempdir().unwrap());
        let first = fetched(&model, cache.path()).await.unwrap();
        model.put("model.safetensors", "tuned").await.unwrap();
        let objects = model.list("").await.unwrap();
        let objects: Vec<_> = objects.into_iter().filter(|o| Staged::takes(&o.key)).collect();
        let part = cache.path().join("models").join(name(model.url(), &objects));
        std::fs::create_dir(part.with_extension("part")).unwrap();
        std::fs::write(part.with_extension("part").join("model.safetensors"), "tu").unwrap();
        let second = fetched(&model, cache.path()).await.unwrap();
        assert_ne!(first, second);
        assert_eq!(std::fs::read(second.join("model.safetensors")).unwrap(), b"tuned");
    }

    #[tokio::test]
    async fn a_file_that_differs_from_what_was_staged_is_refused() {
        let (model, cache) = (model().await, tempfile::tempdir().unwrap());
        let file = manifest::File {
            key: "model.safetensors".into(),
            bytes: 7,
            digests: Digests::of(b"weighty"),
            tensors: Vec::new(),
        };
        let staged = serde_json::to_vec(&Staged { files: vec![file] }).unwrap();
        model.put(Staged::MANIFEST, staged).await.unwrap();
        let refused = fetched(&model, cache.path()).await;
        assert!(
            matches!(&refused, Err(Error::Damaged { file, .. }) if file == "model.safetensors")
        );
        assert!(matches!(fetched(&Storage::memory(), cache.path()).await, Err(Error::NoModel(_))));
    }
}
