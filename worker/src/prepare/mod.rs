//! Prepares a raw shard: reads it from its pinned object, tokenizes it, and stores it as a prepared shard.
//!
//! ```text
//! object storage --ranges--> PinnedObject --blocks--> data --samples--> Parts --parts--> object storage
//! ```
//!
//! The work runs on a blocking thread, block by block, so memory is bounded whatever the object's size.

mod parts;
mod pinned;

use crate::inputs::{access, base, options, parse, template, trouble};
use crate::session::Trouble;
use parts::Parts;
use pinned::{PinnedObject, blame};
use proto::error::chain;
use proto::prepared::Object;
use proto::protocol::{Cause, RawShard, ShardOutcome};
use proto::receipt::{Counts, Detected, Receipt};
use proto::spec::Spec;
use std::sync::Arc;
use storage::Storage;

/// Checks that this host can reach every source of a run, before it prepares the first of the shards.
///
/// # Errors
/// [`Cause::Data`] for a source that does not exist or that this host cannot read, [`Cause::Storage`] for one that
/// does not answer.
pub async fn check_sources(spec_yaml: &str) -> Result<(), Trouble> {
    access::check_sources(&parse(spec_yaml)?).await
}

/// Tokenizes a raw shard and stores the result, part by part.
///
/// # Errors
/// Every error names the shard. [`Cause::Data`] for an object that is gone, changed or unreadable, [`Cause::Model`]
/// for the tokenizer, [`Cause::Storage`] if the store fails.
pub async fn prepare(
    spec_yaml: &str,
    fingerprint: &str,
    shard: RawShard,
) -> Result<ShardOutcome, Trouble> {
    let index = shard.index;
    let prepared = tokenize(spec_yaml, fingerprint, shard).await;
    prepared.map_err(|trouble| trouble.on_shard(index))
}

async fn tokenize(
    spec_yaml: &str,
    fingerprint: &str,
    shard: RawShard,
) -> Result<ShardOutcome, Trouble> {
    let spec = parse(spec_yaml)?;
    let storage = access::open_output(&spec).await?;
    access::check_base(&spec).await?;
    let (base, template) = (base(&spec).await?, template(&spec).await?);
    let source = Arc::new(PinnedObject::find(&shard).await?);
    let writing = (storage, fingerprint.to_owned());
    let made = tokio::task::spawn_blocking(move || {
        let folder = data::Folder::read(&base);
        let folder = folder.map_err(|e| trouble(Cause::Model)(chain(&e)))?;
        let preparer = data::Preparer::new(&folder, options(&spec, template)?);
        let preparer = preparer.map_err(|e| trouble(Cause::Model)(chain(&e)))?;
        prepare_range(&spec, &preparer, &shard, source, writing)
    });
    made.await
        .map_err(|_| Trouble::new(Cause::Internal, "preparing data panicked; the log says where"))?
}

fn prepare_range(
    spec: &Spec,
    preparer: &data::Preparer,
    shard: &RawShard,
    bytes: Arc<PinnedObject>,
    (storage, fingerprint): (Storage, String),
) -> Result<ShardOutcome, Trouble> {
    let data_set = trouble(Cause::Data);
    let sources = spec.data().sources();
    let source = sources
        .get(shard.source as usize)
        .ok_or_else(|| data_set(format!("there is no source {}", shard.source)))?;
    let name = shard.url.strip_prefix("file://").unwrap_or(&shard.url);
    // The query of a web address is not part of the file's name.
    let name = if name.starts_with("http") { name.split('?').next().unwrap_or(name) } else { name };
    let unprepared = |e: data::PrepareError| unprepared(spec, &e);
    let mut preparation = preparer
        .open(name, bytes, shard.range.clone(), &data::SourceOptions::of(source))
        .map_err(unprepared)?;
    let object = Object { name: name.to_owned(), source: shard.source, unit: preparation.unit() };
    let mut parts = Parts::new(storage, fingerprint, shard.index, object);
    let mut counts = Counts::default();
    // Every range of an object detects the same format; only the first one counts it.
    if let Some(found) = preparation.detection().filter(|_| shard.range.start == 0) {
        counts.formats.add(detected(found, name));
    }
    for made in &mut preparation {
        let (records, of_block) = made.map_err(unprepared)?;
        counts.merge(of_block);
        records.into_iter().try_for_each(|record| parts.push(record))?;
    }
    Ok(ShardOutcome {
        receipt: Receipt::of(source.location.to_string(), counts),
        positions: preparation.positions(),
        parts: parts.finish()?,
    })
}

/// How one object is read, for the receipt.
fn detected(found: &data::Detection, object: &str) -> Detected {
    Detected {
        format: found.format.name().to_owned(),
        container: found.container.label().to_owned(),
        why: found.why.clone(),
        objects: 1,
        object: object.to_owned(),
        place: found.place,
    }
}

/// The failure to report if an object cannot be prepared at all. An error in the base names the base's folder.
fn unprepared(spec: &Spec, error: &data::PrepareError) -> Trouble {
    use data::PrepareError as E;
    match error {
        E::Read(data::ReadError::Source { source, .. }) => trouble(blame(source))(chain(error)),
        E::Read(data::ReadError::Unreadable { .. })
        | E::Detect(_)
        | E::BrokenEnd { .. }
        | E::LeftOut { .. }
        | E::TooLong { .. } => trouble(Cause::Data)(chain(error)),
        E::Tokenizer(_)
        | E::NoTemplate
        | E::NoDefaultTemplate(_)
        | E::Template(_)
        | E::AddTokens(_)
        | E::NoEndToken
        | E::MaxTokens(_) => {
            trouble(Cause::Model)(format!("{}: {}", spec.model().base, chain(error)))
        }
    }
}
