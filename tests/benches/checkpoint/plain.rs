//! Plain writes and reads of the storage.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

const PART: usize = 8 << 20;
const AT_ONCE: usize = 8;

/// Objects of a checkpoint, by key.
pub(super) type Objects = Vec<(String, Bytes)>;

pub(super) enum Plain {
    Folder(PathBuf),
    Bucket(Box<dyn ObjectStore>, Path),
}

impl Plain {
    pub(super) fn new(url: &str) -> Result<Self> {
        if let Some(folder) = url.strip_prefix("file://") {
            return Ok(Self::Folder(PathBuf::from(folder).join("plain")));
        }
        let place = url.strip_prefix("s3://").context("--at takes file:// or s3://")?;
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_allow_http(true);
        Ok(Self::Bucket(Box::new(builder.build()?), Path::parse(prefix)?.join("plain")))
    }

    /// Writes the objects, and returns the seconds that it took.
    pub(super) async fn write(&self, objects: &Objects) -> Result<f64> {
        let start = Instant::now();
        for (key, body) in objects {
            match self {
                Self::Folder(folder) => {
                    let path = folder.join(key);
                    std::fs::create_dir_all(path.parent().context("a key has a folder")?)?;
                    let mut file = File::create(path)?;
                    file.write_all(body)?;
                    file.sync_all()?;
                }
                Self::Bucket(store, prefix) => {
                    let upload = store.put_multipart(&under(prefix, key)).await?;
                    let mut writer = WriteMultipart::new_with_chunk_size(upload, PART);
                    let mut rest = body.clone();
                    while !rest.is_empty() {
                        writer.put(rest.split_to(PART.min(rest.len())));
                        writer.wait_for_capacity(AT_ONCE).await?;
                    }
                    writer.finish().await?;
                }
            }
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// Reads the `wanted` objects, and returns the seconds that it took.
    pub(super) async fn read(
        &self,
        objects: &Objects,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<f64> {
        let start = Instant::now();
        let mut buffer = vec![0; PART];
        for (key, body) in objects.iter().filter(|(key, _)| wanted(key)) {
            let read = match self {
                Self::Folder(folder) => {
                    let mut file = File::open(folder.join(key))?;
                    let mut bytes = 0;
                    loop {
                        match file.read(&mut buffer)? {
                            0 => break bytes,
                            some => bytes += some,
                        }
                    }
                }
                Self::Bucket(store, prefix) => {
                    let path = &under(prefix, key);
                    let starts = (0..body.len()).step_by(PART);
                    let ranges = starts.map(|from| from as u64..body.len().min(from + PART) as u64);
                    stream::iter(ranges)
                        .map(|range| store.get_range(path, range))
                        .buffer_unordered(AT_ONCE)
                        .try_fold(0, async |bytes, piece| Ok(bytes + piece.len()))
                        .await?
                }
            };
            ensure!(read == body.len(), "{key}: {read} bytes");
        }
        Ok(start.elapsed().as_secs_f64())
    }

    pub(super) async fn clear(&self, objects: &Objects) -> Result<()> {
        match self {
            Self::Folder(folder) => std::fs::remove_dir_all(folder)?,
            Self::Bucket(store, prefix) => {
                for (key, _) in objects {
                    store.delete(&under(prefix, key)).await?;
                }
            }
        }
        Ok(())
    }
}

fn under(prefix: &Path, key: &str) -> Path {
    prefix.parts().chain(Path::from(key).parts()).collect()
}
