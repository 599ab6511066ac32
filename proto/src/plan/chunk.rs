//! A run of steps as bytes: the create-only objects `plan/<epoch>/<chunk>.bin`.
//!
//! ```text
//! "MSTRPLAN"  version u32  epoch u32  first step u64  steps u32  packs u32  samples u32
//! steps   x { weight f64  packs u32 }
//! packs   x { tokens u32  squares u64  samples u32 }
//! samples x u32                          ids, pack by pack
//! xxh3-128 of all before it              16 bytes; little-endian throughout
//! ```
//!
//! A worker needs nothing else to know its part of a step: what each pack costs, and which samples
//! it holds.

use xxhash_rust::xxh3::xxh3_128;

/// The layout above, and the rules by which plans are made: programs that differ in it cannot share
/// a run.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"MSTRPLAN";
const DIGEST: usize = 16;

/// Consecutive steps of one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Which epoch, from 0.
    pub epoch: u32,
    /// The first step's number in the run, from 0.
    pub first_step: u64,
    /// The steps in order.
    pub steps: Vec<Step>,
}

/// What one optimizer step trains on.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// W(s): the sum of all target weights of all its packs.
    pub weight: f64,
    /// Its packs in the epoch's order.
    pub packs: Vec<Pack>,
}

impl Step {
    /// Tokens of all packs.
    pub fn tokens(&self) -> u64 {
        self.packs.iter().map(|pack| u64::from(pack.tokens)).sum()
    }

    /// Samples of all packs.
    pub fn samples(&self) -> impl Iterator<Item = u32> {
        self.packs.iter().flat_map(|pack| pack.samples.iter().copied())
    }
}

/// Samples that share a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Tokens of its samples.
    pub tokens: u32,
    /// Sum of the squares of its samples' lengths: what attention costs.
    pub squares: u64,
    /// Sample ids, longest first.
    pub samples: Vec<u32>,
}

impl Pack {
    /// The time it takes, in any unit: so much per token, and so much per pair of tokens in a
    /// sample.
    pub fn cost(&self, per_token: u64, per_pair: u64) -> u64 {
        let linear = u64::from(self.tokens).saturating_mul(per_token);
        linear.saturating_add(self.squares.saturating_mul(per_pair))
    }
}

/// Why bytes are no chunk that this program reads.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too short, or of something else.
    #[error("not a plan chunk: {0} bytes that do not start with `MSTRPLAN`")]
    Foreign(usize),
    /// Of another version of this program.
    #[error(
        "plan chunk of version {0}, this program reads {VERSION}\n\
         hint: run the same version of coordinator and worker"
    )]
    Version(u32),
    /// Cut or changed.
    #[error(
        "plan chunk of {bytes} bytes with digest {found:032x}, should be {expected:032x}\n\
         hint: fetch it again"
    )]
    Digest {
        /// Bytes given.
        bytes: usize,
        /// The digest of these bytes.
        found: u128,
        /// The digest written in them.
        expected: u128,
    },
    /// Whole, but its counts contradict each other.
    #[error("plan chunk whose counts do not add up: {0}")]
    Inconsistent(&'static str),
}

impl Chunk {
    /// The chunk's bytes; equal chunks have equal bytes.
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

    /// Reads a chunk and checks its digest.
    ///
    /// # Errors
    /// Bytes that are foreign, of another version, or changed on the way; the last may be fetched
    /// again.
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

/// The bytes that are left to read.
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
        // Before anything is allocated: the counts must be what the bytes hold.
        if steps * 12 + packs * 16 + samples * 4 != self.0.len() as u64 {
            return Err(Error::Inconsistent("they need other bytes than there are"));
        }
        let steps: Vec<(f64, u32)> =
            (0..steps).map(|_| Ok((self.f64()?, self.u32()?))).collect::<Result<_, Error>>()?;
        let heads: Vec<(u32, u64, u32)> = (0..packs)
            .map(|_| Ok((self.u32()?, self.u64()?, self.u32()?)))
            .collect::<Result<_, Error>>()?;
        let of_steps: u64 = steps.iter().map(|&(_, packs)| u64::from(packs)).sum();
        let of_packs: u64 = heads.iter().map(|&(_, _, samples)| u64::from(samples)).sum();
        if (of_steps, of_packs) != (packs, samples) {
            return Err(Error::Inconsistent("the parts are not the whole"));
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

    /// Bytes with a digest that fits them.
    fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.truncate(bytes.len() - DIGEST);
        let digest = xxh3_128(&bytes);
        bytes.extend_from_slice(&digest.to_le_bytes());
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Chunk::decode(&chunk().encode()), Ok(chunk()));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_refused() {
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
    fn contradicting_counts_are_refused_before_they_are_believed() {
        // From the number of steps on, with a digest that fits: a hostile or mistaken writer.
        let bytes = chunk().encode();
        for at in 24..bytes.len() - DIGEST {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                // Ids, weights and costs may change; counts may not, and nothing panics or takes
                // gigabytes.
                if let Ok(read) = Chunk::decode(&signed(bytes)) {
                    assert_eq!(read.steps.len(), 2);
                }
            }
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = chunk().encode();
        bytes[8] = 9;
        assert_eq!(Chunk::decode(&signed(bytes)), Err(Error::Version(9)));
    }
}
