//! Stored parts as memory that the operating system pages in and out: prepared data may be larger than memory.
//!
//! On a local output they are mapped where they lie. From any other store each is fetched once, to a cache folder that
//! the ranks of a host share.

use crate::cache;
use crate::inputs::storage_trouble;
use crate::session::Trouble;
use bytes::Bytes;
use memmap2::Mmap;
use proto::id;
use proto::protocol::Cause;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use storage::Storage;

/// A stored object as mapped bytes.
///
/// # Errors
/// [`Cause::Storage`] where it cannot be fetched, [`Cause::Internal`] where the cache cannot be written.
pub(super) async fn map(storage: &Storage, key: &str) -> Result<Bytes, Trouble> {
    if let Some(path) = storage.local_path(key) {
        return map_file(&path).map_err(|e| unreadable(&path, &e, Cause::Storage));
    }
    map_cached(storage, key, &cache::root().join(key)).await
}

async fn map_cached(storage: &Storage, key: &str, path: &Path) -> Result<Bytes, Trouble> {
    let broken = |e: io::Error| unreadable(path, &e, Cause::Internal);
    match map_file(path) {
        Ok(bytes) => return Ok(bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(broken(e)),
    }
    let body = storage.read(key).await.map_err(storage_trouble)?;
    fetched(path, &body).and_then(|()| map_file(path)).map_err(broken)
}

/// Under its name at once and whole, whatever dies, and whoever fetches the same.
fn fetched(path: &Path, body: &[u8]) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let partial = path.with_extension(id::unique());
    fs::write(&partial, body).and_then(|()| fs::rename(&partial, path)).inspect_err(|_| {
        // The error that is told is the first.
        let _ = fs::remove_file(&partial);
    })
}

fn unreadable(path: &Path, error: &io::Error, cause: Cause) -> Trouble {
    Trouble::new(cause, format!("{}: {error}", path.display()))
}

#[allow(unsafe_code)]
fn map_file(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    // SAFETY: nobody writes into a part. It is put under its name whole, by a rename, and replaced in the same way by
    // equal bytes; the mapping keeps the file that it began with.
    let mapped = unsafe { Mmap::map(&file) }?;
    Ok(Bytes::from_owner(mapped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_of_a_remote_store_is_fetched_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prepared/f/shard-00000-000.safetensors");
        let storage = Storage::memory();
        storage.put("key", "a part").await.unwrap();
        assert_eq!(map_cached(&storage, "key", &path).await.unwrap(), "a part");
        storage.delete("key").await.unwrap();
        assert_eq!(map_cached(&storage, "key", &path).await.unwrap(), "a part", "cached");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else");
    }

    #[tokio::test]
    async fn a_part_on_a_local_output_is_mapped_where_it_lies_and_outlives_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path().to_str().unwrap()).unwrap();
        storage.put("a/part", "first").await.unwrap();
        let mapped = map(&storage, "a/part").await.unwrap();
        storage.put("a/part", "other").await.unwrap();
        assert_eq!(mapped, "first");
        assert_eq!(map(&storage, "a/part").await.unwrap(), "other");
        let error = map(&storage, "missing").await.unwrap_err();
        assert_eq!(error.cause, Cause::Storage);
    }
}
