//! Instruction data of any size: real records whose words are varied, in the same way every time.
//! Without the variation, two hundred copies of a megabyte would measure how well it is remembered.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A question and its answer.
pub(crate) type Record = (String, String);

/// The records of an Alpaca file.
pub(crate) fn alpaca(path: &Path) -> Result<Vec<Record>> {
    let records: Vec<Value> = serde_json::from_slice(&read(path)?)?;
    let text = |record: &Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
    let record = |record: &Value| {
        let asked = [text(record, "instruction"), text(record, "input")];
        (asked.join("\n").trim_end().to_owned(), text(record, "output"))
    };
    Ok(records.iter().map(record).collect())
}

/// The first exchange of each conversation in a file of JSON lines.
pub(crate) fn messages(path: &Path) -> Result<Vec<Record>> {
    let text = String::from_utf8(read(path)?)?;
    let record = |line: &str| {
        let record: Value = serde_json::from_str(line)?;
        let content = |i: usize| record["messages"][i]["content"].as_str().unwrap_or_default();
        Ok((content(0).to_owned(), content(1).to_owned()))
    };
    text.lines().map(record).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// JSON lines of at least `bytes` bytes: the records over and over, each time with different words.
pub(crate) fn vary(records: &[Record], bytes: usize) -> String {
    let texts = records.iter().flat_map(|(asked, answered)| [asked, answered]);
    let words: Vec<&str> = texts.flat_map(|text| text.split_ascii_whitespace()).collect();
    let mut random = SplitMix(42);
    let mut lines = String::with_capacity(bytes + 10_000);
    for (asked, answered) in records.iter().cycle() {
        if lines.len() >= bytes {
            break;
        }
        let [asked, answered] = [asked, answered].map(|text| varied(text, &words, &mut random));
        let line = json!({"messages": [{"role": "user", "content": asked},
                                       {"role": "assistant", "content": answered}]});
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    lines
}

/// Replaces about every fourth word by another of the corpus, every fiftieth by an invented one,
/// and every digit by another digit. White space and line ends stay.
fn varied(text: &str, words: &[&str], random: &mut SplitMix) -> String {
    let mut varied = String::with_capacity(text.len() + 16);
    for piece in text.split_inclusive(|c: char| c.is_ascii_whitespace()) {
        let word = piece.trim_end_matches(|c: char| c.is_ascii_whitespace());
        let space = &piece[word.len()..];
        match random.below(200) {
            _ if word.is_empty() => {}
            0..4 => varied.extend((0..3).map(|_| SYLLABLES[random.below(SYLLABLES.len())])),
            4..54 => varied.push_str(words[random.below(words.len())]),
            _ => varied.extend(word.chars().map(|c| match c.is_ascii_digit() {
                true => char::from(b'0' + random.below(10) as u8),
                false => c,
            })),
        }
        varied.push_str(space);
    }
    varied
}

const SYLLABLES: [&str; 12] =
    ["ka", "ren", "to", "mir", "sol", "Ba", "lin", "ost", "vey", "dru", "Cha", "né"];

/// `SplitMix64`: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % bound
    }
}
