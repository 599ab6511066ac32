//! Memory-maps the parts of prepared shards, since prepared data may be larger than memory.
//!
//! On a local output, parts are mapped in place. From any other store, each part is first downloaded to a cache
//! folder that the ranks of a host share.

use crate::cache;
use crate::inputs::storage_trouble;
use crate::session::Trouble;
use bytes::Bytes;
use memmap2::Mmap;
use proto::id;
use proto::protocol::Cause;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use storage::Storage;

/// Maps a stored object.
///
/// # Errors
/// [`Cause::Storage`] if it cannot be fetched, [`Cause::Internal`] if the cache cannot be read or written.
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
    write(path, &body).and_then(|()| map_file(path)).map_err(broken)
}

/// Writes under a temporary name and renames once the data is on disk, so that neither a crash, nor a power loss, nor
/// another rank that fetches the same part leaves a partial file under the final name.
fn write(path: &Path, body: &[u8]) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let partial = path.with_extension(id::unique());
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(body)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&partial, path)).inspect_err(|_| {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
    })
}

fn unreadable(path: &Path, error: &io::Error, cause: Cause) -> Trouble {
    Trouble::new(cause, format!("{}: {error}", path.display()))
}

#[allow(unsafe_code)]
fn map_file(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    // SAFETY: no process writes into an existing part. A part gets its name by a rename once it is complete, and is
    // replaced in the same way; a mapping stays with the file that it was made from.
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
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no partial file is left"
        );
    }

    #[tokio::test]
    async fn a_part_on_a_local_output_is_mapped_in_place_and_survives_its_replacement() {
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
