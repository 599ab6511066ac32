//! The encoding of consecutive steps as bytes, for the create-only objects `plan/<epoch>/<chunk>.bin`.
//!
//! ```text
//! "MSTRPLAN"  version u32  epoch u32  first step u64  steps u32  packs u32  samples u32
//! steps   x { weight f64  packs u32 }
//! packs   x { tokens u32  squares u64  samples u32 }
//! samples x u32                          ids, pack by pack
//! xxh3-128 of everything before          16 bytes; all numbers are little-endian
//! ```
//!
//! From a chunk alone, a worker can determine its part of a step: chunks contain the cost and the samples of each
//! pack.

use xxhash_rust::xxh3::xxh3_128;

/// The version of the layout above and of the planning algorithm. Programs with different versions cannot take part
/// in the same run.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"MSTRPLAN";
const DIGEST: usize = 16;

/// Consecutive steps of one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// The epoch's number, from 0.
    pub epoch: u32,
    /// The first step's number in the run, from 0.
    pub first_step: u64,
    /// The steps in order.
    pub steps: Vec<Step>,
}

/// The packs that one optimizer step trains on.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// W(s), the sum of all target weights of all its packs.
    pub weight: f64,
    /// Its packs, in the order of the epoch.
    pub packs: Vec<Pack>,
}

impl Step {
    /// Number of tokens in all packs.
    pub fn tokens(&self) -> u64 {
        self.packs.iter().map(|pack| u64::from(pack.tokens)).sum()
    }

    /// Ids of the samples in all packs.
    pub fn samples(&self) -> impl Iterator<Item = u32> {
        self.packs.iter().flat_map(|pack| pack.samples.iter().copied())
    }
}

/// Samples that share a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Number of tokens of its samples.
    pub tokens: u32,
    /// Sum of the squares of its samples' lengths, to which the cost of attention is proportional.
    pub squares: u64,
    /// Sample ids, longest first.
    pub samples: Vec<u32>,
}

impl Pack {
    /// The pack's cost in any unit, given the cost per token and per pair of tokens in a sample.
    pub fn cost(&self, per_token: u64, per_pair: u64) -> u64 {
        let linear = u64::from(self.tokens).saturating_mul(per_token);
        linear.saturating_add(self.squares.saturating_mul(per_pair))
    }
}

/// Why bytes are not a chunk that this program reads.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are too short, or are something else.
    #[error("not a plan chunk: {0} bytes that do not start with `MSTRPLAN`")]
    Foreign(usize),
    /// The chunk was written by another version of this program.
    #[error(
        "plan chunk of version {0}, this program reads {VERSION}\n\
         hint: run the same version of coordinator and worker"
    )]
    Version(u32),
    /// The bytes are truncated or damaged.
    #[error(
        "plan chunk of {bytes} bytes has digest {found:032x}, expected {expected:032x}\n\
         hint: fetch it again"
    )]
    Digest {
        /// Number of bytes given.
        bytes: usize,
        /// The digest of these bytes.
        found: u128,
        /// The digest that they contain.
        expected: u128,
    },
    /// The digest is right, but the counts contradict each other.
    #[error("plan chunk with inconsistent counts: {0}")]
    Inconsistent(&'static str),
}

impl Chunk {
    /// Encodes the chunk. Equal chunks have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let packs = || self.steps.iter().flat_map(|step| &step.packs);
        let samples: usize = packs().map(|pack| pack.samples.len()).sum();
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.first_step.to_le_bytes());
        for count in [self.steps.len(), packs().count(), samples] {
            bytes.extend_from_slice(&(count as u32).to_le_bytes());
        }
        for step in &self.steps {
            bytes.extend_from_slice(&step.weight.to_le_bytes());
            bytes.extend_from_slice(&(step.packs.len() as u32).to_le_bytes());
        }
        for pack in packs() {
            bytes.extend_from_slice(&pack.tokens.to_le_bytes());
            bytes.extend_from_slice(&pack.squares.to_le_bytes());
            bytes.extend_from_slice(&(pack.samples.len() as u32).to_le_bytes());
        }
        for sample in packs().flat_map(|pack| &pack.samples) {
            bytes.extend_from_slice(&sample.to_le_bytes());
        }
        let digest = xxh3_128(&bytes);
        bytes.extend_from_slice(&digest.to_le_bytes());
        bytes
    }

    /// Decodes a chunk and checks its digest.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::Digest`], the caller can fetch the bytes again.
    pub fn decode(bytes: &[u8]) -> Result<Chunk, Error> {
        let foreign = Error::Foreign(bytes.len());
        let (rest, digest) = bytes.split_last_chunk::<DIGEST>().ok_or(foreign)?;
        let mut reader = Reader(rest);
        if reader.take::<8>() != Ok(*MAGIC) {
            return Err(Error::Foreign(bytes.len()));
        }
        let version = reader.u32()?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let (found, expected) = (xxh3_128(rest), u128::from_le_bytes(*digest));
        if found != expected {
            return Err(Error::Digest { bytes: bytes.len(), found, expected });
        }
        reader.chunk()
    }
}

/// The bytes that have not been read yet.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, tail) =
            self.0.split_first_chunk::<N>().ok_or(Error::Inconsistent("it ends too early"))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.take().map(u64::from_le_bytes)
    }

    fn f64(&mut self) -> Result<f64, Error> {
        self.take().map(f64::from_le_bytes)
    }

    fn chunk(&mut self) -> Result<Chunk, Error> {
        let (epoch, first_step) = (self.u32()?, self.u64()?);
        let [steps, packs, samples] = [self.u32()?, self.u32()?, self.u32()?].map(u64::from);
        // Checked before anything is allocated, so that wrong counts cannot cause large allocations.
        if steps * 12 + packs * 16 + samples * 4 != self.0.len() as u64 {
            return Err(Error::Inconsistent("they do not match the number of bytes"));
        }
        let steps: Vec<(f64, u32)> =
            (0..steps).map(|_| Ok((self.f64()?, self.u32()?))).collect::<Result<_, Error>>()?;
        let heads: Vec<(u32, u64, u32)> = (0..packs)
            .map(|_| Ok((self.u32()?, self.u64()?, self.u32()?)))
            .collect::<Result<_, Error>>()?;
        let of_steps: u64 = steps.iter().map(|&(_, packs)| u64::from(packs)).sum();
        let of_packs: u64 = heads.iter().map(|&(_, _, samples)| u64::from(samples)).sum();
        if (of_steps, of_packs) != (packs, samples) {
            return Err(Error::Inconsistent("the parts do not add up to the totals"));
        }
        let mut heads = heads.into_iter();
        let mut pack = |(tokens, squares, samples): (u32, u64, u32)| {
            let samples = (0..samples).map(|_| self.u32()).collect::<Result<_, Error>>()?;
            Ok(Pack { tokens, squares, samples })
        };
        let mut step = |(weight, packs): (f64, u32)| {
            let packs = heads.by_ref().take(packs as usize);
            let packs = packs.map(&mut pack).collect::<Result<_, Error>>()?;
            Ok(Step { weight, packs })
        };
        Ok(Chunk {
            epoch,
            first_step,
            steps: steps.into_iter().map(&mut step).collect::<Result<_, Error>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> Chunk {
        let pack =
            |samples: &[u32]| Pack { tokens: 900, squares: 1 << 33, samples: samples.to_vec() };
        Chunk {
            epoch: 2,
            first_step: 1 << 40,
            steps: vec![
                Step { weight: 12.5, packs: vec![pack(&[7, 0]), pack(&[u32::MAX])] },
                Step { weight: 1.0, packs: vec![pack(&[3])] },
            ],
        }
    }

    /// Replaces the digest by the right one for the changed bytes.
    fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.truncate(bytes.len() - DIGEST);
        let digest = xxh3_128(&bytes);
        bytes.extend_from_slice(&digest.to_le_bytes());
        bytes
    }

    #[test]
    fn chunks_round_trip() {
        assert_eq!(Chunk::decode(&chunk().encode()), Ok(chunk()));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_refused() {
        let bytes = chunk().encode();
        for len in 0..bytes.len() {
            assert!(Chunk::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Chunk::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn inconsistent_counts_are_refused_before_anything_is_allocated() {
        // Changes each byte from the number of steps on, with a valid digest, as a faulty or malicious writer might.
        let bytes = chunk().encode();
        for at in 24..bytes.len() - DIGEST {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                // Ids, weights and costs may change, but not counts. Nothing panics or allocates gigabytes.
                if let Ok(read) = Chunk::decode(&signed(bytes)) {
                    assert_eq!(read.steps.len(), 2);
                }
            }
        }
    }

    #[test]
    fn another_version_is_refused() {
        let mut bytes = chunk().encode();
        bytes[8] = 9;
        assert_eq!(Chunk::decode(&signed(bytes)), Err(Error::Version(9)));
    }
}
