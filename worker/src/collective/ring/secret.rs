//! PURE: the keys of a link, by HKDF-SHA256 (RFC 5869) from the generation's key.
//!
//! ```text
//! generation's key ─┬─ handshake's numbers and claims ─▶ secret of one link ─┬─▶ values, key 0, 1, ...
//!                   │                                                        └─▶ notice
//!                   └─ proofs of the handshake
//! ```
//!
//! Both sides have drawn a number for the handshake, so no two links ever share a key, and each key is used by one
//! side.

use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};

/// What both ends of one link know, and nobody else.
#[derive(Clone, Debug)]
pub(super) struct Secret(Prk);

/// What a key encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Records that travel with the data. The key with the given number.
    Values(u64),
    /// The notice that travels against it.
    Notice,
}

impl Secret {
    /// `salt` is what makes the link unique, and `claims` is what both sides must agree on.
    pub(super) fn new(key: &[u8; 32], salt: &[u8], claims: &[&[u8]]) -> Self {
        let extracted = Salt::new(HKDF_SHA256, salt).extract(key);
        let claims = [&[b"muster ring link".as_slice()], claims].concat();
        let mut secret = [0; 32];
        let expanded = extracted.expand(&claims, HKDF_SHA256).expect("32 bytes are allowed");
        expanded.fill(&mut secret).expect("as many bytes as were asked for");
        Self(Prk::new_less_safe(HKDF_SHA256, &secret))
    }

    pub(super) fn key(&self, of: Use) -> LessSafeKey {
        let number = match of {
            Use::Values(number) => number,
            Use::Notice => 0,
        }
        .to_le_bytes();
        let name: &[u8] = match of {
            Use::Values(_) => b"values",
            Use::Notice => b"notice",
        };
        let info = [name, &number];
        let expanded = self.0.expand(&info, &AES_256_GCM).expect("32 bytes are allowed");
        LessSafeKey::new(UnboundKey::from(expanded))
    }
}
