//! Writes an object with one request, and verifies that what is stored is what was sent.
//!
//! A damaged body is detected as follows:
//! - S3 and SeaweedFS verify the SHA-256 in `x-amz-checksum-sha256`, which every upload has, and refuse a damaged
//!   body. (SeaweedFS does not verify `x-amz-content-sha256`, which is part of the signature.)
//! - For S3-compatible stores that may not verify it, the ETag is compared with the body's MD5. If they differ, the
//!   object is read back.
//! - Connections to Google and Azure always use TLS.
//! - The SHA-256 of each body is stored as metadata, its *seal*. A read of the whole object verifies it, which
//!   detects damage in storage or on the way back.

use crate::kind::Kind;
use crate::{Created, Error, Storage};
use bytes::Bytes;
use md5::{Digest, Md5};
use object_store::{
    Attribute, Attributes, ObjectStore, PutMode, PutOptions, PutPayload, PutResult,
};
use proto::manifest::sha256;

/// The attribute with the SHA-256 of an object that was written with one request, in hexadecimal. Azure does not
/// allow punctuation in its name.
const SEAL: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("mustersha256"));

impl Storage {
    /// Writes an object, replacing any existing one.
    ///
    /// # Errors
    /// [`Error::Access`], or [`Error::Damaged`] if it arrives damaged in every attempt.
    pub async fn put(&self, key: &str, body: impl Into<Bytes>) -> Result<(), Error> {
        self.put_whole(key, &body.into()).await.map(drop)
    }

    /// Writes an object if none exists, and returns whether ours or another writer's exists now.
    ///
    /// # Errors
    /// [`Error::Access`] or [`Error::Damaged`] if the outcome is unknown.
    pub async fn create(&self, key: &str, body: impl Into<Bytes>) -> Result<Created, Error> {
        let body = body.into();
        // A retry of a create that has succeeded finds its own body, which it recognizes by the writer's token in it.
        self.insist("create", key, || self.create_once(key, &body)).await
    }

    /// Writes an object and returns its ETag.
    pub(crate) async fn put_whole(&self, key: &str, body: &Bytes) -> Result<Option<String>, Error> {
        self.insist("write", key, || self.put_once(key, body)).await
    }

    async fn put_once(&self, key: &str, body: &Bytes) -> Result<Option<String>, Error> {
        let put = self.put_in(PutMode::Overwrite, key, body).await;
        let put = put.map_err(|e| self.access("write", key, e))?;
        self.prove(key, body, &put).await?;
        Ok(put.e_tag)
    }

    async fn create_once(&self, key: &str, body: &Bytes) -> Result<Created, Error> {
        let refused = match self.put_in(PutMode::Create, key, body).await {
            Ok(put) => match self.prove(key, body, &put).await {
                // We created the object, so nobody else writes it. Only its content is wrong.
                Err(Error::Damaged { .. }) => {
                    self.put_whole(key, body).await?;
                    return Ok(Created::Ours);
                }
                proved => return proved.map(|()| Created::Ours),
            },
            Err(e) => self.access("create", key, e),
        };
        // The reply does not decide whose object it is: a retry of a create that had succeeded gets "already
        // exists", and after a timeout the outcome is unknown. If there is no object, S3's 409 only meant that
        // others were writing, too.
        match self.read(key).await {
            Ok(found) if found == *body => Ok(Created::Ours),
            Ok(found) => Ok(Created::Theirs(found)),
            Err(damaged @ Error::Damaged { .. }) => Err(damaged),
            Err(_) => Err(refused),
        }
    }

    async fn put_in(
        &self,
        mode: PutMode,
        key: &str,
        body: &Bytes,
    ) -> object_store::Result<PutResult> {
        let attributes = match self.kind.keeps_attributes() {
            true => Attributes::from_iter([(SEAL, sha256(body))]),
            false => Attributes::new(),
        };
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        let path = object_store::path::Path::parse(key)?;
        self.store.put_opts(&path, PutPayload::from_bytes(body.clone()), options).await
    }

    /// Verifies that the stored object is the one that was sent.
    async fn prove(&self, key: &str, body: &Bytes, put: &PutResult) -> Result<(), Error> {
        let proved = self.kind != Kind::S3 || put.e_tag.as_deref().is_some_and(|e| is_md5(e, body));
        if proved || self.read(key).await? == *body {
            return Ok(());
        }
        Err(self.damaged(key, "what is stored is not what was sent".into()))
    }

    /// Verifies that a body is complete, and that it matches its seal, if it has one.
    pub(crate) fn intact(
        &self,
        key: &str,
        body: Bytes,
        bytes: u64,
        seal: Option<&str>,
    ) -> Result<Bytes, Error> {
        if body.len() as u64 != bytes {
            return Err(self.damaged(key, format!("{} of {bytes} bytes arrived", body.len())));
        }
        if seal.is_some_and(|seal| seal != sha256(&body)) {
            return Err(self.damaged(key, "its SHA-256 is not the one stored with it".into()));
        }
        Ok(body)
    }
}

/// The seal of an object, if the whole object was requested.
pub(crate) fn seal(found: &object_store::GetResult) -> Option<String> {
    let whole = found.range == (0..found.meta.size);
    whole.then(|| found.attributes.get(&SEAL).map(|seal| seal.to_string())).flatten()
}

/// Whether an ETag is the MD5 of this body. S3's ETags are, for objects that were written with one request and not
/// encrypted with a KMS key.
fn is_md5(etag: &str, body: &[u8]) -> bool {
    let digest = Md5::digest(body);
    etag.trim_matches('"').bytes().eq(digest.iter().flat_map(|b| hex_digits(*b)))
}

fn hex_digits(byte: u8) -> [u8; 2] {
    let digit = |n: u8| b"0123456789abcdef"[usize::from(n)];
    [digit(byte >> 4), digit(byte & 15)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_the_md5_of_the_body_or_proves_nothing() {
        // RFC 1321, appendix A.5.
        assert!(is_md5("\"900150983cd24fb0d6963f7d28e17f72\"", b"abc"));
        assert!(!is_md5("\"900150983cd24fb0d6963f7d28e17f72\"", b"abd"));
        assert!(!is_md5("\"900150983cd24fb0d6963f7d28e17f72-1\"", b"abc"));
        assert!(!is_md5("", b"abc"));
    }
}
