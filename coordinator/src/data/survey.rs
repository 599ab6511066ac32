//! Surveys a run's data: lists every source, pins each object's identity, and checks whether the data set is already
//! prepared.
//!
//! The fingerprint of a [`data::Recipe`] names a prepared data set. Runs with equal fingerprints share its shards.

use super::progress::Progress;
use super::{base, fault, sources, staging};
use crate::core::{Fault, Survey};
use bytes::Bytes;
use data::{Recipe, SourceOptions};
use proto::error::chain;
use proto::event::Failure;
use proto::key;
use proto::manifest::{Origin, Prepared};
use proto::protocol::RawShard;
use proto::spec::{ChatTemplate, Location, Spec};
use std::collections::BTreeMap;
use std::ops::Range;
use storage::{Object, Storage};

/// Maximum size of a raw shard. A shard is some seconds of work, so that a worker that dies loses little and the last
/// shard is not waited for long, but large compared with its fixed cost of loading a tokenizer and reading the head.
const SHARD_BYTES: u64 = 64 << 20;
/// Minimum size of the shards of a larger object.
const LEAST_SHARD_BYTES: u64 = 8 << 20;
/// Approximate number of shards that a small data set is cut into, so that every worker gets some of them.
const PIECES: u64 = 16;
/// Endings of objects in which a record's start can be found from any byte. Any other object is one raw shard.
const SPLITTABLE: [&str; 3] = [".jsonl", ".ndjson", ".parquet"];

/// Lists the sources of `spec`.
///
/// # Errors
/// A user fault for a missing source; an infrastructure fault if storage fails, or if nothing answers in time.
pub(crate) async fn survey(storage: &Storage, spec: &Spec) -> Result<Survey, Fault> {
    let progress = Progress::new();
    progress.watch(find(storage, spec, &progress)).await
}

async fn find(storage: &Storage, spec: &Spec, progress: &Progress) -> Result<Survey, Fault> {
    let mut found = Vec::new();
    for (source, index) in spec.data().sources().into_iter().zip(0..) {
        let listed = sources::list(source, progress).await?.into_iter();
        found.extend(listed.map(|(url, object)| (index, url, object)));
    }
    let shards = raw_shards(found);
    staging::stage(storage, spec, progress).await?;
    let fingerprint = fingerprint(spec, &shards, progress).await?;
    progress.begin(format!("output `{}`", spec.output()));
    let cached = is_prepared(storage, &fingerprint).await;
    let cached = cached.map_err(|e| fault::of(Failure::Infrastructure, &e))?;
    Ok(Survey { fingerprint, shards, cached })
}

/// Whether a data set is prepared.
///
/// # Errors
/// Errors of the store.
pub(crate) async fn is_prepared(
    storage: &Storage,
    fingerprint: &str,
) -> Result<bool, storage::Error> {
    Ok(storage.head(&key::prepared_manifest(fingerprint)).await?.is_some())
}

/// Describes how the sources of a run have changed since its data was prepared. `None` if they have not, or if an older
/// version prepared the data and did not record its objects.
pub(crate) async fn difference(
    storage: &Storage,
    spec: &Spec,
    fingerprint: &str,
) -> Option<String> {
    const CONTINUES: &str = "the run continues with the data that it prepared when it began";
    let unknown =
        |why: &str| Some(format!("whether the data has changed is unknown ({why}); {CONTINUES}"));
    let prepared = match storage.read(&key::prepared_manifest(fingerprint)).await {
        Ok(prepared) => serde_json::from_slice(&prepared),
        Err(error) => return unknown(&chain(&error)),
    };
    let before = match prepared {
        Ok(Prepared { objects, .. }) if objects.is_empty() => return None,
        Ok(Prepared { objects, .. }) => objects,
        Err(error) => return unknown(&chain(&error)),
    };
    let progress = Progress::new();
    let listed = async {
        let mut now = Vec::new();
        for source in spec.data().sources() {
            let listed = sources::list(source, &progress).await?.into_iter();
            now.extend(listed.map(|(url, Object { bytes, etag, modified_ms, .. })| Origin {
                url,
                bytes,
                etag,
                modified_ms,
            }));
        }
        Ok(now)
    };
    let now = match progress.watch(listed).await {
        Ok(now) => now,
        Err(Fault { message, .. }) => return unknown(&message),
    };
    let changed = changes(&before, &now);
    let first = changed.first()?;
    let more = match changed.len() {
        1 => String::new(),
        2 => ", and 1 other object differs".to_owned(),
        all => format!(", and {} other objects differ", all - 1),
    };
    Some(format!("{first} since{more}; {CONTINUES}; a new run would train on the current data"))
}

/// Describes the changes of objects, each in a sentence.
fn changes(before: &[Origin], now: &[Origin]) -> Vec<String> {
    let by_url = |all: &[Origin]| -> BTreeMap<String, Origin> {
        all.iter().map(|origin| (origin.url.clone(), origin.clone())).collect()
    };
    let (before, now) = (by_url(before), by_url(now));
    let changed = before.iter().filter_map(|(url, origin)| match now.get(url) {
        None => Some(format!("`{url}` has disappeared")),
        Some(found) if found != origin => Some(format!("`{url}` has changed")),
        Some(_) => None,
    });
    let new = now.keys().filter(|url| !before.contains_key(*url));
    changed.chain(new.map(|url| format!("`{url}` was added"))).collect()
}

/// Cuts objects, each with its source, into raw shards. The result depends only on the objects, so the same data is
/// always cut into the same shards, whatever the number of workers.
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

/// Divides a splittable object into ranges of about equal size, of at most `most` bytes; any other object is one range.
fn ranges(url: &str, bytes: u64, most: u64) -> impl Iterator<Item = Range<u64>> {
    let name = url.to_ascii_lowercase();
    let splittable = SPLITTABLE.iter().any(|ending| name.ends_with(ending));
    let pieces = if splittable { bytes.div_ceil(most).max(1) } else { 1 };
    let cut = move |piece: u64| (u128::from(bytes) * u128::from(piece) / u128::from(pieces)) as u64;
    (0..pieces).map(move |piece| cut(piece)..cut(piece + 1))
}

/// Which locations in a spec [`check`] looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of them, except a base on the hub, which is checked when it is staged.
    Everywhere,
    /// Only paths of the file system.
    OnThisHost,
}

impl Scope {
    fn covers(self, location: &Location) -> bool {
        match self {
            Self::Everywhere => true,
            Self::OnThisHost => location.as_file().is_some(),
        }
    }
}

/// Checks that everything the run reads exists, before the run is created.
///
/// # Errors
/// The errors of [`survey`].
pub(crate) async fn check(spec: &Spec, scope: Scope) -> Result<(), Fault> {
    let progress = Progress::new();
    let look = async {
        for source in spec.data().sources().into_iter().filter(|s| scope.covers(&s.location)) {
            sources::list(source, &progress).await?;
        }
        if let ChatTemplate::File(location) = &spec.data().chat_template
            && scope.covers(location)
        {
            template(spec, &progress).await?;
        }
        match &spec.model().base {
            Location::Hub(_) => Ok(()),
            base if scope.covers(base) => base::check(base, &progress).await,
            Location::File(_) | Location::Url { .. } => Ok(()),
        }
    };
    progress.watch(look).await
}

async fn fingerprint(
    spec: &Spec,
    shards: &[RawShard],
    progress: &Progress,
) -> Result<String, Fault> {
    let undated = || Fault {
        kind: Failure::Infrastructure,
        message: "the run's spec has no `data.date`, which submitting it sets".into(),
    };
    let options = data::Options::of(spec, template(spec, progress).await?).ok_or_else(undated)?;
    let sources: Vec<_> = spec.data().sources().into_iter().map(SourceOptions::of).collect();
    let tokenizer = base::tokenizer(&spec.base(), progress).await?;
    let recipe = Recipe { shards, tokenizer: &tokenizer, options: &options, sources: &sources };
    Ok(recipe.fingerprint())
}

/// The text of the chat template, if the spec names a file.
async fn template(spec: &Spec, progress: &Progress) -> Result<Option<String>, Fault> {
    let ChatTemplate::File(location) = &spec.data().chat_template else { return Ok(None) };
    progress.begin(format!("data.chat_template `{location}`"));
    let body = read(&location.to_string()).await;
    let body = body.map_err(|error| match location.as_file() {
        // If the folder is missing as well, the store's error is less clear.
        Some(path) if error.is_users() && !path.exists() => {
            let path = path.display();
            let hint = "hint: relative paths start at the spec's folder";
            let message = format!("data.chat_template: there is no file {path}\n{hint}");
            Fault { kind: Failure::User, message }
        }
        Some(_) | None => fault::unreadable("data.chat_template", &error),
    })?;
    let text = String::from_utf8(body.into()).map_err(|e| Fault {
        kind: Failure::User,
        message: format!("data.chat_template: `{location}` is not UTF-8: {e}"),
    })?;
    Ok(Some(text))
}

async fn read(url: &str) -> Result<Bytes, storage::Error> {
    let url = url.to_owned();
    // A file system that never answers must not block other tasks.
    let opened = tokio::task::spawn_blocking(move || Storage::containing(&url)).await;
    let (storage, key) = opened.expect("opening a folder does not panic")?;
    storage.confined()?.read(&key).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_objects_are_described() {
        let origin =
            |url: &str, modified_ms| Origin { url: url.into(), bytes: 1, etag: None, modified_ms };
        let before = [origin("a", 1), origin("b", 1), origin("c", 1)];
        assert_eq!(changes(&before, &before), Vec::<String>::new());
        let now = [origin("c", 2), origin("d", 1), origin("a", 1)];
        let expected = ["`b` has disappeared", "`c` has changed", "`d` was added"];
        assert_eq!(changes(&before, &now), expected);
    }

    /// The fingerprint of a run on a base with this `tokenizer_config.json`.
    async fn fingerprint_with(config: &str, data: &str) -> String {
        let base = tempfile::tempdir().expect("a folder");
        std::fs::write(base.path().join("tokenizer_config.json"), config).expect("written");
        std::fs::write(base.path().join("t.jinja"), "{{ strftime_now('%d') }}").expect("written");
        let yaml = format!(
            "model: {{base: .}}\ndata: {{train: [{{source: a}}], chat_template: {data}}}\n"
        );
        let spec = proto::spec::parse(&yaml, base.path()).expect("valid");
        fingerprint(&spec, &[], &Progress::new()).await.expect("readable")
    }

    #[tokio::test]
    async fn the_fingerprint_covers_the_tokenizer_and_the_template() {
        let plain = fingerprint_with("{}", "tokenizer, date: 2026-11-21").await;
        assert_eq!(fingerprint_with("{}", "tokenizer, date: 2026-11-22").await, plain);
        assert_ne!(fingerprint_with("{ }", "tokenizer, date: 2026-11-21").await, plain);
        let dated = fingerprint_with("{}", "./t.jinja, date: 2026-11-21").await;
        assert_ne!(fingerprint_with("{}", "./t.jinja, date: 2026-11-22").await, dated);
    }

    #[tokio::test]
    async fn a_missing_template_is_named_whether_or_not_its_folder_exists() {
        let at = tempfile::tempdir().expect("a folder");
        for path in ["t.jinja", "nowhere/t.jinja"] {
            let yaml = format!(
                "model: {{base: .}}\ndata: {{train: [{{source: a}}], chat_template: ./{path}}}\n"
            );
            let spec = proto::spec::parse(&yaml, at.path()).expect("valid");
            let fault = template(&spec, &Progress::new()).await.expect_err("it is missing");
            let path = at.path().join(path);
            let expected = format!(
                "data.chat_template: there is no file {}\nhint: relative paths start at the spec's folder",
                path.display()
            );
            assert_eq!((fault.kind, fault.message), (Failure::User, expected));
        }
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
    fn only_splittable_objects_are_cut_and_never_too_finely() {
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
