//! Finds pairs of records with nearly the same words: candidates by MinHash with bands
//! (locality-sensitive hashing), which are then compared by their whole signatures.
//!
//! ```text
//! signatures --band by band: sort, equal neighbours--> candidates --place by place: count--> pairs
//! ```
//!
//! Sans-I/O: the search says which places of the signatures it needs next, and the caller feeds
//! them, so that they are never all in memory. The search takes 16 bytes per record while a band is
//! sorted, and 9 per candidate. In a band's bucket, each record is paired only with the first record
//! and the previous one: similar records are joined through those, and a bucket of a million
//! records has only two million candidates.
//!
//! See Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.

use std::ops::Range;

use proto::prepared::{SIGNATURE, Signature};
use rayon::prelude::*;

/// Minimum probability that a pair of exactly the wanted similarity becomes a candidate.
const RECALL: f64 = 0.98;
/// Number of places that fit into a sort key.
const MAX_ROWS: usize = size_of::<u64>();
/// Approximate size of the places that are requested at a time in the second pass.
const FEED_BYTES: usize = 16 << 20;

/// Two records with `first < second`, and the number of places in which their signatures agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    pub(crate) first: u32,
    pub(crate) second: u32,
    pub(crate) agreeing: u8,
}

/// A search for similar records.
#[derive(Debug)]
pub(crate) struct Search {
    records: usize,
    compared: Vec<u32>,
    similarity: f64,
    rows: usize,
    wanted: Wanted,
    candidates: Vec<(u32, u32)>,
    agreeing: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// The band that begins at this place.
    Band(usize),
    /// Places from this one on, to compare candidates.
    Places(usize),
}

impl Search {
    /// A search among the records `compared`, ids in ascending order, of `records` records in all.
    pub(crate) fn new(records: usize, compared: Vec<u32>, similarity: f64) -> Search {
        let rows = rows(similarity);
        let (candidates, agreeing) = (Vec::new(), Vec::new());
        let wanted = Wanted::Band(0);
        Search { records, compared, similarity, rows, wanted, candidates, agreeing }
    }

    /// The places to feed next; `None` once the search is done.
    pub(crate) fn wants(&self) -> Option<Range<usize>> {
        match self.wanted {
            Wanted::Band(place) => Some(place..place + self.rows),
            Wanted::Places(SIGNATURE) => None,
            Wanted::Places(place) => {
                let places = (FEED_BYTES / self.records.max(1)).max(1);
                Some(place..(place + places).min(SIGNATURE))
            }
        }
    }

    /// Takes the wanted places of all records' signatures, place by place.
    pub(crate) fn feed(&mut self, places: &[u8]) {
        let Some(wanted) = self.wants() else {
            return;
        };
        assert_eq!(places.len(), wanted.len() * self.records, "one byte per place and record");
        self.wanted = match self.wanted {
            Wanted::Band(_) => {
                self.band(places);
                match wanted.end + self.rows <= SIGNATURE {
                    true => Wanted::Band(wanted.end),
                    false => self.settle_candidates(),
                }
            }
            Wanted::Places(_) => {
                self.compare(places);
                Wanted::Places(wanted.end)
            }
        };
    }

    /// The pairs with at least the wanted similarity, ascending.
    pub(crate) fn finish(self) -> Vec<Pair> {
        let similarity = self.similarity as f32;
        let pairs = self.candidates.into_iter().zip(self.agreeing);
        let pairs = pairs.map(|((first, second), agreeing)| Pair { first, second, agreeing });
        pairs.filter(|pair| pair.similarity() >= similarity).collect()
    }

    fn band(&mut self, places: &[u8]) {
        let key = |id: u32| {
            let bytes = places.iter().skip(id as usize).step_by(self.records);
            bytes.fold(0, |key, &byte| key << 8 | u64::from(byte))
        };
        let mut keyed: Vec<(u64, u32)> =
            self.compared.par_iter().map(|&id| (key(id), id)).collect();
        keyed.par_sort_unstable();
        for bucket in keyed.chunk_by(|a, b| a.0 == b.0) {
            let ((_, first), others) = bucket.split_first().expect("a chunk is not empty");
            self.candidates.extend(others.iter().map(|(_, id)| (*first, *id)));
            let neighbours = others.windows(2).map(|two| (two[0].1, two[1].1));
            self.candidates.extend(neighbours);
        }
        self.candidates.par_sort_unstable();
        self.candidates.dedup();
    }

    fn settle_candidates(&mut self) -> Wanted {
        self.agreeing = vec![0; self.candidates.len()];
        match self.candidates.is_empty() {
            true => Wanted::Places(SIGNATURE),
            false => Wanted::Places(0),
        }
    }

    fn compare(&mut self, places: &[u8]) {
        for place in places.chunks_exact(self.records) {
            let pairs = self.candidates.par_iter().zip(&mut self.agreeing);
            pairs.with_min_len(1 << 14).for_each(|(&(first, second), agreeing)| {
                *agreeing += u8::from(place[first as usize] == place[second as usize]);
            });
        }
    }
}

impl Pair {
    /// The estimated Jaccard similarity.
    pub(crate) fn similarity(self) -> f32 {
        Signature::similarity(self.agreeing.into())
    }
}

/// The number of places in a band: the largest for which pairs of this similarity share a band with
/// probability [`RECALL`].
fn rows(similarity: f64) -> usize {
    let recall = |rows: usize| {
        let bands = (SIGNATURE / rows) as i32;
        1.0 - (1.0 - similarity.powi(rows as i32)).powi(bands)
    };
    (1..=MAX_ROWS).rev().find(|&rows| recall(rows) >= RECALL).unwrap_or(1)
}

#[cfg(test)]
mod tests;
