//! gzip and zstd are recognized by their first bytes.

use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{Read, Write};

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("memory")
}

#[test]
fn packed_objects_read_like_plain_ones_whatever_their_names() {
    for (name, text) in [
        ("a.jsonl", "{\"a\":1}\n\n{\"b\":2}\n"),
        ("a.json", "[{\"a\":1},\n{\"b\":2}]"),
        ("a.csv", "a,b\n1,2\n"),
        ("a.txt", "A text.\n"),
    ] {
        let plain = read(name, text.as_bytes());
        assert!(!plain.is_empty());
        for (ending, packed) in [("gz", gzip(text.as_bytes())), ("zst", zstd(text.as_bytes()))] {
            assert_eq!(read(&format!("{name}.{ending}"), &packed), plain, "{name}.{ending}");
            assert_eq!(read(name, &packed), plain, "{name} holds {ending}");
        }
    }
}

#[test]
fn many_members_and_frames_are_one_stream() {
    let parts = [&b"{\"a\":1}\n{\"b\""[..], b":2}\n", b"{\"c\":3}"];
    let plain = read("a.jsonl", &parts.concat());
    for pack in [gzip, zstd] {
        let packed: Vec<u8> = parts.iter().flat_map(|part| pack(part)).collect();
        assert_eq!(read("a.jsonl.gz", &packed), plain);
    }
}

#[test]
fn every_cut_archive_keeps_what_came_before_and_says_it_breaks_off() {
    let lines: String = (0..200).map(|i| format!("{{\"n\":{}}}\n", i * 7919 % 1009)).collect();
    let plain = read("a.jsonl", lines.as_bytes());
    for pack in [gzip, zstd] {
        let packed = pack(lines.as_bytes());
        for cut in 20..packed.len() {
            let mut records = read("a.jsonl", &packed[..cut]);
            let (_, last) = records.pop().expect("at least where it breaks off");
            assert!(last.starts_with("cut off: the ") && last.contains("break off"), "{last}");
            assert_eq!(records, plain[..records.len()], "cut at {cut}");
        }
    }
}

#[test]
fn an_archive_that_explodes_is_refused_with_a_hint() {
    let zeros = std::io::repeat(b' ').take(400 << 20);
    let packed = zstd::encode_all(zeros, 1).expect("memory");
    assert!(packed.len() < 1 << 20);
    let opened =
        Object::open("a.jsonl", Arc::new(Bytes::from(packed)), Given::default()).expect("opens");
    let error = opened.blocks(0..1).expect("begins").find_map(Result::err).expect("refused");
    let expected = "a.jsonl: an archive that unpacks to more than 200 times its size\nhint: ";
    assert!(error.to_string().starts_with(expected), "{error}");
}
