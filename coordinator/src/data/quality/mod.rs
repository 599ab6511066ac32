//! Checks of a data set's quality, before anything is trained.
//!
//! ```text
//! prepared shards' features --> Records
//!              signatures, a few places at a time --near::Search--> pairs
//! Records, pairs, held out, the spec's checks --check--> Verdict: samples to exclude, findings
//! Verdict --settle--> the receipt
//! ```
//!
//! The checks are pure: the verdict depends only on the data and the spec, not on threads or the
//! order of work. The caller reads the signatures. The checks run in this order, and each sees the
//! records that the filters before it have left: flawed answers, duplicates, near duplicates,
//! contradictions, contamination. Only records of training sources get findings; those of
//! evaluation sources and benchmarks are only compared with.

mod finding;
mod groups;
mod near;
mod records;

use std::ops::Range;

use proto::spec::{Check, Quality};
use rayon::prelude::*;

pub(crate) use finding::Finding;
use finding::{Found, Overlap};
use groups::{Groups, by_key};
use near::{Pair, Search};
pub(crate) use records::Records;

/// The outcome of the checks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// The ids of the samples that are neither trained nor evaluated on, ascending.
    pub(crate) excluded: Vec<u32>,
    /// The findings, in the order of the records.
    pub(crate) findings: Vec<Finding>,
}

/// Runs the given checks. The records of the first `trained` sources are trained on, except for the
/// samples `held_out`, whose ids ascend. `signatures` reads a range of places of all records'
/// signatures, place by place; it is only called if a check compares words.
///
/// # Errors
/// The errors of `signatures`.
pub(crate) fn check<S, E>(
    records: &Records,
    trained: u32,
    held_out: &[u32],
    checks: &Quality<S>,
    signatures: impl FnMut(Range<usize>) -> Result<Vec<u8>, E>,
) -> Result<Verdict, E> {
    let mut examination = Examination::new(records, trained, held_out);
    examination.flaws(checks.loops, checks.incomplete);
    examination.duplicates(checks.duplicates);
    if checks.compares_words() {
        examination.search(checks.similarity, signatures)?;
    }
    examination.near_duplicates(checks.near_duplicates);
    examination.contradictions(checks.contradictions);
    examination.contamination(checks.contamination);
    Ok(examination.verdict())
}

/// The state of the checks.
struct Examination<'a> {
    records: &'a Records,
    /// Number of records of training sources, which come first.
    trained: u32,
    held_out: &'a [u32],
    /// For each record, the first record with the same content.
    firsts: Vec<u32>,
    /// Pairs of records with nearly the same words. Both are the first with their content.
    pairs: Vec<Pair>,
    left_out: Vec<bool>,
    findings: Vec<Finding>,
}

impl<'a> Examination<'a> {
    fn new(records: &'a Records, sources: u32, held_out: &'a [u32]) -> Examination<'a> {
        let all = records.len() as u32;
        let mut firsts: Vec<u32> = (0..all).collect();
        let contents = firsts.clone().into_par_iter();
        by_key(contents.map(|id| (records.contents[id as usize], id)), |same| {
            for (_, id) in same {
                firsts[*id as usize] = same[0].1;
            }
        });
        Examination {
            records,
            trained: records.of_sources(sources),
            held_out,
            firsts,
            pairs: Vec::new(),
            left_out: vec![false; all as usize],
            findings: Vec::new(),
        }
    }

    fn flaws(&mut self, loops: Check, incomplete: Check) {
        for id in 0..self.trained {
            let flaws = self.records.flaws[id as usize];
            if flaws.looping {
                self.found(id, Found::Looping, loops);
            }
            if flaws.incomplete {
                self.found(id, Found::Incomplete, incomplete);
            }
        }
    }

    fn duplicates(&mut self, check: Check) {
        for id in 0..self.trained {
            let first = self.first(id);
            if first != id {
                self.found(id, Found::Duplicate { of: first }, check);
            }
        }
    }

    /// Finds the pairs among records with different content.
    fn search<E>(
        &mut self,
        similarity: f64,
        mut signatures: impl FnMut(Range<usize>) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let all = self.records.len();
        let compared = (0..all as u32).filter(|&id| self.first(id) == id).collect();
        let mut search = Search::new(all, compared, similarity);
        while let Some(places) = search.wants() {
            search.feed(&signatures(places)?);
        }
        self.pairs = search.finish();
        Ok(())
    }

    fn near_duplicates(&mut self, check: Check) {
        if check == Check::Off {
            return;
        }
        let mut groups = self.near(self.trained);
        let mut nearest: Vec<Option<(u8, u32)>> = vec![None; self.trained as usize];
        for pair in self.pairs.iter().filter(|pair| pair.second < self.trained) {
            for (id, other) in [(pair.first, pair.second), (pair.second, pair.first)] {
                let nearest = &mut nearest[id as usize];
                // Pairs ascend, so that the first of equally similar records is kept.
                if nearest.is_none_or(|(agreeing, _)| agreeing < pair.agreeing) {
                    *nearest = Some((pair.agreeing, other));
                }
            }
        }
        for id in 0..self.trained {
            let first = self.first(id);
            if let Some((agreeing, to)) = nearest[first as usize]
                && groups.first(first) != first
            {
                self.found(id, Found::NearDuplicate { to, agreeing }, check);
            }
        }
    }

    fn contradictions(&mut self, check: Check) {
        let asked = (0..self.trained).into_par_iter().filter(|&id| !self.left_out[id as usize]);
        let keys = asked.filter_map(|id| {
            let exchange = self.records.exchanges[id as usize]?;
            Some(((exchange.instruction, exchange.setting), id))
        });
        let mut contradictory = Vec::new();
        let answer = |id: u32| self.records.exchanges[id as usize].map(|exchange| exchange.answer);
        by_key(keys, |same| {
            let (_, first) = same[0];
            let others = same.iter().map(|(_, id)| *id).filter(|&id| answer(id) != answer(first));
            contradictory.extend(others.map(|id| (id, first)));
        });
        for (id, to) in contradictory {
            self.found(id, Found::Contradictory { to }, check);
        }
    }

    /// Finds training records that overlap with records that the model is evaluated on. A text of
    /// which only some chunks are held out counts as evaluated on, and gets no finding: it would
    /// overlap with itself.
    fn contamination(&mut self, check: Check) {
        if check == Check::Off {
            return;
        }
        let all = || (0..self.records.len() as u32).into_par_iter();
        let evaluated: Vec<bool> = all().map(|id| self.is_evaluated_on(id)).collect();
        let evaluated = |id: u32| evaluated[id as usize];
        let mut found: Vec<Option<Found>> = vec![None; self.trained as usize];
        let mut found_in = |id: u32, by: u32, how: Overlap| {
            if id < self.trained && !evaluated(id) && found[id as usize].is_none() {
                found[id as usize] = Some(Found::Contaminated { by, how });
            }
        };
        // In each group, the first record that the model is evaluated on, if any, is named.
        by_key(all().map(|id| (self.first(id), id)), |same| {
            if let Some((_, by)) = same.iter().find(|(_, id)| evaluated(*id)) {
                same.iter().for_each(|(_, id)| found_in(*id, *by, Overlap::Content));
            }
        });
        let question = |id: u32| Some((self.records.exchanges[id as usize]?.instruction, id));
        by_key(all().filter_map(question), |same| {
            if let Some((_, by)) = same.iter().find(|(_, id)| evaluated(*id)) {
                same.iter().for_each(|(_, id)| found_in(*id, *by, Overlap::Question));
            }
        });
        let mut groups = self.near(self.records.len() as u32);
        let nearby: Vec<u32> =
            (0..self.records.len() as u32).map(|id| groups.first(self.first(id))).collect();
        by_key(all().map(|id| (nearby[id as usize], id)), |same| {
            if let Some((_, by)) = same.iter().find(|(_, id)| evaluated(*id)) {
                same.iter().for_each(|(_, id)| found_in(*id, *by, Overlap::Words));
            }
        });
        for (id, found) in (0..).zip(found) {
            if let Some(found) = found {
                self.found(id, found, check);
            }
        }
    }

    /// The groups of similar records among the first `records` that are not left out.
    fn near(&self, records: u32) -> Groups {
        let mut groups = Groups::new(self.records.len());
        let left_out = |id: u32| self.left_out[id as usize];
        for pair in self.pairs.iter().filter(|pair| pair.second < records) {
            if !left_out(pair.first) && !left_out(pair.second) {
                groups.join(pair.first, pair.second);
            }
        }
        groups
    }

    fn first(&self, id: u32) -> u32 {
        self.firsts[id as usize]
    }

    /// Whether the model is evaluated on a record: one of an evaluation source or a benchmark, or
    /// one with a held-out sample.
    fn is_evaluated_on(&self, id: u32) -> bool {
        let samples = self.records.samples(id);
        let from = self.held_out.partition_point(|&held| held < samples.start);
        let is_held_out = self.held_out.get(from).is_some_and(|held| samples.contains(held));
        !self.left_out[id as usize] && (id >= self.trained || is_held_out)
    }

    fn found(&mut self, record: u32, found: Found, check: Check) {
        let left_out = &mut self.left_out[record as usize];
        let is_dropped = match check {
            Check::Off => return,
            Check::Report => false,
            Check::Filter => true,
        };
        if !*left_out {
            *left_out = is_dropped;
            self.findings.push(Finding { record, found, is_dropped });
        }
    }

    fn verdict(self) -> Verdict {
        let left_out = |id: u32| self.left_out[id as usize];
        let mut findings = self.findings;
        // A finding says that its record is kept, which is wrong if a later filter has dropped it.
        findings.retain(|finding| finding.is_dropped || !left_out(finding.record));
        findings.sort_by_key(|finding| finding.record);
        let excluded = (0..self.trained).filter(|&id| left_out(id));
        let excluded = excluded.flat_map(|id| self.records.samples(id)).collect();
        Verdict { excluded, findings }
    }
}

#[cfg(test)]
mod tests;
