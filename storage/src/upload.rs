//! Writing an object part by part: bounded memory, a few parts in flight, each of them tried again alone.
//!
//! Nothing exists under the key until all parts are there. An upload that fails or is dropped is given up in the store
//! as well; one whose end cannot be told to the store stays there unfinished: see [`Storage::unfinished`].

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

/// The least that goes in one part; S3 wants 5 MiB. What is smaller than one goes at once.
const PART: u64 = 8 << 20;
/// S3 takes so many parts of an object, Google as many, Azure more.
const MOST_PARTS: u64 = 10_000;
/// Parts that are under way at once, each of them in memory.
const PARTS: usize = 4;
/// Attempts at a part, each with the client's own retries and with a signature of its own.
const ATTEMPTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(100);
/// Parts on their way are waited for so long before their upload is given up.
const ARRIVES: Duration = Duration::from_secs(5);

/// Whose parts an object is made of.
const MARK: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("musterupload"));

impl Storage {
    /// Writes an object of so many bytes piece by piece, over whatever is there, and gives its ETag where the store
    /// has one; the object exists once all of it is written.
    ///
    /// # Errors
    /// The first error of `pieces`, [`Error::Damaged`] where they are more or fewer bytes than announced, or
    /// [`Error::Access`]; nothing is written then.
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
        // A task of its own: dropped before the store has said the upload's name, it ends all the same, and gives up.
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

    /// The pieces, and an error after them if they are not so many bytes.
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

/// Parts of one size, as some stores want it, and no more than a store takes.
fn part_size(bytes: u64) -> u64 {
    PART.max(bytes.div_ceil(MOST_PARTS).next_multiple_of(1 << 20))
}

/// An upload under way; dropped, it is given up.
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

    /// Makes the parts one object, and looks at it.
    ///
    /// A store may have done so and not have said so, or answer a retry that it knows of no such upload: the mark tells
    /// whose object is there.
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
            (Ok(_), Ok(_)) => Err(storage.damaged(key, "another has written there".into())),
            (Err(e), Ok(_)) => Err(access("look at", e)),
        }
    }

    async fn abort(mut self) {
        if let Some(writer) = self.writer.take() {
            given_up(writer, std::mem::take(&mut self.key)).await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(writer), Ok(runtime)) = (self.writer.take(), Handle::try_current()) {
            runtime.spawn(given_up(writer, std::mem::take(&mut self.key)));
        }
    }
}

async fn given_up(mut writer: WriteMultipart, key: String) {
    // A part that arrives after its upload's end may stay for ever, and bring the upload back.
    let arrived = async { while writer.wait_for_capacity(1).await.is_err() {} };
    if tokio::time::timeout(ARRIVES, arrived).await.is_err() {
        tracing::debug!(key, "parts of a given-up upload are still on their way");
    }
    if let Err(error) = writer.abort().await {
        // What is left there is swept up some day.
        tracing::debug!(key, error = proto::error::chain(&error), "an upload stays unfinished");
    }
}

/// Tries a part again once the client has given it up, or if it arrived damaged.
#[derive(Debug)]
struct EachPart(Limits);

#[async_trait::async_trait]
impl RetryPolicy for EachPart {
    async fn retry(&self, context: RetryContext) -> bool {
        let forbidden = match context.failure {
            // An upload that is gone does not come back.
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
    fn parts_grow_with_the_object_so_that_they_are_never_too_many() {
        assert_eq!(part_size(PART + 1), PART);
        assert_eq!(part_size(PART * MOST_PARTS), PART);
        for bytes in [PART * MOST_PARTS + 1, 1 << 40, 5 << 40] {
            let part = part_size(bytes);
            assert!(part > PART && bytes.div_ceil(part) <= MOST_PARTS, "{bytes}: {part}");
        }
    }
}
