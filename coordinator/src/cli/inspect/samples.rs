//! Chooses the samples to show, and decodes their text.

use super::fate::{Fate, Fates};
use crate::cli::preview::Preview;
use crate::cli::{Blame, Exit, Refusal};
use crate::data::base;
use crate::data::progress::Progress;
use anyhow::{Context, bail};
use data::{ChatTemplate, Decoder, Folder, Options, Piece};
use proto::key;
use proto::manifest::{Prepared, PreparedPart};
use proto::prepared::Shard;
use proto::spec;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use storage::Storage;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Which samples to show.
pub(super) enum Choice {
    /// Samples drawn evenly from the sources.
    Drawn {
        /// Number of samples.
        count: usize,
        /// Seed for drawing them.
        seed: u64,
    },
    /// The samples of these records.
    Records(Vec<Record>),
}

/// A record, named by its place.
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

/// A sample in readable form.
#[derive(Serialize)]
pub(super) struct Shown {
    /// The source's name.
    pub(super) source: String,
    /// The file and line.
    pub(super) origin: String,
    pub(super) tokens: usize,
    pub(super) trained_tokens: usize,
    pub(super) fate: Fate,
    pub(super) pieces: Vec<Piece>,
}

/// Finds the samples in the prepared data set and decodes them. Also returns the number of samples to choose from.
pub(super) async fn choose(
    preview: &Preview,
    choice: &Choice,
) -> Result<(Vec<Shown>, u64), Refusal> {
    let base = base::tokenizer(&preview.spec.base(), &Progress::new()).await?;
    let base = Folder::of(&base).blame(Exit::User)?;
    let decoder = Decoder::new(&base, &added(preview)).blame(Exit::User)?;
    let set = Set::open(preview, decoder).await.blame(Exit::Infrastructure)?;
    match choice {
        Choice::Drawn { count, seed } => {
            let used = set.by_source();
            let ids = draw(&used, *count, *seed);
            let shown = set.samples(&ids).await.blame(Exit::Infrastructure)?;
            Ok((shown, used.iter().map(|ids| ids.len() as u64).sum()))
        }
        Choice::Records(records) => {
            let shown = set.records(records).await.blame(Exit::User)?;
            let all = shown.len() as u64;
            Ok((shown, all))
        }
    }
}

/// The options that add tokens to the base's tokenizer.
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

/// Draws ids from the lists in turn, each id at most once. The result depends only on the lists and the seed.
fn draw(lists: &[Vec<u64>], count: usize, seed: u64) -> BTreeSet<u64> {
    let mut drawn = BTreeSet::new();
    let count = count.min(lists.iter().map(Vec::len).sum());
    for (turn, list) in (0u64..).zip(lists.iter().cycle()) {
        if drawn.len() == count {
            break;
        }
        // Take the first id that is not drawn yet, starting at a random one.
        let at = xxh3_64_with_seed(&turn.to_le_bytes(), seed) % (list.len() as u64).max(1);
        let (before, from) = list.split_at(at as usize);
        drawn.extend(from.iter().chain(before).find(|id| !drawn.contains(*id)));
    }
    drawn
}

/// A prepared data set.
struct Set {
    parts: Vec<PreparedPart>,
    storage: Storage,
    sources: Vec<String>,
    /// Number of prepared samples, by the source's name.
    samples: BTreeMap<String, u64>,
    fates: Fates,
    decoder: Decoder,
}

impl Set {
    async fn open(preview: &Preview, decoder: Decoder) -> anyhow::Result<Self> {
        let Preview { storage, fingerprint, spec, .. } = preview;
        let manifest = storage.read(&key::prepared_manifest(fingerprint)).await?;
        let prepared: Prepared = serde_json::from_slice(&manifest)?;
        let sources = spec.data().sources();
        let parts: Vec<_> = prepared.parts(fingerprint).collect();
        let total = parts.iter().map(|part| part.samples).sum();
        // These counts are from the preparation. The run's own receipt no longer counts samples that a check filtered.
        let counts = prepared.receipt.sources.into_iter();
        Ok(Self {
            parts,
            samples: counts.map(|(name, counts)| (name, counts.samples)).collect(),
            fates: Fates::read(preview, total).await?,
            storage: storage.clone(),
            sources: sources.iter().map(|source| source.location.to_string()).collect(),
            decoder,
        })
    }

    /// The ids of each source's samples that the run uses. They are in one list if the receipt's counts do not match.
    fn by_source(&self) -> Vec<Vec<u64>> {
        let total: u64 = self.parts.iter().map(|part| part.samples).sum();
        let mut ranges = Vec::new();
        let mut start = 0;
        for name in &self.sources {
            let samples = self.samples.get(name).copied().unwrap_or(0);
            ranges.push(start..start + samples);
            start += samples;
        }
        if start != total {
            ranges.clear();
            ranges.push(0..total);
        }
        let used = |id: &u64| self.fates.of(*id) != Fate::LeftOut;
        ranges.into_iter().map(|range| range.filter(used).collect()).collect()
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
                    shown.extend(self.show(&shard, start, usize::try_from(index)?)?);
                }
            }
            start = end;
        }
        Ok(shown)
    }

    async fn records(&self, records: &[Record]) -> anyhow::Result<Vec<Shown>> {
        let mut missing: Vec<&Record> = records.iter().collect();
        let mut shown = Vec::new();
        let mut start = 0;
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
                    shown.extend(self.show(&shard, start, index)?);
                }
            }
            start += part.samples;
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

    /// Reads a part. Its positions count from the start of its object.
    async fn shard(&self, part: &PreparedPart) -> anyhow::Result<Shard> {
        let body = self.storage.read(&part.key).await?;
        let shard = Shard::parse(body).with_context(|| format!("`{}`", part.key))?;
        Ok(shard.starting_after(part.starts_after))
    }

    /// Decodes a sample of a part. `start` is the id of the part's first sample.
    fn show(&self, shard: &Shard, start: u64, index: usize) -> anyhow::Result<Option<Shown>> {
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
            fate: self.fates.of(start + index as u64),
            pieces: self.decoder.pieces(&sample),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_drawn_from_every_source_in_turn_and_once() {
        let lists = [0..100, 100..101, 101..101, 101..300].map(Vec::from_iter);
        let drawn = draw(&lists, 6, 1);
        assert_eq!(drawn.len(), 6);
        assert!(drawn.contains(&100) && drawn.iter().any(|id| *id < 100));
        assert_eq!(drawn, draw(&lists, 6, 1));
        assert_eq!(draw(&[vec![0, 1, 7], vec![]], 9, 7), BTreeSet::from([0, 1, 7]));
        assert!(draw(&[], 9, 7).is_empty() && draw(&[vec![]], 9, 7).is_empty());
    }

    #[test]
    fn a_record_is_named_by_file_and_line() {
        let record = Record { file: "s3://d/a.jsonl".into(), position: 12 };
        assert_eq!("s3://d/a.jsonl:12".parse(), Ok(record));
        assert!("a.jsonl".parse::<Record>().is_err());
    }
}
