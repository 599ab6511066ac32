//! What there is to prepare: lists every source, pins each object's identity, and looks for a prepared data set.
//!
//! The fingerprint names a prepared data set by everything that changes a token: the objects' identities, the
//! tokenizer's files, the template and its arguments, the mask policy, the formats' versions. Two runs that agree in
//! it share the shards.

use crate::core::{Fault, Survey};
use crate::{sources, staging};
use bytes::Bytes;
use proto::error::chain;
use proto::event::Failure;
use proto::key;
use proto::prepared::FORMAT_VERSION;
use proto::protocol::RawShard;
use proto::spec::{ChatTemplate, Format, Location, Source, Spec};
use proto::storage::{self, Object, Storage};
use sha2::{Digest, Sha256};
use std::error::Error;
use std::ops::Range;

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
        let listed = sources::list(source).await?.into_iter();
        found.extend(listed.map(|(url, object)| (index, url, object)));
    }
    let shards = raw_shards(found);
    staging::stage(storage, spec).await?;
    let fingerprint = fingerprint(spec, &shards).await?;
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

/// Whether everything that the run reads is there, before there is a run; what is staged is looked at later.
///
/// # Errors
/// As [`survey`].
pub(crate) async fn check(spec: &Spec) -> Result<(), Fault> {
    for source in spec.data().sources() {
        sources::list(source).await?;
    }
    if let ChatTemplate::File(location) = &spec.data().chat_template {
        let found = read(&location.to_string()).await;
        found.map_err(|e| storage_fault("data.chat_template", &e))?;
    }
    if spec.model().base.as_hub().is_some() {
        return Ok(());
    }
    let base = open_base(&spec.model().base)?;
    let told = |e| storage_fault("model.base", &e);
    if base.head("config.json").await.map_err(told)?.is_some() {
        return Ok(());
    }
    // Where there is no bucket, there is no object either.
    base.probe().await.map_err(told)?;
    let hint = match base.head("model/config.json").await.map_err(told)? {
        Some(_) => "name the folder `model` in it",
        None => "name a folder in Hugging Face's format",
    };
    let base = &spec.model().base;
    Err(Fault {
        kind: Failure::User,
        message: format!(
            "model.base: there is no model in {base}: it has no `config.json`\nhint: {hint}"
        ),
    })
}

/// A fault with the whole chain of causes.
pub(crate) fn fault(kind: Failure, error: &(dyn Error + 'static)) -> Fault {
    Fault { kind, message: chain(error) }
}

async fn fingerprint(spec: &Spec, shards: &[RawShard]) -> Result<String, Fault> {
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
    let data = spec.data();
    let mut asks_for_date = false;
    for body in tokenizer(spec).await? {
        asks_for_date |= data.chat_template == ChatTemplate::Tokenizer && asks(&body);
        add(&body);
    }
    add(format!("{:?}", spec.model().add_tokens).as_bytes());
    add(format!("{} {:?} {:?} {:?}", data.max_tokens, data.too_long, data.train_on, data.turns)
        .as_bytes());
    match &data.chat_template {
        ChatTemplate::Tokenizer => add(b"tokenizer"),
        ChatTemplate::Chatml => add(b"chatml"),
        ChatTemplate::Alpaca => add(b"alpaca"),
        ChatTemplate::File(location) => {
            let body = read(&location.to_string()).await;
            let body = body.map_err(|e| storage_fault("data.chat_template", &e))?;
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

/// The files of the base's tokenizer, empty where there is none.
async fn tokenizer(spec: &Spec) -> Result<Vec<Bytes>, Fault> {
    let told = |e: storage::Error| storage_fault("model.base", &e);
    let base = open_base(&spec.base())?;
    let mut files = Vec::new();
    for name in TOKENIZER_FILES {
        match base.read(name).await {
            Ok(body) => files.push(body),
            Err(storage::Error::NotFound { .. }) => files.push(Bytes::new()),
            Err(e) => return Err(told(e)),
        }
    }
    Ok(files)
}

fn open_base(base: &Location) -> Result<Storage, Fault> {
    if let Some(folder) = base.as_file().filter(|folder| !folder.is_dir()) {
        let hint = "hint: relative paths start at the spec's folder";
        let message = format!("model.base: there is no folder {}\n{hint}", folder.display());
        return Err(Fault { kind: Failure::User, message });
    }
    Storage::open_existing(&base.to_string()).map_err(|e| storage_fault("model.base", &e))
}

async fn read(url: &str) -> Result<Bytes, storage::Error> {
    let (storage, key) = Storage::containing(url)?;
    storage.read(&key).await
}

/// Whoever's fault it is that something named in the spec cannot be read.
fn storage_fault(field: &str, error: &storage::Error) -> Fault {
    let kind = if error.is_users() { Failure::User } else { Failure::Infrastructure };
    Fault { kind, message: format!("{field}: {}", chain(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATED: &str = r#"{"chat_template": "{{ strftime_now('%Y') }}"}"#;

    /// The fingerprint of a run on a base with this `tokenizer_config.json`.
    async fn of(config: &str, data: &str) -> String {
        let base = tempfile::tempdir().expect("a folder");
        std::fs::write(base.path().join("tokenizer_config.json"), config).expect("written");
        std::fs::write(base.path().join("t.jinja"), "{{ strftime_now('%d') }}").expect("written");
        let yaml = format!(
            "model: {{base: .}}\ndata: {{train: [{{source: a}}], chat_template: {data}}}\n"
        );
        let spec = proto::spec::parse(&yaml, base.path()).expect("valid");
        fingerprint(&spec, &[]).await.expect("readable")
    }

    #[tokio::test]
    async fn the_day_counts_where_the_template_asks_for_it() {
        let differ = async |config, template| {
            let today = of(config, &format!("{template}, date: 2026-11-21")).await;
            today != of(config, &format!("{template}, date: 2026-11-22")).await
        };
        assert!(differ(DATED, "tokenizer").await);
        assert!(differ("{}", "./t.jinja").await);
        assert!(!differ("{}", "tokenizer").await);
        assert!(!differ(DATED, "chatml").await);
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
