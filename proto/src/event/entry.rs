//! The encoding of a journal entry. It begins with a digest of all bytes after the digest.
//!
//! ```text
//! {"sha256":"<64 hex digits>","token":"...","at_ms":...,"events":[...]}
//!                             '------------- digested -------------'
//! ```
//!
//! Entries in the first format have no digest and begin with the token. Everything else is refused, so that no
//! flipped bit can turn one format into the other.

use crate::manifest::sha256;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const HEAD: &[u8] = b"{\"sha256\":\"";
const DIGITS: usize = 64;
const TAIL: &[u8] = b"\",";
/// The beginning of an entry without a digest.
const UNDIGESTED: &[u8] = b"{\"token\":\"";

/// One journal entry: of a run, with [`Fact`](super::Fact)s, or of a pool, with [`PoolEvent`](super::PoolEvent)s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry<E> {
    /// A unique token of the writer. By this token, a writer recognizes its own entry if the result of a write was
    /// lost.
    pub token: String,
    /// Milliseconds since 1970, for people only.
    pub at_ms: u64,
    /// The events, in order.
    pub events: Vec<E>,
}

/// Why bytes are not an entry.
#[derive(Debug, Error)]
pub enum EntryError {
    /// The bytes are not what was written. The stored entry may still be intact.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// The bytes are intact, but were written by another version and contain something unknown.
    #[error("it is of another version\nhint: use the version that wrote it, or a newer one")]
    Foreign(#[source] serde_json::Error),
}

impl<E: Serialize> Entry<E> {
    /// Encodes the entry.
    pub fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("events are JSON");
        let digested = &json[1..];
        [HEAD, sha256(digested).as_bytes(), TAIL, digested].concat()
    }
}

impl<E: DeserializeOwned> Entry<E> {
    /// Decodes an entry.
    ///
    /// # Errors
    /// [`EntryError`]. After [`EntryError::Damaged`], the caller should read the object again.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        match bytes.strip_prefix(HEAD).and_then(|rest| rest.split_at_checked(DIGITS)) {
            Some((digest, rest)) => {
                let digested = rest.strip_prefix(TAIL);
                if digested.is_none_or(|d| sha256(d).as_bytes() != digest) {
                    return Err(EntryError::Damaged("its content has another digest"));
                }
                serde_json::from_slice(bytes).map_err(EntryError::Foreign)
            }
            None if bytes.starts_with(UNDIGESTED) => {
                serde_json::from_slice(bytes).map_err(|error| match error.classify() {
                    serde_json::error::Category::Data => EntryError::Foreign(error),
                    serde_json::error::Category::Io
                    | serde_json::error::Category::Syntax
                    | serde_json::error::Category::Eof => EntryError::Damaged("it is not JSON"),
                })
            }
            None => Err(EntryError::Damaged("it does not begin like an entry")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Fact, PoolEvent};

    fn entry() -> Entry<Fact> {
        let evaluated =
            Fact::Evaluated { step: 3, loss: 0.1 + 0.2, by_source: vec![None, Some(1e-7)] };
        Entry { token: "t".into(), at_ms: 5, events: vec![evaluated, Fact::Paused { step: 3 }] }
    }

    #[test]
    fn an_entry_is_json_that_begins_with_the_digest_of_the_rest() {
        let bytes = entry().encode();
        let json: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(json["events"][1], serde_json::json!({"event": "paused", "step": 3}));
        // `printf '%s' '"token":...}' | sha256sum`
        let entry = Entry::<Fact> { token: "t".into(), at_ms: 5, events: vec![Fact::Cancelled] };
        let digest = "c2b3a2e918fb64e26c7294225dcd8652bbb1e346b3b023d2b18f17cc1d6ea4cb";
        let wanted = format!(
            r#"{{"sha256":"{digest}","token":"t","at_ms":5,"events":[{{"event":"cancelled"}}]}}"#
        );
        assert_eq!(String::from_utf8(entry.encode()).expect("text"), wanted);
    }

    #[test]
    fn entries_round_trip() {
        assert_eq!(Entry::decode(&entry().encode()).expect("whole"), entry());
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_detected() {
        let bytes = entry().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = Entry::<Fact>::decode(&flipped);
            assert!(matches!(read, Err(EntryError::Damaged(_))), "bit {bit}: {read:?}");
        }
        for length in 0..bytes.len() {
            let read = Entry::<Fact>::decode(&bytes[..length]);
            assert!(matches!(read, Err(EntryError::Damaged(_))), "{length} bytes: {read:?}");
        }
    }

    #[test]
    fn entries_without_a_digest_are_still_read() {
        let old = br#"{"token":"t","at_ms":5,"events":[{"event":"claimed","epoch":6},{"event":"cancelled"}]}"#;
        let read = Entry::<Fact>::decode(old).expect("of the first format");
        assert_eq!(read.events[1], Fact::Cancelled);
        assert!(matches!(read.events[0], Fact::Claimed { holder: None, .. }));
        let pool = br#"{"token":"t","at_ms":5,"events":[{"event":"opened","epoch":6}]}"#;
        assert!(Entry::<PoolEvent>::decode(pool).is_ok());
        let cut = Entry::<Fact>::decode(&old[..old.len() - 1]);
        assert!(matches!(cut, Err(EntryError::Damaged(_))), "{cut:?}");
    }

    #[test]
    fn a_loss_that_json_cannot_represent_is_read_as_nan() {
        let old = br#"{"token":"t","at_ms":5,"events":[
            {"event":"evaluated","step":8,"loss":null,"by_source":[null,1.5]},
            {"event":"evaluated","step":16,"loss":0.5,"by_source":[0.5,null]}]}"#;
        let of = |event: &Fact| match event {
            Fact::Evaluated { step, loss, by_source } => (*step, *loss, by_source.clone()),
            other => panic!("{other:?}"),
        };
        let read = Entry::<Fact>::decode(old).expect("of the first format");
        let (step, loss, by_source) = of(&read.events[0]);
        assert!(step == 8 && loss.is_nan() && by_source == [None, Some(1.5)], "{read:?}");
        assert_eq!(of(&read.events[1]), (16, 0.5, vec![Some(0.5), None]));

        for loss in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let evaluated = Fact::Evaluated { step: 8, loss, by_source: vec![Some(loss)] };
            let written = Entry { token: "t".into(), at_ms: 5, events: vec![evaluated] }.encode();
            let text = String::from_utf8_lossy(&written).into_owned();
            assert!(text.contains(r#""loss":null,"by_source":[null]"#), "{text}");
            let (_, read, by_source) =
                of(&Entry::<Fact>::decode(&written).expect("our own bytes").events[0]);
            assert!(read.is_nan() && by_source == [None], "{read} {by_source:?}");
        }
    }

    #[test]
    fn a_loss_that_is_missing_or_not_a_number_is_refused() {
        for loss in ["", r#""loss":"NaN","#, r#""loss":true,"#] {
            let event = format!(r#"{{"event":"evaluated","step":8,{loss}"by_source":[]}}"#);
            let entry = format!(r#"{{"token":"t","at_ms":5,"events":[{event}]}}"#);
            let read = Entry::<Fact>::decode(entry.as_bytes());
            assert!(matches!(read, Err(EntryError::Foreign(_))), "{loss}: {read:?}");
        }
    }

    #[test]
    fn an_entry_of_a_newer_version_is_not_reported_as_damaged() {
        let newer = Entry { token: "t".into(), at_ms: 5, events: vec!["something new"] }.encode();
        let read = Entry::<Fact>::decode(&newer);
        assert!(matches!(read, Err(EntryError::Foreign(_))), "{read:?}");
    }
}
