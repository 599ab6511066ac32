//! Writes large objects part by part, with bounded memory. A few parts are in flight at once, and each part is
//! retried on its own.
//!
//! The object does not exist until all parts are stored. An upload that fails or is dropped is aborted in the
//! store. If the store cannot be reached for that, the upload remains there unfinished; see
//! [`Storage::unfinished`].

use crate::patience::Limits;
use crate::{Error, Storage};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use object_store::path::Path;
use object_store::retry::{RetryContext, RetryFailure, RetryPolicy};
use object_store::{
    Attribute, Attributes, GetOptions, ObjectStore, PutMultipartOptions, PutResult, WriteMultipart,
};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The minimum size of a part; S3 requires 5 MiB. Objects up to this size are written with one request.
const PART: u64 = 8 << 20;
/// The maximum number of parts of an object on S3 and Google. Azure accepts more.
const MOST_PARTS: u64 = 10_000;
/// The number of parts in flight, all of which are in memory.
const PARTS: usize = 4;
/// The number of attempts at a part. Each has the client's own retries and a new signature.
const ATTEMPTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(100);
/// How long parts in flight are waited for before their upload is aborted.
const ARRIVES: Duration = Duration::from_secs(5);

/// The attribute with a unique mark of the upload that made an object.
const MARK: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("musterupload"));

impl Storage {
    /// Writes an object of `bytes` bytes from `pieces`, replacing any existing object, and returns its ETag if the
    /// store has one. The object exists only once all of it is written.
    ///
    /// # Errors
    /// The first error of `pieces`, [`Error::Damaged`] if they have more or fewer bytes than announced, or
    /// [`Error::Access`]. In all cases, nothing is written.
    pub async fn put_stream<E: From<Error>>(
        &self,
        key: &str,
        bytes: u64,
        pieces: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<Option<String>, E> {
        let mut pieces = std::pin::pin!(self.counted(key, bytes, pieces));
        if bytes <= PART {
            let mut body = BytesMut::with_capacity(bytes as usize);
            while let Some(piece) = pieces.next().await {
                body.extend_from_slice(&piece?);
            }
            return Ok(self.put_whole(key, &body.freeze()).await?);
        }
        // Spawned, so that an upload is aborted even if this future is dropped before the store has returned its id.
        let begin = Upload::begin(self.clone(), key.to_owned(), part_size(bytes));
        let mut upload = tokio::spawn(begin).await.expect("nothing in it panics")?;
        match upload.send(self, pieces).await {
            Ok(()) => Ok(upload.finish(self, bytes).await?),
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    /// Passes the pieces on, and adds an error if they do not have exactly `bytes` bytes.
    fn counted<'a, E: From<Error> + 'a>(
        &'a self,
        key: &'a str,
        bytes: u64,
        pieces: impl Stream<Item = Result<Bytes, E>> + 'a,
    ) -> impl Stream<Item = Result<Bytes, E>> + 'a {
        let counted = pieces.map(Some).chain(futures::stream::once(async { None }));
        counted.scan(0, move |sent, piece| {
            let wrong = |sent| {
                let what = format!("{sent} bytes were to be written, {bytes} were announced");
                Some(Err(E::from(self.damaged(key, what))))
            };
            let piece = match piece {
                Some(Ok(piece)) => {
                    *sent += piece.len() as u64;
                    if *sent > bytes { wrong(*sent) } else { Some(Ok(piece)) }
                }
                Some(Err(error)) => Some(Err(error)),
                None if *sent != bytes => wrong(*sent),
                None => None,
            };
            std::future::ready(piece)
        })
    }
}

/// The part size for an object. All parts have the same size, which some stores require, and there are at most
/// [`MOST_PARTS`].
fn part_size(bytes: u64) -> u64 {
    PART.max(bytes.div_ceil(MOST_PARTS).next_multiple_of(1 << 20))
}

/// An upload in progress. It is aborted when it is dropped.
struct Upload {
    key: String,
    path: Path,
    mark: String,
    part: usize,
    writer: Option<WriteMultipart>,
}

impl Upload {
    async fn begin(storage: Storage, key: String, part: u64) -> Result<Self, Error> {
        let (path, mark, part) = (storage.path(&key)?, proto::id::unique(), part as usize);
        let attributes = match storage.kind.keeps_attributes() {
            true => Attributes::from_iter([(MARK, mark.clone())]),
            false => Attributes::new(),
        };
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let options = options.with_retry_policy(Arc::new(EachPart(storage.patience.limits())));
        let begun = storage.insist("write", &key, || async {
            let begun = storage.store.put_multipart_opts(&path, options.clone()).await;
            begun.map_err(|e| storage.access("write", &key, e))
        });
        let writer = WriteMultipart::new_with_chunk_size(begun.await?, part);
        Ok(Self { key, path, mark, part, writer: Some(writer) })
    }

    async fn send<E: From<Error>>(
        &mut self,
        storage: &Storage,
        mut pieces: Pin<&mut impl Stream<Item = Result<Bytes, E>>>,
    ) -> Result<(), E> {
        let writer = self.writer.as_mut().expect("it is taken only to end");
        while let Some(piece) = pieces.next().await {
            let mut piece = piece?;
            while !piece.is_empty() {
                writer.put(piece.split_to(self.part.min(piece.len())));
                let room = writer.wait_for_capacity(PARTS).await;
                room.map_err(|e| storage.access("write", &self.key, e))?;
            }
        }
        Ok(())
    }

    /// Completes the upload and checks the resulting object.
    ///
    /// If a reply is lost, the store may have completed the upload, and reply to the retry that it does not exist.
    /// The object's mark then shows that it is ours.
    async fn finish(mut self, storage: &Storage, bytes: u64) -> Result<Option<String>, Error> {
        let finished = self.writer.take().expect("it is taken only to end").finish().await;
        let (key, access) = (&self.key, |verb, e| storage.access(verb, &self.key, e));
        if !storage.kind.keeps_attributes() {
            return finished.map(|PutResult { e_tag, .. }| e_tag).map_err(|e| access("write", e));
        }
        let head = GetOptions::new().with_head(true);
        match (storage.store.get_opts(&self.path, head).await, finished) {
            (Ok(found), _) if found.attributes.get(&MARK).is_some_and(|m| **m == *self.mark) => {
                if found.meta.size == bytes {
                    return Ok(found.meta.e_tag);
                }
                let what = format!("{} of {bytes} bytes were stored", found.meta.size);
                Err(storage.damaged(key, what))
            }
            (_, Err(e)) => Err(access("write", e)),
            (Ok(_), Ok(_)) => Err(storage.damaged(key, "another writer has replaced it".into())),
            (Err(e), Ok(_)) => Err(access("check", e)),
        }
    }

    async fn abort(mut self) {
        if let Some(writer) = self.writer.take() {
            abort(writer, std::mem::take(&mut self.key)).await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(writer), Ok(runtime)) = (self.writer.take(), Handle::try_current()) {
            runtime.spawn(abort(writer, std::mem::take(&mut self.key)));
        }
    }
}

async fn abort(mut writer: WriteMultipart, key: String) {
    // A part that arrives after the abort may bring the upload back and remain forever.
    let arrived = async { while writer.wait_for_capacity(1).await.is_err() {} };
    if tokio::time::timeout(ARRIVES, arrived).await.is_err() {
        tracing::debug!(key, "aborting an upload while parts are still in flight");
    }
    if let Err(error) = writer.abort().await {
        // `Storage::sweep` aborts it later.
        tracing::debug!(key, error = proto::error::chain(&error), "an upload remains unfinished");
    }
}

/// Retries a part after the client has given it up, or if it arrived damaged.
#[derive(Debug)]
struct EachPart(Limits);

#[async_trait::async_trait]
impl RetryPolicy for EachPart {
    async fn retry(&self, context: RetryContext) -> bool {
        let forbidden = match context.failure {
            // If permissions are missing or the upload is gone, a retry cannot help.
            RetryFailure::Status(status) => [401, 403, 404].contains(&status.as_u16()),
            _ => false,
        };
        if forbidden || context.attempt >= ATTEMPTS || context.elapsed >= self.0.retry_for {
            return false;
        }
        tokio::time::sleep(PAUSE.min(self.0.retry_for / 10)).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_large_objects_are_larger_so_that_there_are_never_too_many() {
        assert_eq!(part_size(PART + 1), PART);
        assert_eq!(part_size(PART * MOST_PARTS), PART);
        for bytes in [PART * MOST_PARTS + 1, 1 << 40, 5 << 40] {
            let part = part_size(bytes);
            assert!(part > PART && bytes.div_ceil(part) <= MOST_PARTS, "{bytes}: {part}");
        }
    }
}
