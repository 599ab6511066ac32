//! Finds out what an object is, from its name and its first bytes.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::source::{ReadAt, Window};
use super::unpack::{Input, Packing};
use super::{Container, Given, ReadError};

/// The number of bytes that are looked at.
const HEAD_BYTES: u64 = 64 << 10;

/// Finds how an object is packed, and how it holds its records.
///
/// # Errors
/// Those of the source; files of other kinds, UTF-16, and one JSON object over many lines.
pub(super) fn look(
    object: &str,
    source: &Arc<dyn ReadAt>,
    given: Given<'_>,
) -> Result<(Packing, Container), ReadError> {
    let size = source.size();
    let read = |packing, most: u64| {
        let window = Window::new(source.clone(), 0..size);
        let mut input = Input::new(object, window, packing)?;
        let mut head = Vec::new();
        if let Err(error) = (&mut input).take(most).read_to_end(&mut head) {
            // A packed object may break off here; this is reported when its records are read.
            input.explain(error)?;
        }
        Ok(head)
    };
    let packing = Packing::of(&read(Packing::Plain, 4)?);
    let head = read(packing, HEAD_BYTES)?;
    let unreadable = |(found, hint)| ReadError::unreadable(object, found, hint);
    if head.starts_with(b"PAR1") && packing == Packing::Plain {
        return Ok((packing, Container::Parquet));
    }
    if let Some(known) = foreign(&head) {
        return Err(unreadable(known));
    }
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
    let name = object.to_ascii_lowercase();
    let container = container_of(packing.strip(&name), head, given);
    let is_whole = (head.len() as u64) < HEAD_BYTES - 3;
    if container == Container::Lines && is_one_object(head, is_whole) {
        let hint = "records are the elements of a JSON array, or one object per line: `jq -c .` writes \
                    the object like this, and `jq -c '.data[]'` the elements of its list `data`";
        return Err(unreadable(("one JSON object over many lines", hint)));
    }
    Ok((packing, container))
}

/// Finds the container by the first bytes and by `name`, in lower case and without the ending of
/// its packing.
fn container_of(name: &str, head: &[u8], given: Given<'_>) -> Container {
    let ends_with = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends_with(&[".txt", ".md", ".text"]) {
        return Container::Document;
    }
    if ends_with(&[".csv"]) {
        return Container::Table { delimiter: delimiter(head) };
    }
    if ends_with(&[".tsv", ".tab"]) {
        return Container::Table { delimiter: b'\t' };
    }
    let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        Some(b'[') if !ends_with(&[".jsonl", ".ndjson"]) => Container::Array,
        Some(b'{')
            if !ends_with(&[".jsonl", ".ndjson"]) && is_list_in_object(head, given.fields) =>
        {
            Container::Array
        }
        Some(b'{') => Container::Lines,
        _ if given.is_text && !ends_with(&[".jsonl", ".ndjson", ".json"]) => Container::Document,
        _ => Container::Lines,
    }
}

/// The delimiter of a table whose name does not give it, found in the table's first line.
fn delimiter(head: &[u8]) -> u8 {
    let line = head.split(|byte| b"\r\n".contains(byte)).next().unwrap_or_default();
    let mut in_quotes = false;
    let bare = line.iter().filter(|byte| {
        in_quotes ^= **byte == b'"';
        !in_quotes
    });
    let bare: Vec<u8> = bare.copied().collect();
    [b',', b';', b'\t'].into_iter().find(|delimiter| bare.contains(delimiter)).unwrap_or(b',')
}

/// Whether an object begins whose first field is a list of objects with a telling name:
/// `{"data": [{`. False if the user gives the field a meaning of its own.
fn is_list_in_object(head: &[u8], fields: &[&str]) -> bool {
    const LISTS: [&str; 8] =
        ["data", "rows", "train", "examples", "instances", "records", "items", "samples"];
    let begins = |list: &str| {
        let name = format!("\"{list}\"");
        let mut rest = head;
        [b"{", name.as_bytes(), b":", b"[", b"{"].into_iter().all(|piece| {
            let found = rest.trim_ascii_start().strip_prefix(piece);
            rest = found.unwrap_or_default();
            found.is_some()
        })
    };
    // An object that is complete in the first line is itself a record if it has other fields, or if
    // objects follow it.
    let text = head.trim_ascii_start();
    let newline = text.iter().position(|byte| *byte == b'\n');
    let (line, rest) = text.split_at(newline.unwrap_or(text.len()));
    let is_record = serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(line)
        .is_ok_and(|object| object.len() > 1 || rest.trim_ascii_start().starts_with(b"{"));
    !is_record && LISTS.into_iter().any(|list| !fields.contains(&list) && begins(list))
}

/// A file whose first bytes show that it is of a kind that is not read: its kind, and a hint.
fn foreign(head: &[u8]) -> Option<(&'static str, &'static str)> {
    const PLAIN: &str = "unpack it first";
    const SAVE: &str = "save it as UTF-8";
    const LFS: &str = "a Git LFS pointer, not the file itself";
    const MAGIC: [(&[u8], &str, &str); 10] = [
        (b"version https://git-lfs.github.com", LFS, "`git lfs pull` fetches the file"),
        (b"\x1f\x8b", "an archive within an archive", PLAIN),
        (b"\x28\xb5\x2f\xfd", "an archive within an archive", PLAIN),
        (b"PAR1", "a packed Parquet file", "unpack it first; Parquet packs its own columns"),
        (b"PK\x03\x04", "a zip file", PLAIN),
        (b"BZh", "a bzip2 file", "unpack it first, or pack it with gzip or zstd"),
        (b"\xfd7zXZ\0", "an xz file", "unpack it first, or pack it with gzip or zstd"),
        (b"ARROW1", "an Arrow file", "write it as Parquet or JSON lines"),
        (b"\xff\xfe", "UTF-16 text", SAVE),
        (b"\xfe\xff", "UTF-16 text", SAVE),
    ];
    let known = MAGIC.iter().find(|(magic, ..)| head.starts_with(magic))?;
    Some((known.1, known.2))
}

/// Whether the "lines" are the pieces of one pretty-printed object: the first line is incomplete,
/// and together they are JSON, as far as can be seen.
fn is_one_object(head: &[u8], is_whole: bool) -> bool {
    let text = head.trim_ascii();
    let Some(newline) = text.iter().position(|&byte| byte == b'\n') else {
        return false;
    };
    let line: Result<&RawValue, _> = serde_json::from_slice(&text[..newline]);
    let cut_short = line.is_err_and(|error| error.is_eof());
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
    cut_short
        && match values.next() {
            Some(Ok(_)) => true,
            Some(Err(error)) => error.is_eof() && !is_whole,
            None => false,
        }
}
