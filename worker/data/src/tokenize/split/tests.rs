//! Compares each scanner with the regex that it replaces, as `tokenizers` runs it.

use fancy_regex::Regex;

use super::super::probe;
use super::*;

fn scanned(splitter: Splitter, text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    words(&[splitter], text, 0..text.len(), &mut |range| {
        pieces.push(&text[range]);
        Some(())
    });
    pieces
}

fn assert_alike(regex: &Regex, splitter: Splitter, text: &str) {
    let matched: Result<Vec<&str>, _> =
        regex.find_iter(text).map(|found| found.map(|found| found.as_str())).collect();
    let matched = matched.expect("short texts backtrack little");
    assert_eq!(scanned(splitter, text), matched, "{splitter:?}: {text:?}");
}

#[test]
fn scanners_cut_as_their_regexes_do() {
    for (regex, splitter) in REGEXES {
        let regex = Regex::new(regex).expect("as it stands in files");
        for text in probe::texts(7, 20_000, &[]) {
            assert_alike(&regex, splitter, &text);
        }
    }
}

#[test]
fn every_character_beside_every_class_is_cut_as_by_the_regex() {
    let around = ["", "a", "A", "\u{301}", "7", " ", "\n", "'", "!"];
    for (regex, splitter) in REGEXES {
        let regex = Regex::new(regex).expect("as it stands in files");
        // One text for a hundred characters, because starting the regex takes most of the time.
        let all: Vec<char> = ('\0'..=char::MAX).filter(|&c| is_probed(c)).collect();
        for (block, chars) in all.chunks(100).enumerate() {
            let (left, right) = (around[block % around.len()], around[block / 9 % around.len()]);
            let text: String = chars.iter().map(|c| format!("{left}{c}{right}x ")).collect();
            assert_alike(&regex, splitter, &text);
        }
    }
}

/// Whether a character is in a densely assigned plane, or in a sample of the rest.
fn is_probed(c: char) -> bool {
    c < '\u{20000}' || (c as u32).is_multiple_of(997)
}

#[test]
fn splitters_apply_one_after_another() {
    let splitters = [Splitter::Digits { individual: true }, Splitter::Gpt2];
    let text = " in 1984,  she";
    let mut pieces = Vec::new();
    words(&splitters, text, 0..text.len(), &mut |range| {
        pieces.push(&text[range]);
        Some(())
    });
    assert_eq!(pieces, [" in", " ", "1", "9", "8", "4", ",", " ", " she"]);
    assert_eq!(scanned(Splitter::Digits { individual: false }, "a12½b"), ["a", "12½", "b"]);
}
