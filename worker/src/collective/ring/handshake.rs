//! PURE: how two neighbours authenticate each other.
//!
//! ```text
//!  acceptor                                   connector
//!  greeting: protocol, challenge       ──▶
//!                                      ◀──    hello: run, generation, ranks, nonce, proof
//!  answer: welcome and proof, or refusal ─▶
//! ```
//!
//! A proof is an HMAC-SHA256 with the generation's key over both nonces and all claims, so it can neither be made
//! without the key nor be replayed. A refusal carries no proof, since the refused side may not share the key. Its
//! only purpose is a useful error message.

use std::fmt;

use super::secret::Secret;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// The first bytes from each side; the version digit is incremented whenever the handshake or the data format
/// changes.
const PROTOCOL: [u8; 16] = *b"muster ring v2\r\n";

pub(super) const GREETING_BYTES: usize = 48;
pub(super) const HELLO_BYTES: usize = CLAIM_BYTES + PROOF_BYTES;
pub(super) const ANSWER_BYTES: usize = 56;
pub(super) const PROOF_BYTES: usize = 32;
const CLAIM_BYTES: usize = 104;

/// A random number that makes each handshake unique.
pub(super) type Nonce = [u8; 32];

/// One rank's place in one generation of a run.
#[derive(Clone)]
pub struct Membership {
    /// The run's id.
    pub run: String,
    /// Number of the generation.
    pub generation: u64,
    /// Number of this rank.
    pub rank: usize,
    /// Where each rank listens, `host:port`, in rank order.
    pub addresses: Vec<String>,
    /// The generation's shared secret.
    pub key: [u8; 32],
    /// Whether reductions are encrypted, too; everything else always is.
    pub encrypt: bool,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, generation, rank, addresses, key: _, encrypt } = self;
        f.debug_struct("Membership")
            .field("run", run)
            .field("generation", generation)
            .field("rank", rank)
            .field("addresses", addresses)
            .field("encrypt", encrypt)
            .finish_non_exhaustive()
    }
}

/// Why a connection is not accepted into the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The peer speaks another protocol, or another version of this one.
    #[error("different protocol")]
    Protocol,
    /// The peer belongs to another run.
    #[error("different run")]
    Run,
    /// The peer belongs to another generation of the run.
    #[error("expected generation {expected}, got {given}")]
    Generation {
        /// The connecting peer's value.
        given: u64,
        /// The acceptor's value.
        expected: u64,
    },
    /// The peer is not the acceptor's previous rank.
    #[error("expected rank {expected}, got {given}")]
    Rank {
        /// The connecting peer's value.
        given: u64,
        /// The acceptor's previous rank.
        expected: u64,
    },
    /// The two sides disagree on the world size.
    #[error("expected world size {expected}, got {given}")]
    WorldSize {
        /// The connecting peer's value.
        given: u64,
        /// The acceptor's value.
        expected: u64,
    },
    /// The peer does not have the key.
    #[error("the proof does not match the generation's key")]
    Proof,
}

/// Everything that both sides have sent and that a proof covers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transcript {
    challenge: Nonce,
    claim: [u8; CLAIM_BYTES],
}

/// The purpose of a proof, which prevents using it for another purpose.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Hello,
    Welcome,
    SocketName,
    Socket,
}

pub(super) fn greeting(challenge: &Nonce) -> [u8; GREETING_BYTES] {
    let mut greeting = [0; GREETING_BYTES];
    greeting[..16].copy_from_slice(&PROTOCOL);
    greeting[16..].copy_from_slice(challenge);
    greeting
}

/// The connector's reply to a greeting; `None` if the greeting is not an acceptor's.
pub(super) fn hello(
    membership: &Membership,
    greeting: &[u8; GREETING_BYTES],
    nonce: &Nonce,
) -> Option<(Transcript, [u8; HELLO_BYTES])> {
    let (protocol, challenge) = greeting.split_first_chunk()?;
    let challenge = *challenge.first_chunk()?;
    if *protocol != PROTOCOL {
        return None;
    }
    let claim = claim(membership, membership.rank, nonce);
    let transcript = Transcript { challenge, claim };
    let mut hello = [0; HELLO_BYTES];
    hello[..CLAIM_BYTES].copy_from_slice(&claim);
    hello[CLAIM_BYTES..].copy_from_slice(&transcript.proof(&membership.key, Purpose::Hello));
    Some((transcript, hello))
}

/// Checks a hello on the acceptor's side.
pub(super) fn judge(
    membership: &Membership,
    challenge: &Nonce,
    hello: &[u8; HELLO_BYTES],
) -> Result<Transcript, Refusal> {
    let (given, proof) = hello.split_at(CLAIM_BYTES);
    let claimed: [u8; CLAIM_BYTES] = given.try_into().expect("a hello starts with a claim");
    let world_size = membership.addresses.len();
    let from = (membership.rank + world_size - 1) % world_size;
    let nonce = claimed.last_chunk().expect("a claim ends with a nonce");
    let wanted = claim(membership, from, nonce);

    if claimed[PROTOCOL_FIELD] != wanted[PROTOCOL_FIELD] {
        return Err(Refusal::Protocol);
    }
    if claimed[RUN_FIELD] != wanted[RUN_FIELD] {
        return Err(Refusal::Run);
    }
    let differ = |field: usize| {
        let (given, expected) = (number(&claimed, field), number(&wanted, field));
        (given != expected).then_some((given, expected))
    };
    if let Some((given, expected)) = differ(GENERATION_FIELD) {
        return Err(Refusal::Generation { given, expected });
    }
    if let Some((given, expected)) = differ(WORLD_FIELD) {
        return Err(Refusal::WorldSize { given, expected });
    }
    if let Some((given, expected)) = differ(FROM_FIELD) {
        return Err(Refusal::Rank { given, expected });
    }
    let transcript = Transcript { challenge: *challenge, claim: claimed };
    if transcript.verify(&membership.key, Purpose::Hello, proof) {
        Ok(transcript)
    } else {
        Err(Refusal::Proof)
    }
}

/// Encodes the acceptor's welcome or refusal.
pub(super) fn answer(
    membership: &Membership,
    judgement: &Result<Transcript, Refusal>,
) -> [u8; ANSWER_BYTES] {
    let mut answer = [0; ANSWER_BYTES];
    let (code, given, expected) = match *judgement {
        Ok(transcript) => {
            let proof = transcript.proof(&membership.key, Purpose::Welcome);
            answer[24..].copy_from_slice(&proof);
            (0u64, 0, 0)
        }
        Err(Refusal::Protocol) => (1, 0, 0),
        Err(Refusal::Run) => (2, 0, 0),
        Err(Refusal::Generation { given, expected }) => (3, given, expected),
        Err(Refusal::Rank { given, expected }) => (4, given, expected),
        Err(Refusal::WorldSize { given, expected }) => (5, given, expected),
        Err(Refusal::Proof) => (6, 0, 0),
    };
    for (field, value) in [code, given, expected].into_iter().enumerate() {
        answer[8 * field..][..8].copy_from_slice(&value.to_le_bytes());
    }
    answer
}

/// Checks the answer on the connector's side; `None` if it is not an acceptor's.
pub(super) fn heed(
    membership: &Membership,
    transcript: &Transcript,
    answer: &[u8; ANSWER_BYTES],
) -> Option<Result<(), Refusal>> {
    let (given, expected) = (number(answer, 8), number(answer, 16));
    Some(match number(answer, 0) {
        0 if transcript.verify(&membership.key, Purpose::Welcome, &answer[24..]) => Ok(()),
        0 => Err(Refusal::Proof),
        1 => Err(Refusal::Protocol),
        2 => Err(Refusal::Run),
        3 => Err(Refusal::Generation { given, expected }),
        4 => Err(Refusal::Rank { given, expected }),
        5 => Err(Refusal::WorldSize { given, expected }),
        6 => Err(Refusal::Proof),
        _ => return None,
    })
}

const PROTOCOL_FIELD: std::ops::Range<usize> = 0..16;
const RUN_FIELD: std::ops::Range<usize> = 16..48;
const GENERATION_FIELD: usize = 48;
const FROM_FIELD: usize = 56;
const WORLD_FIELD: usize = 64;

/// Layout: protocol (16 bytes), SHA-256 of the run's id (32), generation, rank and world size (u64 each), nonce (32).
/// The addressee follows from rank and world size.
fn claim(membership: &Membership, from: usize, nonce: &Nonce) -> [u8; CLAIM_BYTES] {
    let mut claim = [0; CLAIM_BYTES];
    claim[PROTOCOL_FIELD].copy_from_slice(&PROTOCOL);
    claim[RUN_FIELD].copy_from_slice(&Sha256::digest(&membership.run));
    let numbers = [
        (GENERATION_FIELD, membership.generation),
        (FROM_FIELD, from as u64),
        (WORLD_FIELD, membership.addresses.len() as u64),
    ];
    for (field, value) in numbers {
        claim[field..][..8].copy_from_slice(&value.to_le_bytes());
    }
    claim[CLAIM_BYTES - nonce.len()..].copy_from_slice(nonce);
    claim
}

fn number(bytes: &[u8], field: usize) -> u64 {
    u64::from_le_bytes(*bytes[field..].first_chunk().expect("fields lie within their message"))
}

impl Transcript {
    /// The secret of the link that this handshake has made.
    pub(super) fn secret(&self, membership: &Membership) -> Secret {
        let encrypt = [membership.encrypt.into()];
        Secret::new(&membership.key, &self.challenge, &[&self.claim, &encrypt])
    }

    pub(super) fn proof(&self, key: &[u8; 32], purpose: Purpose) -> [u8; PROOF_BYTES] {
        self.mac(key, purpose).finalize().into_bytes().into()
    }

    pub(super) fn verify(&self, key: &[u8; 32], purpose: Purpose, proof: &[u8]) -> bool {
        self.mac(key, purpose).verify_slice(proof).is_ok()
    }

    fn mac(&self, key: &[u8; 32], purpose: Purpose) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(match purpose {
            Purpose::Hello => b"hello",
            Purpose::Welcome => b"welcome",
            Purpose::SocketName => b"socket name",
            Purpose::Socket => b"socket",
        });
        mac.update(&self.challenge);
        mac.update(&self.claim);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(rank: usize) -> Membership {
        let addresses = vec!["a:1".to_owned(), "b:2".to_owned()];
        Membership {
            run: "tulip".to_owned(),
            generation: 5,
            rank,
            addresses,
            key: [7; 32],
            encrypt: false,
        }
    }

    #[test]
    fn hello_is_good_for_one_challenge_only() {
        let (challenge, other) = ([1; 32], [2; 32]);
        let heard = hello(&membership(0), &greeting(&challenge), &[3; 32]);
        let (transcript, hello) = heard.expect("the greeting is valid");
        let judged = judge(&membership(1), &challenge, &hello).expect("it was made for this one");
        assert_eq!(judged.claim, transcript.claim);
        let replayed = judge(&membership(1), &other, &hello);
        assert_eq!(replayed.err(), Some(Refusal::Proof));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let challenge = [1; 32];
        let (_, hello) =
            hello(&membership(0), &greeting(&challenge), &[3; 32]).expect("a valid greeting");
        for bit in 0..8 * HELLO_BYTES {
            let mut flipped = hello;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(judge(&membership(1), &challenge, &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn decoded_answers_equal_what_was_encoded() {
        let challenge = [1; 32];
        let heard = hello(&membership(0), &greeting(&challenge), &[3; 32]);
        let (transcript, _) = heard.expect("the greeting is valid");
        let judgements = [
            Ok(transcript),
            Err(Refusal::Protocol),
            Err(Refusal::Run),
            Err(Refusal::Generation { given: 4, expected: 5 }),
            Err(Refusal::Rank { given: 2, expected: 0 }),
            Err(Refusal::WorldSize { given: 3, expected: 2 }),
            Err(Refusal::Proof),
        ];
        for judgement in judgements {
            let answer = answer(&membership(1), &judgement);
            let heeded = heed(&membership(0), &transcript, &answer);
            assert_eq!(heeded, Some(judgement.map(drop)));
        }
    }

    #[test]
    fn welcome_without_the_key_is_rejected() {
        let challenge = [1; 32];
        let heard = hello(&membership(0), &greeting(&challenge), &[3; 32]);
        let (transcript, _) = heard.expect("the greeting is valid");
        let answer = [0; ANSWER_BYTES];
        assert_eq!(heed(&membership(0), &transcript, &answer), Some(Err(Refusal::Proof)));
    }

    #[test]
    fn proof_is_the_published_hmac() {
        // RFC 4231, test case 2, applied to the crate on which the whole handshake relies.
        let mut mac = Hmac::<Sha256>::new_from_slice(b"Jefe").expect("any length");
        mac.update(b"what do ya want for nothing?");
        let right = [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e];
        assert_eq!(mac.finalize().into_bytes()[..8], right);
    }
}
