//! Which samples are shown, and their text.

use super::super::preview::Preview;
use super::super::{Blame, Exit, Refusal};
use anyhow::{Context, bail};
use data::{ChatTemplate, Decoder, Options, Piece};
use proto::key;
use proto::manifest::{Prepared, PreparedPart};
use proto::prepared::Shard;
use proto::spec;
use proto::storage::Storage;
use serde::Serialize;
use std::collections::BTreeSet;
use std::str::FromStr;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Which samples to show.
pub(super) enum Choice {
    /// So many, drawn evenly from the sources.
    Drawn {
        /// How many.
        count: usize,
        /// Of the drawing.
        seed: u64,
    },
    /// Those of these records.
    Records(Vec<Record>),
}

/// A record by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The end of the object's name.
    file: String,
    /// The line, or the record's number in an array.
    position: u64,
}

impl FromStr for Record {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("`{text}` is not FILE:LINE, as in data.jsonl:42");
        let (file, position) = text.rsplit_once(':').ok_or_else(malformed)?;
        let position = position.parse().map_err(|_| malformed())?;
        Ok(Self { file: file.to_owned(), position })
    }
}

/// A sample as a person reads it.
#[derive(Serialize)]
pub(super) struct Shown {
    /// The source's name.
    pub(super) source: String,
    /// File and line.
    pub(super) origin: String,
    pub(super) tokens: usize,
    pub(super) trained_tokens: usize,
    pub(super) pieces: Vec<Piece>,
}

/// Finds the samples in the prepared data set, and turns them back into text.
pub(super) async fn choose(preview: &Preview, choice: &Choice) -> Result<Vec<Shown>, Refusal> {
    let base = Storage::open_existing(&preview.spec.base().to_string()).blame(Exit::User)?;
    let tokenizer = base.read("tokenizer.json").await.blame(Exit::User)?;
    let decoder = Decoder::new(&tokenizer, &added(preview)).blame(Exit::User)?;
    let set = Set::open(preview, decoder).await.blame(Exit::Infrastructure)?;
    match choice {
        Choice::Drawn { count, seed } => {
            let ids = draw(&set.by_source(preview), *count, *seed);
            set.samples(&ids).await.blame(Exit::Infrastructure)
        }
        Choice::Records(records) => set.records(records).await.blame(Exit::User),
    }
}

/// What the run adds to the base's tokenizer.
fn added(preview: &Preview) -> Options {
    let spec = &preview.spec;
    Options {
        chat_template: match spec.data().chat_template {
            spec::ChatTemplate::Chatml => ChatTemplate::Chatml,
            spec::ChatTemplate::Tokenizer
            | spec::ChatTemplate::Alpaca
            | spec::ChatTemplate::File(_) => ChatTemplate::Tokenizer,
        },
        add_tokens: spec.model().add_tokens.clone(),
        ..Options::default()
    }
}

/// Ids drawn in turn from ranges of ids, each once, ascending: a function of ranges and seed.
fn draw(ranges: &[std::ops::Range<u64>], count: usize, seed: u64) -> BTreeSet<u64> {
    let mut drawn = BTreeSet::new();
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let count = count.min(usize::try_from(total).unwrap_or(usize::MAX));
    for turn in 0u64.. {
        if drawn.len() == count {
            break;
        }
        let range = &ranges[turn as usize % ranges.len()];
        let length = (range.end - range.start).max(1);
        // The first of the range that is still free, from a random one on.
        let at = xxh3_64_with_seed(&turn.to_le_bytes(), seed) % length;
        let mut from = (at..length).chain(0..at).map(|i| range.start + i);
        drawn.extend(from.find(|id| range.contains(id) && !drawn.contains(id)));
    }
    drawn
}

/// A prepared data set, as far as it is read.
struct Set {
    parts: Vec<PreparedPart>,
    storage: Storage,
    sources: Vec<String>,
    decoder: Decoder,
}

impl Set {
    async fn open(preview: &Preview, decoder: Decoder) -> anyhow::Result<Self> {
        let Preview { storage, fingerprint, spec, .. } = preview;
        let manifest = storage.read(&key::prepared_manifest(fingerprint)).await?;
        let prepared: Prepared = serde_json::from_slice(&manifest)?;
        let sources = spec.data().sources();
        Ok(Self {
            parts: prepared.parts(fingerprint).collect(),
            storage: storage.clone(),
            sources: sources.iter().map(|source| source.location.to_string()).collect(),
            decoder,
        })
    }

    /// The ids of each source's samples; all in one range, where the receipt cannot tell them apart.
    fn by_source(&self, preview: &Preview) -> Vec<std::ops::Range<u64>> {
        let total: u64 = self.parts.iter().map(|part| part.samples).sum();
        let mut ranges = Vec::new();
        let mut start = 0;
        for name in &self.sources {
            let samples = preview.receipt.sources.get(name).map_or(0, |counts| counts.samples);
            ranges.push(start..start + samples);
            start += samples;
        }
        if start != total {
            ranges.clear();
            ranges.push(0..total);
        }
        ranges
    }

    async fn samples(&self, ids: &BTreeSet<u64>) -> anyhow::Result<Vec<Shown>> {
        let mut shown = Vec::new();
        let mut start = 0;
        for part in &self.parts {
            let end = start + part.samples;
            let mine: Vec<u64> = ids.range(start..end).map(|id| id - start).collect();
            if !mine.is_empty() {
                let shard = self.shard(part).await?;
                for index in mine {
                    shown.extend(self.show(&shard, usize::try_from(index)?)?);
                }
            }
            start = end;
        }
        Ok(shown)
    }

    async fn records(&self, records: &[Record]) -> anyhow::Result<Vec<Shown>> {
        let mut missing: Vec<&Record> = records.iter().collect();
        let mut shown = Vec::new();
        for part in &self.parts {
            let shard = self.shard(part).await?;
            let front = shard.front();
            for index in 0..front.len() {
                let (Some(object), Some(position)) = (front.object(index), front.position(index))
                else {
                    continue;
                };
                let wanted = |r: &Record| position == r.position && object.name.ends_with(&r.file);
                if records.iter().any(wanted) {
                    missing.retain(|r| !wanted(r));
                    shown.extend(self.show(&shard, index)?);
                }
            }
        }
        if let Some(Record { file, position }) = missing.first() {
            bail!(
                "--record: no sample was made of {file}:{position}\n\
                 hint: the receipt lists what was dropped; a record of a JSON array has its \
                 number, not its line"
            );
        }
        Ok(shown)
    }

    /// A part, whose positions count from its object's start.
    async fn shard(&self, part: &PreparedPart) -> anyhow::Result<Shard> {
        let body = self.storage.read(&part.key).await?;
        let shard = Shard::parse(body).with_context(|| format!("`{}`", part.key))?;
        Ok(shard.starting_after(part.starts_after))
    }

    fn show(&self, shard: &Shard, index: usize) -> anyhow::Result<Option<Shown>> {
        let source = shard.front().object(index).map(|object| object.source as usize);
        let source = source.and_then(|source| self.sources.get(source));
        let (Some(sample), Some(source)) = (shard.sample(index)?, source) else {
            return Ok(None);
        };
        Ok(Some(Shown {
            source: source.clone(),
            origin: shard.origin(index).unwrap_or_default(),
            tokens: sample.tokens.len(),
            trained_tokens: sample.targets(),
            pieces: self.decoder.pieces(&sample),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_drawn_from_every_source_in_turn_and_once() {
        let drawn = draw(&[0..100, 100..101, 101..101, 101..300], 6, 1);
        assert_eq!(drawn.len(), 6);
        assert!(drawn.contains(&100) && drawn.iter().any(|id| *id < 100));
        assert_eq!(drawn, draw(&[0..100, 100..101, 101..101, 101..300], 6, 1));
        assert_eq!(draw(&[0..3, 3..3], 9, 7), BTreeSet::from([0, 1, 2]));
        assert!(draw(&[], 9, 7).is_empty());
    }

    #[test]
    fn a_record_is_named_by_file_and_line() {
        let record = Record { file: "s3://d/a.jsonl".into(), position: 12 };
        assert_eq!("s3://d/a.jsonl:12".parse(), Ok(record));
        assert!("a.jsonl".parse::<Record>().is_err());
    }
}
