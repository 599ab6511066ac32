//! The inspection as a self-contained HTML page.

use super::samples::Shown;
use super::{Inspection, Outlook};
use minijinja::Environment;
use proto::receipt::{Counts, Histogram, Receipt, Tally};
use proto::text::visible;
use serde::Serialize;
use std::borrow::Cow;

const PAGE: &str = include_str!("page.html");
/// Maximum number of values below a chart.
const TICKS: usize = 8;

/// Renders the page. The template's name makes minijinja escape all content of the data set.
pub(super) fn render(inspection: &Inspection) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.add_filter("grouped", grouped);
    environment.add_filter("fixed", |number: f64, places: usize| format!("{number:.places$}"));
    environment.add_template("page.html", PAGE)?;
    environment.get_template("page.html")?.render(Page::new(inspection))
}

/// The content of the page, in its order.
#[derive(Serialize)]
struct Page<'a> {
    name: &'a str,
    plan: &'a Outlook,
    total: Counts,
    /// The reasons for which records were dropped, which are columns.
    reasons: Vec<&'static str>,
    sources: Vec<Source<'a>>,
    findings: Vec<Finding>,
    samples: Vec<Sample>,
    /// Number of samples that are not shown.
    more: u64,
}

#[derive(Serialize)]
struct Source<'a> {
    name: Cow<'a, str>,
    counts: &'a Counts,
    /// Number of dropped records for each of the page's reasons.
    dropped: Vec<u64>,
    formats: Vec<String>,
    /// Fields that are not read.
    unread: String,
    charts: Vec<Chart>,
}

impl<'a> Page<'a> {
    fn new(inspection: &'a Inspection) -> Self {
        let Inspection { name, receipt, plan, of, samples } = inspection;
        let total = receipt.total();
        let source = |(name, counts): (&'a String, &'a Counts)| Source {
            name: visible(name),
            counts,
            dropped: total
                .dropped
                .keys()
                .map(|reason| counts.dropped.get(reason).map_or(0, |tally| tally.records))
                .collect(),
            formats: counts.formats.iter().map(ToString::to_string).collect(),
            unread: counts.unread.to_string(),
            charts: charts(counts),
        };
        Self {
            name,
            plan,
            reasons: total.dropped.keys().map(|reason| reason.label()).collect(),
            sources: receipt.sources.iter().map(source).collect(),
            findings: findings(receipt, &total),
            samples: samples.iter().map(Sample::new).collect(),
            more: of.saturating_sub(samples.len() as u64),
            total,
        }
    }
}

/// A histogram of lengths.
#[derive(Serialize)]
struct Chart {
    title: String,
    half: u64,
    most: u64,
    all: u64,
    /// The count of the highest bar.
    highest: u64,
    bars: Vec<Bar>,
    ticks: Vec<Tick>,
}

#[derive(Serialize)]
struct Bar {
    /// The least and the greatest value of the bar.
    from: u64,
    to: u64,
    count: u64,
    /// The height in percent of the highest bar.
    height: f64,
}

/// The least value of a bar, shown below it.
#[derive(Serialize)]
struct Tick {
    /// The bar's number, from 1.
    column: usize,
    /// Number of bars below which the value extends.
    span: usize,
    value: u64,
}

/// Charts of the lengths of a source's samples, and of records that were dropped for their length.
fn charts(counts: &Counts) -> Vec<Chart> {
    let kept = [
        ("tokens per sample".to_owned(), &counts.lengths),
        ("trained tokens per sample".to_owned(), &counts.target_lengths),
    ];
    let lost = counts.dropped.iter();
    let lost = lost.map(|(reason, tally)| {
        (format!("tokens of records that are {}", reason.label()), &tally.lengths)
    });
    kept.into_iter().chain(lost).filter_map(|(title, lengths)| Chart::new(title, lengths)).collect()
}

impl Chart {
    /// A chart of `lengths`; `None` if there are none.
    fn new(title: String, lengths: &Histogram) -> Option<Self> {
        let highest = lengths.spanned().map(|(_, _, count)| count).max()?;
        let bar = |(from, next, count): (u64, u64, u64)| Bar {
            from,
            to: next - 1,
            count,
            height: 100.0 * count as f64 / highest as f64,
        };
        let bars: Vec<_> = lengths.spanned().map(bar).collect();
        let span = bars.len().div_ceil(TICKS);
        let tick = |(column, bars): (usize, &[Bar])| Tick {
            column,
            span: bars.len(),
            value: bars[0].from,
        };
        let ticks = (1..).step_by(span).zip(bars.chunks(span)).map(tick).collect();
        let [half, most, all] = [0.5, 0.9, 1.0].map(|share| lengths.below(share));
        Some(Self { title, half: half?, most: most?, all: all?, highest, bars, ticks })
    }
}

/// The records of all sources that were dropped, cut or reported for one reason.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    /// `dropped`, `cut` or `kept`.
    done: &'static str,
    records: u64,
    tokens_lost: u64,
    examples: Vec<Place>,
    /// Number of records without an example.
    more: u64,
}

/// An example: a place, and what was found there.
#[derive(Serialize)]
struct Place {
    at: String,
    reason: String,
}

/// The records that were dropped, cut or kept with a finding, with the examples of every source.
fn findings(receipt: &Receipt, total: &Counts) -> Vec<Finding> {
    let of = |tally: fn(&Counts) -> Option<&Tally>| receipt.sources.values().filter_map(tally);
    let dropped = total.dropped.keys().map(|reason| {
        let tallies = receipt.sources.values().filter_map(|counts| counts.dropped.get(reason));
        Finding::new(reason.label(), "dropped", tallies)
    });
    let found = total.findings.keys().map(|reason| {
        let tallies = receipt.sources.values().filter_map(|counts| counts.findings.get(reason));
        Finding::new(reason.label(), "kept", tallies)
    });
    let cut = Finding::new("too long", "cut", of(|counts| Some(&counts.truncated)));
    dropped.chain([cut]).chain(found).filter(|finding| finding.records > 0).collect()
}

impl Finding {
    fn new<'a>(
        what: &'static str,
        done: &'static str,
        tallies: impl Iterator<Item = &'a Tally>,
    ) -> Self {
        let mut finding =
            Self { what, done, records: 0, tokens_lost: 0, examples: Vec::new(), more: 0 };
        for tally in tallies {
            finding.records += tally.records;
            finding.tokens_lost += tally.tokens_lost;
            finding.examples.extend(tally.examples.iter().map(|example| Place {
                at: visible(&format!("{}, {}", example.object, example.place)).into_owned(),
                reason: visible(&example.reason).into_owned(),
            }));
        }
        finding.more = finding.records.saturating_sub(finding.examples.len() as u64);
        finding
    }
}

#[derive(Serialize)]
struct Sample {
    origin: String,
    tokens: usize,
    trained_tokens: usize,
    fate: Option<&'static str>,
    pieces: Vec<Piece>,
}

#[derive(Serialize)]
struct Piece {
    weight: f32,
    /// The lines of the piece, so that the page can mark trained line breaks.
    lines: Vec<String>,
}

impl Sample {
    fn new(shown: &Shown) -> Self {
        let piece = |piece: &data::Piece| Piece {
            weight: piece.weight,
            lines: visible(&piece.text).split('\n').map(str::to_owned).collect(),
        };
        Self {
            origin: visible(&shown.origin).into_owned(),
            tokens: shown.tokens,
            trained_tokens: shown.trained_tokens,
            fate: shown.fate.label(),
            pieces: shown.pieces.iter().map(piece).collect(),
        }
    }
}

/// Groups digits with non-breaking spaces, such as `12 345 678`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::fate::Fate;
    use super::*;
    use crate::cli::preview::Preview;
    use proto::receipt::{Detected, Example, Reason};

    const HOSTILE: &str = "</pre><script>alert(1)</script>\u{1b}[31m\u{202e}";

    /// A receipt with every kind of content, and two samples, all with hostile text.
    fn inspection() -> Inspection {
        let example = |place: proto::receipt::Place| Example {
            object: HOSTILE.into(),
            place,
            reason: HOSTILE.into(),
        };
        let mut counts = Counts { eligible: 2, ..Counts::default() };
        counts.formats.add(Detected {
            format: "text".into(),
            container: "Parquet".into(),
            why: HOSTILE.into(),
            objects: 3,
            object: HOSTILE.into(),
            place: Some(proto::receipt::Place::Row { row: 1 }),
        });
        [20, 30].into_iter().for_each(|tokens| counts.lengths.add(tokens));
        let place = proto::receipt::Place::Record { record: 4, line: 9 };
        counts.drop_record(Reason::TooLong, example(place), 5000);
        let row = example(proto::receipt::Place::Row { row: 7 });
        counts.findings.entry(Reason::NearDuplicate).or_default().count(row, 0);
        counts.findings.entry(Reason::NearDuplicate).or_default().count_more(0);
        counts.truncated.count(example(proto::receipt::Place::line(3)), 12);
        let piece = |weight| data::Piece { text: format!("{HOSTILE}\n"), weight };
        let sample = || Shown {
            source: HOSTILE.into(),
            origin: HOSTILE.into(),
            tokens: 1234,
            trained_tokens: 3,
            fate: Fate::LeftOut,
            pieces: vec![piece(0.0), piece(1.0), piece(0.25)],
        };
        Inspection {
            name: "village".into(),
            receipt: Receipt::of(HOSTILE, counts),
            plan: Outlook::new(&Preview::example()),
            of: 44,
            samples: vec![sample(), sample()],
        }
    }

    #[test]
    fn the_page_shows_everything_and_executes_nothing() {
        let page = render(&inspection()).expect("the template is ours");
        for script in ["<script", "</script", "\u{1b}", "\u{202e}"] {
            assert!(!page.contains(script), "{script}");
        }
        let escaped =
            "&lt;&#x2f;pre&gt;&lt;script&gt;alert(1)&lt;&#x2f;script&gt;\\u{1b}[31m\\u{202e}";
        for text in [
            &*format!("text, Parquet: {escaped}, row 1 {escaped}; 2 more objects alike"),
            &format!("<code>{escaped}, record 4 (line 9)</code>: <bdi>{escaped}</bdi>"),
            &format!("<code>{escaped}, row 7</code>"),
            &format!("<code>{escaped}, line 3</code>"),
            "too long <span>· 1 record dropped, 5\u{202f}000 tokens lost</span>",
            "near duplicate <span>· 2 records kept</span>",
            "too long <span>· 1 record cut, 12 tokens lost</span>",
            "<li class=\"dim\">1 more</li>",
            "tokens of records that are too long",
            "title=\"20 to 23: 1\"",
            "<td>320</td><td>4\u{202f}000</td><td>0.500</td><td>100.0 %</td>",
            "is never seen",
            &format!("<mark>{escaped}<i></i>\n</mark>"),
            "<mark class=\"weighted\" title=\"weight 0.25\">",
            "1\u{202f}234 tokens, 3 trained · in no step of the run",
            "42 more are not shown.",
        ] {
            assert!(page.contains(text), "`{text}` in:\n{page}");
        }
    }

    #[test]
    fn digits_are_grouped_in_threes() {
        let numbers = [7, 999, 1000, 12_345_678].map(grouped);
        assert_eq!(numbers, ["7", "999", "1\u{202f}000", "12\u{202f}345\u{202f}678"]);
    }

    #[test]
    fn a_chart_has_a_bar_for_every_length_between_the_least_and_the_greatest() {
        let mut lengths = Histogram::default();
        assert!(Chart::new("t".into(), &lengths).is_none());
        [4, 4, 7].into_iter().for_each(|length| lengths.add(length));
        let chart = Chart::new("t".into(), &lengths).expect("three lengths");
        let bars: Vec<_> = chart.bars.iter().map(|bar| (bar.from, bar.to, bar.count)).collect();
        assert_eq!(bars, [(4, 4, 2), (5, 5, 0), (6, 6, 0), (7, 7, 1)]);
        assert_eq!((chart.highest, chart.bars[3].height), (2, 50.0));
        lengths.add(100_000);
        let chart = Chart::new("t".into(), &lengths).expect("four lengths");
        assert!(chart.ticks.len() <= TICKS, "{}", chart.ticks.len());
        let spans: usize = chart.ticks.iter().map(|tick| tick.span).sum();
        assert_eq!(spans, chart.bars.len());
    }
}
