//! What there is to prepare: lists every source, pins each object's identity, and looks for a prepared data set.
//!
//! The fingerprint names a prepared data set by everything that changes a token: the objects' identities, the
//! tokenizer's files, the template and its arguments, the mask policy, the formats' versions. Two runs that agree in
//! it share the shards.

use crate::core::{Fault, Survey};
use proto::error::chain;
use proto::event::Failure;
use proto::key;
use proto::prepared::FORMAT_VERSION;
use proto::protocol::RawShard;
use proto::spec::{ChatTemplate, Format, Location, Source, Spec};
use proto::storage::{Object, Storage};
use sha2::{Digest, Sha256};
use std::error::Error;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Rises when the same records and options come to other tokens.
const RECIPE_VERSION: u32 = 2;
/// The files of a tokenizer, as far as they decide about tokens.
const TOKENIZER_FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
];
/// What a folder given as a source is searched for.
const DATA_FILES: [&str; 3] = ["json", "jsonl", "txt"];

/// Raw shards are at most so large: some seconds of work, so that a lease lost with its worker costs little and nobody
/// waits long for the last one; and large beside what each costs in itself, a tokenizer loaded and a look at the head.
const SHARD_BYTES: u64 = 64 << 20;
/// And at least so large, where there is more.
const LEAST_SHARD_BYTES: u64 = 8 << 20;
/// Less data than fills so many is cut finer, so that every worker has a share.
const PIECES: u64 = 16;
/// Objects in which the next record's start is found from any byte on. Anything else is one raw shard.
const SPLITTABLE: [&str; 3] = [".jsonl", ".ndjson", ".parquet"];

/// Lists the sources of `spec`.
///
/// # Errors
/// A fault of the user's for a source that is not there, of the infrastructure's for storage.
pub(crate) async fn survey(storage: &Storage, spec: &Spec) -> Result<Survey, Fault> {
    let mut found = Vec::new();
    for (source, index) in spec.data().sources().into_iter().zip(0..) {
        found.extend(objects(source).await?.into_iter().map(|(url, object)| (index, url, object)));
    }
    let shards = raw_shards(found);
    let fingerprint = fingerprint(spec, &shards)?;
    let found = storage.head(&key::prepared_manifest(&fingerprint)).await;
    let cached = found.map_err(|e| fault(Failure::Infrastructure, &e))?.is_some();
    Ok(Survey { fingerprint, shards, cached })
}

/// Cuts objects, each with its source, into raw shards. A function of the objects alone: whoever prepares the same
/// data, with as many workers as there may be, gets the same shards.
fn raw_shards(objects: Vec<(u32, String, Object)>) -> Vec<RawShard> {
    let total: u64 = objects.iter().map(|(_, _, object)| object.bytes).sum();
    let most = (total / PIECES).clamp(LEAST_SHARD_BYTES, SHARD_BYTES);
    let mut shards = Vec::new();
    for (source, url, object) in objects {
        for range in ranges(&url, object.bytes, most) {
            shards.push(RawShard {
                index: shards.len().try_into().unwrap_or(u32::MAX),
                source,
                url: url.clone(),
                bytes: object.bytes,
                etag: object.etag.clone(),
                modified_ms: object.modified_ms,
                range,
            });
        }
    }
    shards
}

/// Equal ranges of at most `most` bytes, for objects whose records are found from any byte on.
fn ranges(url: &str, bytes: u64, most: u64) -> impl Iterator<Item = Range<u64>> {
    let name = url.to_ascii_lowercase();
    let splittable = SPLITTABLE.iter().any(|ending| name.ends_with(ending));
    let pieces = if splittable { bytes.div_ceil(most).max(1) } else { 1 };
    let cut = move |piece: u64| (u128::from(bytes) * u128::from(piece) / u128::from(pieces)) as u64;
    (0..pieces).map(move |piece| cut(piece)..cut(piece + 1))
}

/// A fault with the whole chain of causes.
pub(crate) fn fault(kind: Failure, error: &(dyn Error + 'static)) -> Fault {
    Fault { kind, message: chain(error) }
}

fn missing(source: &Source, what: &str) -> Fault {
    Fault { kind: Failure::User, message: format!("data source `{}`: {what}", source.location) }
}

/// The objects that a source names, sorted, as URLs.
async fn objects(source: &Source) -> Result<Vec<(String, Object)>, Fault> {
    let path = source
        .location
        .as_file()
        .ok_or_else(|| missing(source, "only local files are implemented yet"))?;
    let (folder, pattern) = split(path);
    if !folder.is_dir() {
        let hint = "\nhint: relative paths start at the spec's folder";
        let what = format!("there is no folder {}{hint}", folder.display());
        return Err(missing(source, &what));
    }
    let storage =
        Storage::open_existing(&folder.to_string_lossy()).map_err(|e| fault(Failure::User, &e))?;
    let found = match &pattern {
        Pattern::Name(name) => {
            let object = storage.head(name).await.map_err(|e| fault(Failure::User, &e))?;
            object.into_iter().collect()
        }
        Pattern::Glob(_) | Pattern::Everything => {
            storage.list("").await.map_err(|e| fault(Failure::User, &e))?
        }
    };
    let wanted = |o: &Object| match &pattern {
        Pattern::Name(_) => true,
        Pattern::Glob(glob) => glob.matches(&o.key),
        Pattern::Everything => {
            let extension = o.key.rsplit_once('.').map_or("", |(_, e)| e);
            DATA_FILES.contains(&extension)
        }
    };
    let objects: Vec<_> = found
        .into_iter()
        .filter(wanted)
        .map(|o| (format!("{}/{}", storage.url(), o.key), o))
        .collect();
    if objects.is_empty() {
        let what = match pattern {
            Pattern::Name(_) => {
                "there is no such file\nhint: relative paths start at the spec's folder".to_owned()
            }
            Pattern::Glob(_) => "the pattern matches no file".to_owned(),
            Pattern::Everything => {
                format!("the folder holds no file that ends in .{}", DATA_FILES.join(", ."))
            }
        };
        return Err(missing(source, &what));
    }
    Ok(objects)
}

enum Pattern {
    Name(String),
    Glob(glob::Pattern),
    Everything,
}

/// The folder to look in, and what for.
fn split(path: &Path) -> (PathBuf, Pattern) {
    if path.is_dir() {
        return (path.to_owned(), Pattern::Everything);
    }
    let parent = |p: &Path| p.parent().unwrap_or(Path::new("/")).to_owned();
    let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let special = |p: &Path| p.to_string_lossy().contains(['*', '?', '[']);
    if path.exists() || !special(path) {
        return (parent(path), Pattern::Name(name(path)));
    }
    let mut folder = parent(path);
    while special(&folder) {
        folder = parent(&folder);
    }
    let rest = path.strip_prefix(&folder).unwrap_or(path).to_string_lossy().into_owned();
    match glob::Pattern::new(&rest) {
        Ok(pattern) => (folder, Pattern::Glob(pattern)),
        Err(_) => (parent(path), Pattern::Name(name(path))),
    }
}

fn fingerprint(spec: &Spec, shards: &[RawShard]) -> Result<String, Fault> {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    for version in [RECIPE_VERSION, FORMAT_VERSION, proto::PROTOCOL] {
        add(&version.to_le_bytes());
    }
    for s in shards {
        let etag = s.etag.as_deref().unwrap_or_default();
        let RawShard { source, url, bytes, modified_ms, range, .. } = s;
        add(format!("{source} {url} {bytes} {etag} {modified_ms} {range:?}").as_bytes());
    }
    let base = local(&spec.model().base, "model.base")?;
    let data = spec.data();
    let mut asks_for_date = false;
    for name in TOKENIZER_FILES {
        match std::fs::read(base.join(name)) {
            Ok(body) => {
                asks_for_date |= data.chat_template == ChatTemplate::Tokenizer && asks(&body);
                add(&body);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => add(b""),
            Err(e) => {
                let message = format!("model.base: {}: {e}", base.join(name).display());
                return Err(Fault { kind: Failure::User, message });
            }
        }
    }
    add(format!("{:?}", spec.model().add_tokens).as_bytes());
    add(format!("{} {:?} {:?} {:?}", data.max_tokens, data.too_long, data.train_on, data.turns)
        .as_bytes());
    match &data.chat_template {
        ChatTemplate::Tokenizer => add(b"tokenizer"),
        ChatTemplate::Chatml => add(b"chatml"),
        ChatTemplate::Alpaca => add(b"alpaca"),
        ChatTemplate::File(location) => {
            let path = local(location, "data.chat_template")?;
            let body = std::fs::read(&path).map_err(|e| Fault {
                kind: Failure::User,
                message: format!("data.chat_template: {}: {e}", path.display()),
            })?;
            asks_for_date = asks(&body);
            add(&body);
        }
    }
    if asks_for_date {
        add(format!("{:?}", data.date).as_bytes());
    }
    add(serde_json::Value::from(data.chat_template_kwargs.clone()).to_string().as_bytes());
    for source in data.sources() {
        let format: Format = source.format;
        let Source { fields, roles, system, .. } = source;
        add(format!("{format:?} {fields:?} {roles:?} {system:?}").as_bytes());
    }
    Ok(hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect())
}

/// Whether a chat template, or a file that holds one, asks for the day: where none does, the day
/// must not make the cache stale.
fn asks(body: &[u8]) -> bool {
    const FUNCTION: &[u8] = b"strftime_now";
    body.windows(FUNCTION.len()).any(|window| window == FUNCTION)
}

fn local(location: &Location, field: &str) -> Result<PathBuf, Fault> {
    location.as_file().map(Path::to_owned).ok_or_else(|| Fault {
        kind: Failure::User,
        message: format!("{field}: `{location}`: only local paths are implemented yet"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATED: &str = r#"{"chat_template": "{{ strftime_now('%Y') }}"}"#;

    /// The fingerprint of a run on a base with this `tokenizer_config.json`.
    fn of(config: &str, data: &str) -> String {
        let base = tempfile::tempdir().expect("a folder");
        std::fs::write(base.path().join("tokenizer_config.json"), config).expect("written");
        std::fs::write(base.path().join("t.jinja"), "{{ strftime_now('%d') }}").expect("written");
        let yaml = format!(
            "model: {{base: .}}\ndata: {{train: [{{source: a}}], chat_template: {data}}}\n"
        );
        let spec = proto::spec::parse(&yaml, base.path()).expect("valid");
        fingerprint(&spec, &[]).expect("readable")
    }

    #[test]
    fn the_day_counts_where_the_template_asks_for_it() {
        let of = |config, template| {
            ["2026-11-21", "2026-11-22"].map(|day| of(config, &format!("{template}, date: {day}")))
        };
        let differ = |[today, tomorrow]: [String; 2]| today != tomorrow;
        assert!(differ(of(DATED, "tokenizer")));
        assert!(differ(of("{}", "./t.jinja")));
        assert!(!differ(of("{}", "tokenizer")));
        assert!(!differ(of(DATED, "chatml")));
    }

    const MIB: u64 = 1 << 20;

    /// The sizes of the raw shards of objects by name and size, in MiB.
    fn cut(objects: &[(&str, u64)]) -> Vec<(String, Vec<u64>)> {
        let object = |(name, size): &(&str, u64)| {
            let object =
                Object { key: (*name).to_owned(), bytes: size * MIB, etag: None, modified_ms: 0 };
            (0, (*name).to_owned(), object)
        };
        let mut sizes: Vec<(String, Vec<u64>)> = Vec::new();
        for shard in raw_shards(objects.iter().map(object).collect()) {
            let size = (shard.range.end - shard.range.start) / MIB;
            match sizes.last_mut().filter(|(url, _)| *url == shard.url) {
                Some((_, sizes)) => sizes.push(size),
                None => sizes.push((shard.url, vec![size])),
            }
        }
        sizes
    }

    #[test]
    fn only_what_can_be_read_from_any_byte_on_is_cut_and_never_too_fine() {
        for (size, expected) in [
            (0, vec![0]),
            (8, vec![8]),
            (20, vec![6, 6, 6]),
            (128, vec![8; 16]),
            (512, vec![32; 16]),
            (2048, vec![64; 32]),
        ] {
            assert_eq!(cut(&[("a.jsonl", size)]), [("a.jsonl".to_owned(), expected)]);
        }
        let whole = [("a.json", 999), ("b.jsonl.gz", 999), ("c.txt", 1), ("d.csv", 999)];
        let expected = whole.map(|(name, size)| (name.to_owned(), vec![size]));
        assert_eq!(cut(&whole), expected);
    }

    #[test]
    fn ranges_cover_an_object_without_gaps() {
        for bytes in [0, 1, 7, 64 * MIB + 1, 1_000_000_007] {
            let ranges: Vec<_> = ranges("A.Parquet", bytes, 8 * MIB).collect();
            assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, bytes));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(ranges.iter().all(|range| range.end - range.start <= 8 * MIB));
        }
    }
}
