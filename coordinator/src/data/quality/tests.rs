//! Tests of each check on readable data, and of the lines that it names.

use std::convert::Infallible;

use data::Record;
use proto::prepared::{Front, Object, Sample, Signature, Unit, Writer};
use proto::receipt::{Counts, Receipt};

use super::*;

/// A source: the name of its object, and a question and an answer for each line.
type Lines<'a> = (&'a str, &'a [(&'a str, &'a str)]);

/// Prepares each source as a shard, and returns the records, their signatures, and the receipt.
fn prepared(sources: &[Lines<'_>]) -> (Records, Vec<Signature>, Receipt) {
    let (mut records, mut signatures) = (Records::default(), Vec::new());
    let mut receipt = Receipt::default();
    for (source, (object, lines)) in (0..).zip(sources) {
        let mut writer = Writer::new("");
        writer.object(Object { name: (*object).into(), source, unit: Unit::Line });
        let mut counts = Counts::default();
        for (position, (prompt, completion)) in (1..).zip(*lines) {
            let record =
                Record::Completion { prompt: (*prompt).into(), completion: (*completion).into() };
            let hash = record.hash();
            let sample =
                Sample { tokens: vec![1, 2, 3], weights: vec![0.0, 0.0, 1.0], hash, position };
            let features = data::features(&record, hash);
            signatures.push(features.signature);
            writer.record(features);
            writer.push(&sample);
            counts.read += 1;
            counts.eligible += 1;
            counts.add_samples(&[sample]);
        }
        records.push(&Front::parse(writer.finish().into()).expect("our own bytes"));
        receipt.merge(Receipt::of(*object, counts));
    }
    (records, signatures, receipt)
}

/// The bytes of all signatures at `places`, place by place.
fn places(signatures: &[Signature], places: Range<usize>) -> Result<Vec<u8>, Infallible> {
    Ok(places.flat_map(|place| signatures.iter().map(move |of| of.0[place])).collect())
}

fn all(check: Check) -> Quality<()> {
    Quality {
        duplicates: check,
        near_duplicates: check,
        contradictions: check,
        loops: check,
        incomplete: check,
        contamination: check,
        ..Quality::default()
    }
}

/// The excluded samples, and the lines of the receipt below its table.
fn examine(
    sources: &[Lines<'_>],
    trained: u32,
    held_out: &[u32],
    checks: &Quality<()>,
) -> (Vec<u32>, Vec<String>) {
    let (records, signatures, mut receipt) = prepared(sources);
    let read = |range| places(&signatures, range);
    let Ok(verdict) = check(&records, trained, held_out, checks, read);
    let names: Vec<String> = sources.iter().map(|(name, _)| (*name).to_owned()).collect();
    verdict.settle(&mut receipt, &records, &names, |_| 3);
    let total = receipt.total();
    assert!(total.is_balanced(), "{total:?}");
    assert_eq!((total.samples, total.tokens), (total.eligible, 3 * total.eligible));
    assert_eq!((total.trained_tokens, total.lengths.len()), (total.eligible, total.eligible));
    assert_eq!(total.dropped_records(), verdict.excluded.len() as u64);
    let text = receipt.to_string();
    let listed = text.lines().filter(|line| line.starts_with("  ") && !line.contains("per sample"));
    (verdict.excluded, listed.map(|line| line.trim().to_owned()).collect())
}

const LONG: &str = "Explain in a few sentences how a steam engine turns the heat of a fire into \
                    the motion of a wheel, and name the parts that it needs for that.";
const NEARLY: &str = "Explain in a few sentences how a steam engine turns the heat of a fire into \
                      the motion of a wheel, and name the parts which it needs for that.";
const ANSWER: &str = "Water boils, steam pushes a piston, and a crank turns the wheel.";
const OPEN: &str = "You can use any of these tools (for example a hammer";

#[test]
fn every_finding_names_its_line_and_the_other_one() {
    let looping = "I do not know. ".repeat(15);
    let lines: &[(&str, &str)] = &[
        ("What is 2 + 2?", "4"),
        (LONG, ANSWER),
        ("What is 2 + 2?", "4"),
        ("what is  2 + 2", "Five."),
        (NEARLY, ANSWER),
        ("Who are you?", &looping),
        ("What do I need?", OPEN),
        ("What is 2 - 2?", "0"),
    ];
    let (excluded, listed) = examine(&[("a.jsonl", lines)], 1, &[], &all(Check::Report));
    assert!(excluded.is_empty());
    assert_eq!(
        listed,
        [
            "duplicate, kept: a.jsonl, line 3: the same as a.jsonl, line 1",
            // 40 sets of three words each, 37 of them shared: 37 / 43 = 0.860.
            "near duplicate, kept: a.jsonl, line 5: nearly the same as a.jsonl, line 2 \
             (similarity 0.84)",
            "contradictory, kept: a.jsonl, line 4: answers the question of a.jsonl, line 1 \
             differently",
            "looping, kept: a.jsonl, line 6: the answer repeats itself to the end",
            "incomplete, kept: a.jsonl, line 7: the answer stops in the middle",
        ]
    );
    let (excluded, listed) = examine(&[("a.jsonl", lines)], 1, &[], &all(Check::Filter));
    assert_eq!(excluded, [2, 3, 4, 5, 6]);
    assert_eq!(listed.len(), 5);
    assert_eq!(listed[0], "duplicate: a.jsonl, line 3: the same as a.jsonl, line 1");
    assert_eq!(examine(&[("a.jsonl", lines)], 1, &[], &all(Check::Off)), (vec![], vec![]));
}

#[test]
fn held_out_samples_are_not_trained_under_another_name() {
    let lines: &[(&str, &str)] =
        &[(LONG, ANSWER), ("Name a colour.", "Blue."), ("name a colour", "Red."), (NEARLY, ANSWER)];
    let checks = Quality { contamination: Check::Filter, ..all(Check::Off) };
    // The first two are held out, the others trained.
    let (excluded, listed) = examine(&[("a.jsonl", lines)], 1, &[0, 1], &checks);
    assert_eq!(excluded, [2, 3]);
    assert_eq!(
        listed,
        [
            "contaminated: a.jsonl, line 3: asks the same as a.jsonl, line 2, which the model is \
             evaluated on",
            "contaminated: a.jsonl, line 4: nearly the same as a.jsonl, line 1, which the model is \
             evaluated on",
        ]
    );
}

#[test]
fn benchmarks_are_compared_with_but_get_no_finding() {
    let train: &[(&str, &str)] = &[("Q one?", "A"), (LONG, ANSWER), ("Q three?", "B")];
    let bench: &[(&str, &str)] =
        &[("Q three?", "C"), ("Q one?", "A"), ("Q one?", "A"), ("Q", OPEN)];
    let (excluded, listed) =
        examine(&[("a.jsonl", train), ("b.jsonl", bench)], 1, &[], &all(Check::Filter));
    assert_eq!(excluded, [0, 2]);
    assert_eq!(
        listed,
        [
            "contaminated: a.jsonl, line 1: the same as b.jsonl, line 2, which the model is \
             evaluated on",
            "contaminated: a.jsonl, line 3: asks the same as b.jsonl, line 1, which the model is \
             evaluated on",
        ]
    );
}

#[test]
fn filters_keep_the_first_in_the_order_of_the_sources() {
    let one: &[(&str, &str)] = &[("Another?", "Yes."), ("Same?", "Yes.")];
    let two: &[(&str, &str)] = &[("Same?", "Yes."), ("Same?", "No.")];
    let checks = Quality { near_duplicates: Check::Off, ..all(Check::Filter) };
    let (excluded, listed) = examine(&[("z.jsonl", one), ("a.jsonl", two)], 2, &[], &checks);
    assert_eq!(excluded, [2, 3]);
    assert!(listed.contains(&"duplicate: a.jsonl, line 1: the same as z.jsonl, line 2".into()));
}

#[test]
fn a_filtered_record_is_not_reported_as_kept_and_hides_no_other() {
    // The first answer is flawed. Without it, the second record is the first with its question.
    let lines: &[(&str, &str)] = &[("Tools?", OPEN), ("Tools?", "A hammer."), ("Tools?", OPEN)];
    let checks =
        Quality { incomplete: Check::Filter, near_duplicates: Check::Off, ..all(Check::Report) };
    let (excluded, listed) = examine(&[("a.jsonl", lines)], 1, &[], &checks);
    assert_eq!(excluded, [0, 2]);
    let dropped =
        |line: u32| format!("incomplete: a.jsonl, line {line}: the answer stops in the middle");
    assert_eq!(listed, [dropped(1), dropped(3)]);
}

#[test]
fn a_receipt_keeps_five_examples_and_counts_them_all() {
    let lines: Vec<(&str, &str)> = vec![("Same?", "Yes."); 9];
    let checks = Quality { duplicates: Check::Filter, ..all(Check::Off) };
    let (excluded, listed) = examine(&[("a.jsonl", &lines)], 1, &[], &checks);
    assert_eq!(excluded, (1..9).collect::<Vec<u32>>());
    assert_eq!((listed.len(), listed[5].as_str()), (6, "duplicate: 3 more"));
}

#[test]
fn verdict_does_not_depend_on_threads() {
    let answers: Vec<String> = (0..400).map(|n| format!("{} {ANSWER}", n % 7)).collect();
    let questions: Vec<String> = (0..400).map(|n| format!("{LONG} {}", n % 11)).collect();
    let lines: Vec<(&str, &str)> =
        questions.iter().zip(&answers).map(|(q, a)| (q.as_str(), a.as_str())).collect();
    let (records, signatures, _) =
        prepared(&[("a.jsonl", &lines[..250]), ("b.jsonl", &lines[250..])]);
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let read = |range| places(&signatures, range);
        let Ok(verdict) =
            pool.install(|| check(&records, 2, &[3, 9, 27], &all(Check::Report), read));
        verdict
    };
    let one = with(1);
    assert!(one.findings.len() > 700);
    assert_eq!(with(3), one);
}
