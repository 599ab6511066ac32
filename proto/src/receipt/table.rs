//! The receipt as text for people.

use std::collections::BTreeSet;
use std::fmt;

use super::{Counts, Histogram, Reason, Receipt, Tally};

/// Formats as a table with a row per source, followed by the formats, lengths and examples of each source.
impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let reasons: Vec<Reason> = total.dropped.keys().copied().collect();
        let mut rows = vec![header(&reasons)];
        rows.extend(self.sources.iter().map(|(name, counts)| row(name, counts, &reasons)));
        if self.sources.len() > 1 {
            rows.push(row("all", &total, &reasons));
        }
        write_table(f, &rows)?;
        for (name, counts) in &self.sources {
            if self.sources.len() > 1 {
                writeln!(f, "{name}")?;
            }
            counts.formats.iter().try_for_each(|detected| writeln!(f, "  format: {detected}"))?;
            write_lengths(f, "tokens per sample", &counts.lengths)?;
            write_lengths(f, "trained per sample", &counts.target_lengths)?;
            for (reason, tally) in &counts.dropped {
                write_examples(f, reason.label(), tally)?;
                write_lengths(f, &format!("{}, tokens", reason.label()), &tally.lengths)?;
            }
            write_examples(f, "cut", &counts.truncated)?;
            for (reason, tally) in &counts.findings {
                write_examples(f, &format!("{}, kept", reason.label()), tally)?;
            }
            if !counts.unread.is_empty() {
                writeln!(f, "  not read: {}", counts.unread)?;
            }
        }
        self.skipped.iter().try_for_each(|skipped| writeln!(f, "  {skipped}"))
    }
}

fn header(reasons: &[Reason]) -> Vec<String> {
    let fixed = ["source", "read", "eligible", "held out", "cut"];
    let reasons = reasons.iter().map(|reason| reason.label());
    let last = ["tokens", "trained", "tokens lost"];
    fixed.into_iter().chain(reasons).chain(last).map(str::to_owned).collect()
}

fn row(name: &str, counts: &Counts, reasons: &[Reason]) -> Vec<String> {
    let lost: u64 = counts.dropped.values().map(|tally| tally.tokens_lost).sum();
    let dropped =
        reasons.iter().map(|reason| counts.dropped.get(reason).map_or(0, |tally| tally.records));
    let numbers = [counts.read, counts.eligible, counts.held_out, counts.truncated.records]
        .into_iter()
        .chain(dropped)
        .chain([counts.tokens, counts.trained_tokens, lost + counts.truncated.tokens_lost]);
    std::iter::once(name.to_owned()).chain(numbers.map(|number| number.to_string())).collect()
}

fn write_table(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in rows {
        write!(f, "{:<w$}", row[0], w = widths[0])?;
        for (cell, &w) in row.iter().zip(&widths).skip(1) {
            write!(f, "  {cell:>w$}")?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn write_lengths(f: &mut fmt::Formatter<'_>, label: &str, lengths: &Histogram) -> fmt::Result {
    match lengths.is_empty() {
        true => Ok(()),
        false => writeln!(f, "  {label}: {lengths}"),
    }
}

fn write_examples(f: &mut fmt::Formatter<'_>, label: &str, tally: &Tally) -> fmt::Result {
    let mut hints = BTreeSet::new();
    for example in &tally.examples {
        writeln!(f, "  {label}: {}", once(&mut hints, &example.to_string()))?;
    }
    let more = tally.records.saturating_sub(tally.examples.len() as u64);
    if more > 0 {
        writeln!(f, "  {label}: {more} more")?;
    }
    Ok(())
}

/// Indents a text of several lines, and removes the hint lines that are already in `hints`. Adds the others to it.
fn once(hints: &mut BTreeSet<String>, text: &str) -> String {
    let is_new = |line: &&str| !line.starts_with("hint: ") || hints.insert((*line).to_owned());
    let lines: Vec<_> = text.lines().filter(is_new).collect();
    lines.join("\n    ")
}

impl Receipt {
    /// The reasons why records were dropped, one per line, each followed by at most `each` examples.
    pub fn losses(&self, each: usize) -> String {
        let mut hints = BTreeSet::new();
        let mut lines = String::new();
        for (reason, tally) in &self.total().dropped {
            let records = tally.records;
            let plural = if records == 1 { "record" } else { "records" };
            lines += &format!("\n  {}: {records} {plural}", reason.label());
            for example in tally.examples.iter().take(each) {
                lines += &format!("\n    {}", once(&mut hints, &example.to_string()));
            }
        }
        lines
    }
}
