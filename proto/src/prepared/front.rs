//! The small tensors at a shard's front: all that a plan needs, read without the tokens, and without
//! the signatures, which are most of the rest.

use std::ops::Range;

use bytes::Bytes;
use safetensors::tensor::SafeTensorError;

use super::layout::{Column, Layout};
use super::{Error, Exchange, Flaws, Header, Meta, Object, SIGNATURE};

/// Bytes from a shard's start in which its table of contents nearly always lies whole.
pub const HEAD_BYTES: u64 = 16 << 10;

/// Everything in a shard but signatures, tokens and weights. Numbers are decoded when they are asked
/// for, so a front over a mapped file costs next to no memory.
#[derive(Clone, Debug)]
pub struct Front {
    bytes: Bytes,
    header: Header,
    layout: Layout,
    first: u64,
}

impl Front {
    /// How many of a shard's bytes it takes to go on, as far as the first of them tell: read so many,
    /// and ask again, until there are enough to [`parse`](Self::parse).
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub fn needs(head: &[u8]) -> Result<u64, Error> {
        Layout::needs(head)
    }

    /// Reads a front from the bytes that it takes, or more of them.
    ///
    /// # Errors
    /// Bytes that are cut, foreign, of another version, or that contradict themselves. Preparing
    /// the raw shard again is the way out of all of them.
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

    /// Counts positions from the object's start, where `positions` lie before the shard.
    #[must_use]
    pub fn starting_after(self, positions: u64) -> Front {
        Front { first: positions, ..self }
    }

    /// Samples in the shard.
    pub fn len(&self) -> usize {
        self.layout.hashes.len
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What made the tokens what they are.
    pub fn fingerprint(&self) -> &str {
        &self.header.fingerprint
    }

    /// What a plan needs, sample by sample.
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

    /// Where a sample comes from, for people: `s3://d/7.jsonl, line 42`.
    pub fn origin(&self, index: usize) -> Option<String> {
        let object = self.object(index)?;
        let position = self.position(index)?;
        Some(format!("{}, {} {position}", object.name, object.unit.label()))
    }

    /// Where in its object a sample comes from: what it counts, the object's unit says.
    pub fn position(&self, index: usize) -> Option<u64> {
        let position = self.get(self.layout.positions, index).map(u64::from_le_bytes)?;
        Some(self.first.saturating_add(position))
    }

    /// A sample's content hash.
    pub fn hash(&self, index: usize) -> Option<u64> {
        self.get(self.layout.hashes, index).map(u64::from_le_bytes)
    }

    /// How many of a sample's tokens are targets.
    pub fn targets(&self, index: usize) -> Option<u32> {
        self.get(self.layout.targets, index).map(u32::from_le_bytes)
    }

    /// Records in the shard: each made one sample, or a few.
    pub fn records(&self) -> usize {
        self.layout.contents.len
    }

    /// The record that a sample is made of; a record's samples follow each other.
    pub fn record(&self, index: usize) -> Option<usize> {
        self.get(self.layout.records, index).map(|record| u32::from_le_bytes(record) as usize)
    }

    /// The hash of a record's content.
    pub fn content(&self, record: usize) -> Option<u64> {
        self.get(self.layout.contents, record).map(u64::from_le_bytes)
    }

    /// A record's question and answer, where it has them.
    pub fn exchange(&self, record: usize) -> Option<Exchange> {
        let hash = |column| self.get(column, record).map(u64::from_le_bytes);
        Some(Exchange {
            setting: hash(self.layout.settings)?,
            instruction: hash(self.layout.instructions).filter(|&hash| hash != 0)?,
            answer: hash(self.layout.answers)?,
        })
    }

    /// What is wrong with a record's answer.
    pub fn flaws(&self, record: usize) -> Option<Flaws> {
        Flaws::from_bits(u8::from_le_bytes(self.get(self.layout.flaws, record)?))
    }

    /// Where in the file some places of all records' signatures lie, place by place.
    ///
    /// # Panics
    /// If there are no such places.
    pub fn signatures(&self, places: Range<usize>) -> Range<u64> {
        assert!(places.start <= places.end && places.end <= SIGNATURE, "{places:?}");
        let at = |place: usize| (self.layout.signatures.start + place * self.records()) as u64;
        at(places.start)..at(places.end)
    }

    /// Which of the shard's tokens are those of a sample that there is.
    pub(super) fn tokens_of(&self, index: usize) -> Range<usize> {
        self.offset(index)..self.offset(index + 1)
    }

    /// Where the tokens and the weights lie in the file.
    pub(super) fn tokens_and_weights(&self) -> [Column; 2] {
        [self.layout.tokens, self.layout.weights]
    }

    /// The byte behind all tensors.
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
            return flaw(format!("a sample of another than its {objects} objects"));
        }
        if (0..self.records()).any(|record| self.flaws(record).is_none()) {
            return flaw("flaws without a meaning".into());
        }
        // Every record has a sample, and none comes twice.
        let mut records: Vec<_> = (0..samples).filter_map(|index| self.record(index)).collect();
        records.dedup();
        if !records.into_iter().eq(0..self.records()) {
            return flaw(format!("records out of order, or not {} of them", self.records()));
        }
        Ok(())
    }
}
