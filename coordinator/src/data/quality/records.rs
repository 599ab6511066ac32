//! The features of every record of a prepared data set, 60 bytes per record. The signatures, 128
//! bytes more, stay in storage.

use std::ops::Range;

use proto::prepared::{Exchange, Flaws, Front, Object, Unit};
use proto::receipt::Place;

/// The records of all shards, in the order of source, object and position; a record's index is its
/// id.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(super) contents: Vec<u64>,
    pub(super) exchanges: Vec<Option<Exchange>>,
    pub(super) flaws: Vec<Flaws>,
    /// The first sample of each record.
    first_samples: Vec<u32>,
    positions: Vec<u64>,
    /// Number of target tokens of each sample.
    targets: Vec<u32>,
    objects: Vec<(u32, Object)>,
}

impl Records {
    /// Adds the records of the next part of a shard.
    pub(crate) fn push(&mut self, shard: &Front) {
        let known = self.contents.len();
        let mut object = None;
        for sample in 0..shard.len() {
            let record = shard.record(sample).map(|record| known + record);
            if record == Some(self.first_samples.len()) {
                if shard.object(sample) != object {
                    object = shard.object(sample);
                    let first = self.first_samples.len() as u32;
                    self.objects.extend(object.map(|object| (first, object.clone())));
                }
                self.first_samples.push(self.targets.len() as u32);
                self.positions.extend(shard.position(sample));
            }
            self.targets.extend(shard.targets(sample));
        }
        for record in 0..shard.records() {
            self.contents.extend(shard.content(record));
            self.exchanges.push(shard.exchange(record));
            self.flaws.extend(shard.flaws(record));
        }
    }

    /// The number of records.
    pub(crate) fn len(&self) -> usize {
        self.contents.len()
    }

    /// The ids of a record's samples.
    pub(crate) fn samples(&self, record: u32) -> Range<u32> {
        let start = |record: usize| self.first_samples.get(record).copied();
        let end = start(record as usize + 1).unwrap_or(self.targets.len() as u32);
        start(record as usize).unwrap_or(end)..end
    }

    /// The number of target tokens of a sample.
    pub(crate) fn targets(&self, sample: u32) -> u32 {
        self.targets[sample as usize]
    }

    /// The index of a record's source in the run spec.
    pub(crate) fn source(&self, record: u32) -> u32 {
        self.object(record).map_or(0, |object| object.source)
    }

    /// The number of records of the first `sources` sources, which are the first records.
    pub(super) fn of_sources(&self, sources: u32) -> u32 {
        let other = self.objects.iter().find(|(_, object)| object.source >= sources);
        other.map_or(self.len() as u32, |(first, _)| *first)
    }

    /// The name of a record's object, and its place in it.
    pub(crate) fn origin(&self, record: u32) -> (&str, Place) {
        let object = self.object(record);
        let unit = object.map_or(Unit::Line, |object| object.unit);
        let name = object.map_or("", |object| object.name.as_str());
        (name, unit.place(self.positions[record as usize]))
    }

    fn object(&self, record: u32) -> Option<&Object> {
        let after = self.objects.partition_point(|(first, _)| *first <= record);
        self.objects[..after].last().map(|(_, object)| object)
    }
}
