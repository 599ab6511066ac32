//! What is wrong with a data set, found before anything is trained.
//!
//! ```text
//! prepared shards' features --> Records
//!              signatures, a few places at a time --near::Search--> pairs
//! Records, pairs, held out, the spec's checks --check--> Verdict: samples to exclude, findings
//! Verdict --settle--> the receipt
//! ```
//!
//! Pure: a verdict is a function of the data and the spec, in which neither threads nor order of
//! work occur; whoever calls knows where signatures lie. The checks come in this order, and each
//! sees what the filters before it left: flawed answers, duplicates, near duplicates,
//! contradictions, contamination. They look at the records of training sources; evaluation sources
//! and benchmarks are only compared with.

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

/// What the checks say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// The ids of the samples that are not to be trained or evaluated on, ascending.
    pub(crate) excluded: Vec<u32>,
    /// What was found, by record.
    pub(crate) findings: Vec<Finding>,
}

/// Looks for all that `checks` asks for. The records of the first `trained` sources are trained on,
/// but for the samples `held_out`, whose ids ascend. `signatures` gives some places of all records'
/// signatures, place by place; it is asked only where words are compared.
///
/// # Errors
/// Those of `signatures`.
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

/// The checks under way.
struct Examination<'a> {
    records: &'a Records,
    /// So many records, the first ones, are of training sources.
    trained: u32,
    held_out: &'a [u32],
    /// The first record with the same content.
    firsts: Vec<u32>,
    /// Pairs of first records whose words are nearly the same.
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

    /// Finds the pairs, of records with different content.
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
                // Of equals the first: pairs ascend.
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
        let answer = |id: u32| self.records.exchanges[id as usize].map(|said| said.answer);
        by_key(keys, |same| {
            let (_, first) = same[0];
            let others = same.iter().map(|(_, id)| *id).filter(|&id| answer(id) != answer(first));
            contradictory.extend(others.map(|id| (id, first)));
        });
        for (id, to) in contradictory {
            self.found(id, Found::Contradictory { to }, check);
        }
    }

    /// A text of which some chunks are held out and others trained is not compared: it would be
    /// found in itself.
    fn contamination(&mut self, check: Check) {
        if check == Check::Off {
            return;
        }
        let judged: Vec<bool> =
            (0..self.records.len() as u32).into_par_iter().map(|id| self.is_judged(id)).collect();
        let judged = |id: u32| judged[id as usize];
        let mut found: Vec<Option<Found>> = vec![None; self.trained as usize];
        let mut found_in = |id: u32, by: u32, how: Overlap| {
            if id < self.trained && !judged(id) && found[id as usize].is_none() {
                found[id as usize] = Some(Found::Contaminated { by, how });
            }
        };
        let all = || (0..self.records.len() as u32).into_par_iter();
        // The first of those that the model is judged by, where there is one among the same.
        by_key(all().map(|id| (self.first(id), id)), |same| {
            if let Some((_, by)) = same.iter().find(|(_, id)| judged(*id)) {
                same.iter().for_each(|(_, id)| found_in(*id, *by, Overlap::Content));
            }
        });
        let question = |id: u32| Some((self.records.exchanges[id as usize]?.instruction, id));
        by_key(all().filter_map(question), |same| {
            if let Some((_, by)) = same.iter().find(|(_, id)| judged(*id)) {
                same.iter().for_each(|(_, id)| found_in(*id, *by, Overlap::Question));
            }
        });
        let mut groups = self.near(self.records.len() as u32);
        let nearby: Vec<u32> =
            (0..self.records.len() as u32).map(|id| groups.first(self.first(id))).collect();
        by_key(all().map(|id| (nearby[id as usize], id)), |same| {
            if let Some((_, by)) = same.iter().find(|(_, id)| judged(*id)) {
                same.iter().for_each(|(_, id)| found_in(*id, *by, Overlap::Words));
            }
        });
        for (id, found) in (0..).zip(found) {
            if let Some(found) = found {
                self.found(id, found, check);
            }
        }
    }

    /// The groups of records that are near each other, among the first `records`.
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

    /// Whether the model is judged by a record: one of an evaluation source, a benchmark, or one
    /// that is held out.
    fn is_judged(&self, id: u32) -> bool {
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
        // What a later filter dropped was not kept.
        findings.retain(|finding| finding.is_dropped || !left_out(finding.record));
        findings.sort_by_key(|finding| finding.record);
        let excluded = (0..self.trained).filter(|&id| left_out(id));
        let excluded = excluded.flat_map(|id| self.records.samples(id)).collect();
        Verdict { excluded, findings }
    }
}

#[cfg(test)]
mod tests;
