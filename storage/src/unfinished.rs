//! Uploads that were begun and never ended, because the process that began them died or lost the connection.
//!
//! They are not objects and not listed, but are billed like objects. S3 keeps them until they are aborted, by a
//! request or by a lifecycle rule of the bucket. In a local folder, they are files `NAME#1` beside the future
//! `NAME`. Azure drops them after a week and cannot list them. Google keeps them until a lifecycle rule
//! (`AbortIncompleteMultipartUpload`) aborts them, and object_store cannot list them.

use crate::error::{answered, unreachable};
use crate::{Error, Storage};
use chrono::DateTime;
use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use reqwest::{Client, Method};
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The maximum number of pages of a listing, of a thousand uploads each.
const PAGES: usize = 1000;
/// The lifetime of a signed URL, which is used immediately.
const SIGNED_FOR: Duration = Duration::from_secs(300);

/// The place where a storage's unfinished uploads are found.
#[derive(Clone, Debug)]
pub(crate) enum Uploads {
    /// In a bucket, under the storage's prefix.
    Bucket(Arc<AmazonS3>, Path),
    /// In a folder and its subfolders.
    Folder(PathBuf),
    /// Nowhere: the store has no multipart uploads, or is read-only.
    None,
    /// Unknown: the store cannot list them.
    Unlisted,
}

/// An upload that was begun and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The key that the object would have, relative to the storage's prefix.
    pub key: String,
    /// The time since it was begun, measured with the store's clock and ours.
    pub age: Duration,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Upload(String),
    File(PathBuf),
}

impl Storage {
    /// The uploads to keys under `folder` that have not ended, including those in progress, sorted by key. Returns
    /// `None` if the store cannot list them.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn unfinished(&self, folder: &str) -> Result<Option<Vec<Unfinished>>, Error> {
        let mut found = match &self.uploads {
            Uploads::Unlisted => return Ok(None),
            Uploads::None => Vec::new(),
            Uploads::Folder(root) => {
                let (root, within) = (root.clone(), root.join(folder));
                let walked = tokio::task::spawn_blocking(move || unnamed(&root, within)).await;
                walked
                    .expect("a walk does not panic")
                    .map_err(|e| self.failed("list", folder, e))?
            }
            Uploads::Bucket(store, prefix) => self.in_bucket(store, prefix, folder).await?,
        };
        found.sort_by(|a, b| (&a.key, b.age).cmp(&(&b.key, a.age)));
        Ok(Some(found))
    }

    /// Aborts an upload. Succeeds if it has ended in the meantime.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn abandon(&self, upload: &Unfinished) -> Result<(), Error> {
        match (&upload.place, &self.uploads) {
            (Place::File(path), _) => match std::fs::remove_file(path) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    Err(self.failed("abort an upload to", &upload.key, e))
                }
                Ok(()) | Err(_) => Ok(()),
            },
            (Place::Upload(id), Uploads::Bucket(store, prefix)) => {
                let path = prefix.parts().chain(self.path(&upload.key)?.parts()).collect();
                match store.abort_multipart(&path, id).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(e) => Err(self.access("abort an upload to", &upload.key, e)),
                }
            }
            (Place::Upload(_), Uploads::Folder(_) | Uploads::None | Uploads::Unlisted) => Ok(()),
        }
    }

    /// Aborts the uploads to keys under `folder` that were begun at least `age` ago, and returns them.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn sweep(&self, folder: &str, age: Duration) -> Result<Vec<Unfinished>, Error> {
        let mut swept = self.unfinished(folder).await?.unwrap_or_default();
        swept.retain(|upload| upload.age >= age);
        for upload in &swept {
            self.abandon(upload).await?;
        }
        Ok(swept)
    }

    /// Calls S3's ListMultipartUploads. object_store does not implement it, but signs the URL.
    async fn in_bucket(
        &self,
        store: &AmazonS3,
        prefix: &Path,
        folder: &str,
    ) -> Result<Vec<Unfinished>, Error> {
        let within: Path = prefix.parts().chain(self.path(folder)?.parts()).collect();
        let within = if within.is_root() { String::new() } else { format!("{within}/") };
        let own = if prefix.is_root() { String::new() } else { format!("{prefix}/") };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut found = Vec::new();
        let mut after = Vec::new();
        for _ in 0..PAGES {
            let page =
                self.insist(LIST, folder, || self.page(store, folder, &within, &after)).await?;
            for Upload { key, upload_id, initiated } in page.uploads {
                let Some(key) = key.strip_prefix(&own) else { continue };
                let began = DateTime::parse_from_rfc3339(&initiated).map(|t| t.timestamp_millis());
                let began = began.ok().and_then(|t| t.try_into().ok()).unwrap_or(0);
                let age = now.saturating_sub(Duration::from_millis(began));
                found.push(Unfinished {
                    key: key.to_owned(),
                    age,
                    place: Place::Upload(upload_id),
                });
            }
            match (page.is_truncated, page.next_key_marker, page.next_upload_id_marker) {
                (true, Some(key), Some(id)) => {
                    after = vec![("key-marker", key), ("upload-id-marker", id)];
                }
                _ => break,
            }
        }
        Ok(found)
    }

    async fn page(
        &self,
        store: &AmazonS3,
        folder: &str,
        prefix: &str,
        after: &[(&str, String)],
    ) -> Result<Page, Error> {
        let query = [("uploads", ""), ("prefix", prefix)].into_iter();
        let query = query.chain(after.iter().map(|(name, value)| (*name, &value[..])));
        let options = SignedUrlOptions::new().with_query(query);
        let bucket = Path::default();
        let signed = store.signed_url_opts(Method::GET, &bucket, SIGNED_FOR, &options).await;
        let url = signed.map_err(|e| self.access(LIST, folder, e))?;
        let fault = |cause| self.caused(LIST, folder, cause);
        let limits = self.patience.limits();
        let client = Client::builder().connect_timeout(limits.connect).timeout(limits.request);
        let lost = |e: reqwest::Error| fault(unreachable(self.kind, e));
        let answer = client.build().map_err(lost)?.get(url).send().await.map_err(lost)?;
        let status = answer.status();
        let body = answer.text().await.map_err(lost)?;
        if !status.is_success() {
            return Err(fault(answered(self.kind, status.as_u16(), &body)));
        }
        quick_xml::de::from_str(&body)
            .map_err(|e| self.damaged(folder, format!("its list of uploads is malformed: {e}")))
    }

    fn failed(&self, verb: &'static str, key: &str, error: std::io::Error) -> Error {
        let (store, source) = ("LocalFileSystem", Box::new(error));
        self.access(verb, key, object_store::Error::Generic { store, source })
    }
}

const LIST: &str = "list the unfinished uploads of";

/// One page of the reply, an element `ListMultipartUploadsResult`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default, rename = "Upload")]
    uploads: Vec<Upload>,
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    upload_id: String,
    initiated: String,
}

/// Finds the files `NAME#1` that object_store writes before it renames them to `NAME`.
fn unnamed(root: &std::path::Path, within: PathBuf) -> std::io::Result<Vec<Unfinished>> {
    let mut found = Vec::new();
    let mut folders = vec![within];
    while let Some(folder) = folders.pop() {
        let entries = match folder.read_dir() {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Some((name, number)) = path.to_str().and_then(|p| p.rsplit_once('#')) else {
                continue;
            };
            let key = std::path::Path::new(name).strip_prefix(root).ok().and_then(|k| k.to_str());
            let (Some(key), Ok(_), Ok(about)) = (key, number.parse::<u64>(), path.metadata())
            else {
                continue;
            };
            let age = about.modified()?.elapsed().unwrap_or_default();
            found.push(Unfinished { key: key.to_owned(), age, place: Place::File(path) });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_uploads_is_parsed() {
        // From the documentation of ListMultipartUploads, shortened.
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Bucket>bucket</Bucket><KeyMarker></KeyMarker><UploadIdMarker></UploadIdMarker>
              <NextKeyMarker>my-movie.m2ts</NextKeyMarker>
              <NextUploadIdMarker>YW55IGlkZWEgd2h5IGVsdmluZydz</NextUploadIdMarker>
              <MaxUploads>3</MaxUploads><IsTruncated>true</IsTruncated>
              <Upload>
                <Key>my-divisor</Key><UploadId>XMgbGlrZSBlbHZpbmc</UploadId>
                <Owner><ID>b1d16700c70b0b05597d7acd6a3f92be</ID></Owner>
                <StorageClass>STANDARD</StorageClass>
                <Initiated>2010-11-10T20:48:33.000Z</Initiated>
              </Upload>
              <Upload>
                <Key>my-movie.m2ts</Key><UploadId>VXBsb2FkIElEIGZvciBlbHZpbm</UploadId>
                <Initiated>2010-11-10T20:48:33.000Z</Initiated>
              </Upload>
            </ListMultipartUploadsResult>"#;
        let page: Page = quick_xml::de::from_str(text).unwrap();
        let keys: Vec<_> = page.uploads.iter().map(|u| (&u.key[..], &u.upload_id[..])).collect();
        let second = ("my-movie.m2ts", "VXBsb2FkIElEIGZvciBlbHZpbm");
        assert_eq!(keys, [("my-divisor", "XMgbGlrZSBlbHZpbmc"), second]);
        assert!(page.is_truncated && page.next_key_marker.as_deref() == Some("my-movie.m2ts"));
        assert!(page.next_upload_id_marker.is_some());
    }

    #[tokio::test]
    async fn in_a_folder_files_that_were_never_renamed_are_unfinished() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path().to_str().unwrap()).unwrap();
        storage.put("a/b", "whole").await.unwrap();
        std::fs::write(folder.path().join("a/c#1"), "half").unwrap();
        std::fs::write(folder.path().join("a/c#1x"), "another's").unwrap();
        let found = storage.unfinished("").await.unwrap().unwrap();
        assert_eq!(found.iter().map(|u| &u.key[..]).collect::<Vec<_>>(), ["a/c"]);
        assert_eq!(storage.unfinished("b").await.unwrap(), Some(Vec::new()));
        storage.abandon(&found[0]).await.unwrap();
        storage.abandon(&found[0]).await.unwrap();
        assert_eq!(storage.unfinished("a").await.unwrap(), Some(Vec::new()));
        assert!(folder.path().join("a/c#1x").exists());
    }

    #[tokio::test]
    async fn only_old_uploads_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path().to_str().unwrap()).unwrap();
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
        for (name, age) in [("young#1", hour), ("old#1", 2 * day)] {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        let swept = storage.sweep("", day).await.unwrap();
        assert_eq!(swept.iter().map(|u| &u.key[..]).collect::<Vec<_>>(), ["old"]);
        let left = storage.unfinished("").await.unwrap().unwrap();
        assert_eq!(left.iter().map(|u| &u.key[..]).collect::<Vec<_>>(), ["young"]);
    }
}
