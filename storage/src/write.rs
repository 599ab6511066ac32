//! Writing an object at once, and proof that what is stored is what was sent.
//!
//! Three things can damage a body on its way. A store that checks what it gets refuses it: S3 and SeaweedFS verify the
//! SHA-256 that every upload bears in `x-amz-checksum-sha256` (SeaweedFS verifies no `x-amz-content-sha256`, which is
//! part of the signature). Of a store that may not check, the ETag tells: where it is the body's MD5 all is well, else
//! the object is read back. Google and Azure are spoken to over TLS only. And each body's SHA-256 goes with it as its
//! seal, by which whoever reads the whole of it sees damage that came later, or on the way back.

use crate::kind::Kind;
use crate::{Created, Error, Storage};
use bytes::Bytes;
use md5::{Digest, Md5};
use object_store::{
    Attribute, Attributes, ObjectStore, PutMode, PutOptions, PutPayload, PutResult,
};
use proto::manifest::sha256;

/// The SHA-256 of an object written at once, in hexadecimal. Azure takes no punctuation in such a name.
const SEAL: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("mustersha256"));

impl Storage {
    /// Writes an object, over whatever is there.
    ///
    /// # Errors
    /// [`Error::Access`], or [`Error::Damaged`] if it arrives damaged time and again.
    pub async fn put(&self, key: &str, body: impl Into<Bytes>) -> Result<(), Error> {
        self.put_whole(key, &body.into()).await.map(drop)
    }

    /// Writes an object if there is none, and says who holds the key.
    ///
    /// # Errors
    /// [`Error::Access`] or [`Error::Damaged`] if the outcome cannot be known.
    pub async fn create(&self, key: &str, body: impl Into<Bytes>) -> Result<Created, Error> {
        let body = body.into();
        // A create that is tried again after it has won finds its own body: its writer's token is in it.
        self.insist("create", key, || self.create_once(key, &body)).await
    }

    /// Writes an object, and gives its ETag.
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
                // The key is ours, and so nobody else's to write; only what it holds is wrong.
                Err(Error::Damaged { .. }) => {
                    self.put_whole(key, body).await?;
                    return Ok(Created::Ours);
                }
                proved => return proved.map(|()| Created::Ours),
            },
            Err(e) => self.access("create", key, e),
        };
        // A retry of a write that had won is answered "already exists"; a time-out says nothing at all; and where there
        // is nothing, S3's 409 only said that others are at it, too.
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

    /// What was acknowledged is what was sent.
    async fn prove(&self, key: &str, body: &Bytes, put: &PutResult) -> Result<(), Error> {
        let proved = self.kind != Kind::S3 || put.e_tag.as_deref().is_some_and(|e| is_md5(e, body));
        if proved || self.read(key).await? == *body {
            return Ok(());
        }
        Err(self.damaged(key, "what is stored is not what was sent".into()))
    }

    /// All of a body has come, and as it was written if its writer sealed it.
    pub(crate) fn intact(
        &self,
        key: &str,
        body: Bytes,
        bytes: u64,
        seal: Option<&str>,
    ) -> Result<Bytes, Error> {
        if body.len() as u64 != bytes {
            return Err(self.damaged(key, format!("{} of {bytes} bytes came", body.len())));
        }
        if seal.is_some_and(|seal| seal != sha256(&body)) {
            return Err(
                self.damaged(key, "its SHA-256 is not the one that its writer noted".into())
            );
        }
        Ok(body)
    }
}

/// What the writer noted, if all of the object was asked for.
pub(crate) fn seal(found: &object_store::GetResult) -> Option<String> {
    let whole = found.range == (0..found.meta.size);
    whole.then(|| found.attributes.get(&SEAL).map(|seal| seal.to_string())).flatten()
}

/// Whether an ETag is this body's MD5, as S3's are for what was written at once and not encrypted with a key of KMS.
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
