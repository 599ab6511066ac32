//! The front of a shard: the small tensors that planning needs, without tokens and signatures, which are most of the
//! file.

use std::ops::Range;

use bytes::Bytes;
use safetensors::tensor::SafeTensorError;

use super::layout::{Column, Layout};
use super::{Error, Exchange, Flaws, Header, Meta, Object, SIGNATURE};

/// The number of bytes at the start of a shard that nearly always contain its complete table of contents.
pub const HEAD_BYTES: u64 = 16 << 10;

/// Everything in a shard except signatures, tokens and weights. Numbers are decoded on access, so that a front over a
/// mapped file needs almost no memory.
#[derive(Clone, Debug)]
pub struct Front {
    bytes: Bytes,
    header: Header,
    layout: Layout,
    first: u64,
}

impl Front {
    /// How many bytes from the shard's start are needed next, given the first of them. The caller reads that many and
    /// asks again, until it has enough to [`parse`](Self::parse).
    ///
    /// # Errors
    /// The errors of [`parse`](Self::parse).
    pub fn needs(head: &[u8]) -> Result<u64, Error> {
        Layout::needs(head)
    }

    /// Reads a front from the first bytes of a shard; there may be more bytes than needed.
    ///
    /// # Errors
    /// See [`enum@Error`]. In all cases, preparing the raw shard again helps.
    pub fn parse(bytes: Bytes) -> Result<Front, Error> {
        let (header, layout) = Layout::read(&bytes)?;
        if bytes.len() < layout.front_end() {
            let source = SafeTensorError::MetadataIncompleteBuffer;
            return Err(Error::NotSafetensors { bytes: bytes.len(), source });
        }
        let front = Front { bytes, header, layout, first: 0 };
        front.check()?;
        Ok(front)
    }

    /// Counts positions from the start of the object, which has `positions` lines or rows before the shard.
    #[must_use]
    pub fn starting_after(self, positions: u64) -> Front {
        Front { first: positions, ..self }
    }

    /// Number of samples in the shard.
    pub fn len(&self) -> usize {
        self.layout.hashes.len
    }

    /// Whether the shard has no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The fingerprint of everything that decided the tokens.
    pub fn fingerprint(&self) -> &str {
        &self.header.fingerprint
    }

    /// What a plan needs to know about each sample.
    pub fn metas(&self) -> impl ExactSizeIterator<Item = Meta> + '_ {
        (0..self.len()).map(|index| Meta {
            length: self.tokens_of(index).len() as u32,
            weight: f32::from_le_bytes(self.word(self.layout.sums, index)),
            hash: self.u64(self.layout.hashes, index),
        })
    }

    /// The object that a sample comes from.
    pub fn object(&self, index: usize) -> Option<&Object> {
        let object = self.get(self.layout.objects, index).map(u32::from_le_bytes)?;
        self.header.objects.get(object as usize)
    }

    /// Where a sample comes from, as text: `s3://d/7.jsonl, line 42`.
    pub fn origin(&self, index: usize) -> Option<String> {
        let object = self.object(index)?;
        let position = self.position(index)?;
        Some(format!("{}, {} {position}", object.name, object.unit.label()))
    }

    /// The position of a sample in its object, in the object's unit.
    pub fn position(&self, index: usize) -> Option<u64> {
        let position = self.get(self.layout.positions, index).map(u64::from_le_bytes)?;
        Some(self.first.saturating_add(position))
    }

    /// A sample's content hash.
    pub fn hash(&self, index: usize) -> Option<u64> {
        self.get(self.layout.hashes, index).map(u64::from_le_bytes)
    }

    /// The number of a sample's tokens that are targets.
    pub fn targets(&self, index: usize) -> Option<u32> {
        self.get(self.layout.targets, index).map(u32::from_le_bytes)
    }

    /// Number of records in the shard. Each has at least one sample.
    pub fn records(&self) -> usize {
        self.layout.contents.len
    }

    /// The record that a sample was made from. The samples of a record are consecutive.
    pub fn record(&self, index: usize) -> Option<usize> {
        self.get(self.layout.records, index).map(|record| u32::from_le_bytes(record) as usize)
    }

    /// The hash of a record's content.
    pub fn content(&self, record: usize) -> Option<u64> {
        self.get(self.layout.contents, record).map(u64::from_le_bytes)
    }

    /// The hashes of a record's question and answer, if it has them.
    pub fn exchange(&self, record: usize) -> Option<Exchange> {
        let hash = |column| self.get(column, record).map(u64::from_le_bytes);
        Some(Exchange {
            setting: hash(self.layout.settings)?,
            instruction: hash(self.layout.instructions).filter(|&hash| hash != 0)?,
            answer: hash(self.layout.answers)?,
        })
    }

    /// The flaws of a record's last answer.
    pub fn flaws(&self, record: usize) -> Option<Flaws> {
        Flaws::from_bits(u8::from_le_bytes(self.get(self.layout.flaws, record)?))
    }

    /// The position in the file of the given places of all records' signatures, ordered by place.
    ///
    /// # Panics
    /// If `places` is out of range.
    pub fn signatures(&self, places: Range<usize>) -> Range<u64> {
        assert!(places.start <= places.end && places.end <= SIGNATURE, "{places:?}");
        let at = |place: usize| (self.layout.signatures.start + place * self.records()) as u64;
        at(places.start)..at(places.end)
    }

    /// The range of a sample's tokens in the shard's tokens. `index` must be in range.
    pub(super) fn tokens_of(&self, index: usize) -> Range<usize> {
        self.offset(index)..self.offset(index + 1)
    }

    /// The positions of tokens and weights in the file.
    pub(super) fn tokens_and_weights(&self) -> [Column; 2] {
        [self.layout.tokens, self.layout.weights]
    }

    /// The end of the last tensor in the file.
    pub(super) fn file_end(&self) -> usize {
        let Layout { signatures, tokens, weights, .. } = &self.layout;
        let behind = [signatures, tokens, weights].map(|column| column.end());
        behind.into_iter().fold(self.layout.front_end(), usize::max)
    }

    fn offset(&self, index: usize) -> usize {
        self.u64(self.layout.offsets, index) as usize
    }

    fn u64(&self, column: Column, index: usize) -> u64 {
        u64::from_le_bytes(self.word(column, index))
    }

    fn get<const N: usize>(&self, column: Column, index: usize) -> Option<[u8; N]> {
        (index < column.len).then(|| self.word(column, index))
    }

    fn word<const N: usize>(&self, column: Column, index: usize) -> [u8; N] {
        let at = column.start + index * N;
        let word = self.bytes[at..at + N].first_chunk();
        *word.expect("a slice of N bytes")
    }

    fn check(&self) -> Result<(), Error> {
        let flaw = |text: String| Err(Error::Inconsistent(text));
        let (samples, tokens) = (self.len(), self.layout.tokens.len);
        let ends = (self.offset(0), self.offset(samples));
        if ends != (0, tokens) || !(0..=samples).is_sorted_by_key(|i| self.offset(i)) {
            return flaw(format!("offsets that do not run from 0 to {tokens}"));
        }
        if (0..samples).any(|index| self.object(index).is_none()) {
            let objects = self.header.objects.len();
            return flaw(format!("a sample of none of its {objects} objects"));
        }
        if (0..self.records()).any(|record| self.flaws(record).is_none()) {
            return flaw("unknown flaws".into());
        }
        // Every record has at least one sample, and its samples are consecutive.
        let mut records: Vec<_> = (0..samples).filter_map(|index| self.record(index)).collect();
        records.dedup();
        if !records.into_iter().eq(0..self.records()) {
            return flaw(format!("samples that do not cover its {} records", self.records()));
        }
        Ok(())
    }
}
