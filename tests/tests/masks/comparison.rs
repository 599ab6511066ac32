//! Compares our tokens and masks of records with those of `transformers`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use chrono::NaiveDate;
use data::{ChatTemplate, Folder, Options, Preparer, SourceOptions, Think};
use proto::prepared::Sample;
use serde_json::{Value, json};

use crate::peer::Peer;

/// The current date in templates, which `render.py` pins to the same day.
pub(crate) const DAY: Option<NaiveDate> = NaiveDate::from_ymd_opt(2024, 7, 26);

/// A template for our pipeline, and the marked template that the peer renders.
#[derive(Clone)]
pub(crate) struct Pair {
    /// Name in the output.
    pub(crate) name: String,
    /// Folder of the tokenizer, which both use.
    pub(crate) folder: PathBuf,
    /// The template for our pipeline.
    pub(crate) ours: ChatTemplate,
    /// The marked template for the peer.
    pub(crate) marked: String,
    /// Converts a record to the form that the peer's template expects.
    pub(crate) wanted: fn(&Value) -> Value,
    /// Whether text that generation prompts write is trained, on both sides.
    pub(crate) think: Think,
}

/// The outcomes of all records.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Records whose tokens and mask are equal.
    pub(crate) equal: usize,
    /// Records that are equal except for white space after a stop token, which only the peer trains.
    pub(crate) after_stop: usize,
    /// Records that are equal except for white space before an answer, which only the peer trains.
    pub(crate) before_answer: usize,
    /// Records for which the two templates write different texts.
    pub(crate) other_text: usize,
    /// Records that the peer's template refuses.
    pub(crate) refused_there: usize,
    /// Number of records that our pipeline refuses, by reason.
    pub(crate) refused_here: BTreeMap<String, usize>,
    /// Records that differ in any other way, which is an error.
    pub(crate) different: Vec<String>,
}

impl Comparison {
    /// Records whose mask agrees with the peer's, except for white space.
    pub(crate) fn trained(&self) -> usize {
        self.equal + self.after_stop + self.before_answer
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:2} equal", self.equal)?;
        let counted = [
            (self.after_stop, "but for white space that they train after the stop"),
            (self.before_answer, "but for white space that they train before an answer, too"),
            (self.other_text, "of another text"),
            (self.refused_there, "refused by the template"),
            (self.different.len(), "DIFFERENT"),
        ];
        for (count, what) in counted.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what}")?;
        }
        for (why, count) in &self.refused_here {
            write!(f, ", {count} refused: {why}")?;
        }
        Ok(())
    }
}

/// Compares every record on every pair.
pub(crate) fn compare(peer: &Peer, pairs: &[Pair], records: &[Value]) -> Result<Vec<Comparison>> {
    // One request for all records, since starting the peer takes longer than its work.
    let mut cases = Vec::new();
    for (model, pair) in pairs.iter().enumerate() {
        for record in records {
            // Only the peer needs the converted record; our pipeline finds out by itself what a template expects.
            let record = (pair.wanted)(record);
            cases.push(json!({"model": model, "template": pair.marked, "mask": true,
                              "without_prompts": pair.think == Think::Prompt,
                              "messages": record["messages"], "tools": record["tools"]}));
        }
    }
    let folders: Vec<_> = pairs.iter().map(|pair| pair.folder.clone()).collect();
    let answers = peer.answers(&folders, &cases)?;
    let pairs = pairs.iter().zip(answers.chunks(records.len()));
    pairs.map(|(pair, answers)| compare_pair(pair, records, answers)).collect()
}

/// Prepares each record by itself.
pub(crate) fn prepare(pair: &Pair, records: &[Value]) -> Result<(Preparer, Vec<Outcome>)> {
    let options = Options {
        chat_template: pair.ours.clone(),
        max_tokens: 1 << 20,
        think: pair.think,
        date: DAY.context("a day")?,
        ..Options::default()
    };
    let preparer = Preparer::new(&Folder::read(&pair.folder)?, options)?;
    let outcome = |record: &Value| -> Result<Outcome> {
        let line = record.to_string();
        let prepared = preparer.prepare("d.jsonl", line.as_bytes(), &SourceOptions::default())?;
        let rejected = prepared.counts.dropped.values().flat_map(|tally| &tally.examples);
        let why = rejected.map(|example| example.reason.clone()).next().unwrap_or_default();
        let line = why.lines().next().unwrap_or_default().to_owned();
        Ok(prepared.samples().next().cloned().ok_or(line))
    };
    let outcomes = records.iter().map(outcome).collect::<Result<_>>()?;
    Ok((preparer, outcomes))
}

/// A sample, or the reason why there is none.
type Outcome = Result<Sample, String>;

fn compare_pair(pair: &Pair, records: &[Value], answers: &[Value]) -> Result<Comparison> {
    let (preparer, outcomes) = prepare(pair, records)?;
    let mut comparison = Comparison::default();
    for (outcome, theirs) in outcomes.into_iter().zip(answers) {
        let refused = theirs.get("error").is_some();
        match outcome {
            Err(_) if refused => comparison.refused_there += 1,
            Err(why) => *comparison.refused_here.entry(why).or_default() += 1,
            Ok(_) if refused => {
                comparison.different.push(format!("rendered only by us: {theirs}"));
            }
            Ok(sample) if json!(sample.tokens) != theirs["tokens"] => comparison.other_text += 1,
            Ok(sample) => {
                let ours: Vec<bool> = sample.weights.iter().map(|&weight| weight > 0.0).collect();
                let mask = theirs["mask"].as_array().into_iter().flatten();
                let mask: Vec<bool> = mask.map(|trained| *trained == 1).collect();
                match theirs_alone(&preparer, &sample.tokens, &ours, &mask) {
                    Some(Space::None) => comparison.equal += 1,
                    Some(Space::AfterStop) => comparison.after_stop += 1,
                    Some(Space::BeforeAnswer) => comparison.before_answer += 1,
                    None => {
                        let shown = data::bracketed(preparer.tokenizer(), &sample);
                        comparison.different.push(format!("{shown}\ntheirs {theirs}"));
                    }
                }
            }
        }
    }
    Ok(comparison)
}

/// White space that only the peer trains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    None,
    AfterStop,
    BeforeAnswer,
}

/// The white space by which the masks differ; `None` if they differ in anything else.
fn theirs_alone(
    preparer: &Preparer,
    tokens: &[u32],
    ours: &[bool],
    theirs: &[bool],
) -> Option<Space> {
    let tokenizer = preparer.tokenizer();
    let mut found = Space::None;
    for i in (0..tokens.len()).filter(|&i| ours[i] != theirs[i]) {
        let text = tokenizer.decode(&tokens[i..=i], false).ok()?;
        let is_space = !text.is_empty() && text.trim().is_empty();
        let added = tokenizer.get_added_tokens_decoder();
        let place = match (i > 0 && ours[i - 1], ours.get(i + 1)) {
            (true, _) if added.contains_key(&tokens[i - 1]) => Space::AfterStop,
            (_, Some(true)) => Space::BeforeAnswer,
            _ => return None,
        };
        if !is_space || ours[i] {
            return None;
        }
        found = found.max(place);
    }
    Some(found)
}
