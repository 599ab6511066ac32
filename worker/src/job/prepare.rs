//! A raw shard's way into storage: read as pinned, tokenized, written as a prepared shard.
//!
//! ```text
//! object storage --ranges--> PinnedObject --blocks--> data --samples--> Parts --parts--> object storage
//! ```
//!
//! All of it runs on a blocking thread, block by block: memory is bounded whatever the object's size.

use super::parts::Parts;
use super::pinned::{PinnedObject, blame};
use super::{base, parse, storage_trouble, template, trouble};

use crate::session::Trouble;
use proto::error::chain;
use proto::prepared::Object;
use proto::protocol::{Cause, RawShard, ShardOutcome};
use proto::receipt::{Counts, Detected, Receipt};
use proto::spec::{self, Spec};
use proto::storage::Storage;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tokenizes a raw shard and stores what comes of it, part by part.
///
/// # Errors
/// [`Cause::Data`] for an object that is gone, changed or unreadable, [`Cause::Model`] for the tokenizer,
/// [`Cause::Storage`] for what cannot be read or written now.
pub async fn prepare(
    spec_yaml: &str,
    fingerprint: &str,
    shard: RawShard,
) -> Result<ShardOutcome, Trouble> {
    let spec = parse(spec_yaml)?;
    let storage = Storage::open_existing(&spec.output().to_string()).map_err(storage_trouble)?;
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
    made.await.map_err(|_| Trouble {
        cause: Cause::Internal,
        message: "preparing data panicked; the log says where".into(),
    })?
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
    // A web address's query says nothing of what the file is.
    let name = if name.starts_with("http") { name.split('?').next().unwrap_or(name) } else { name };
    let unprepared = |e: data::PrepareError| unprepared(spec, &e);
    let mut preparation = preparer
        .open(name, bytes, shard.range.clone(), &source_options(source))
        .map_err(unprepared)?;
    let object = Object { name: name.to_owned(), source: shard.source, unit: preparation.unit() };
    let mut parts = Parts::new(storage, fingerprint, shard.index, object);
    let mut counts = Counts::default();
    // Every range finds the same format: the first one says so for its object.
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

/// For the receipt: how one object is read.
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

/// Whose fault it is that nothing of an object can be prepared; what is the base's is told with its folder.
fn unprepared(spec: &Spec, error: &data::PrepareError) -> Trouble {
    use data::PrepareError as E;
    match error {
        E::Read(data::ReadError::Source { source, .. }) => trouble(blame(source))(chain(error)),
        E::Read(data::ReadError::Unreadable { .. }) | E::Detect(_) | E::TooLong { .. } => {
            trouble(Cause::Data)(chain(error))
        }
        E::Tokenizer(_)
        | E::NoTemplate
        | E::Template(_)
        | E::AddTokens(_)
        | E::NoEndToken
        | E::MaxTokens(_) => {
            trouble(Cause::Model)(format!("{}: {}", spec.model().base, chain(error)))
        }
    }
}

/// What the spec says of tokens; `template` is the text of the file that it names.
pub(super) fn options(spec: &Spec, template: Option<String>) -> Result<data::Options, Trouble> {
    let d = spec.data();
    let undated = || trouble(Cause::Internal)("the resolved spec has no `data.date`".into());
    Ok(data::Options {
        max_tokens: d.max_tokens as usize,
        too_long: match d.too_long {
            spec::TooLong::Drop => data::TooLong::Drop,
            spec::TooLong::Truncate => data::TooLong::Truncate,
            spec::TooLong::Fail => data::TooLong::Fail,
        },
        train_on: match d.train_on {
            spec::TrainOn::Assistant => data::TrainOn::Assistant,
            spec::TrainOn::Last => data::TrainOn::Last,
            spec::TrainOn::All => data::TrainOn::All,
        },
        turns: match d.turns {
            spec::Turns::Whole => data::Turns::Whole,
            spec::Turns::Each => data::Turns::Each,
        },
        chat_template: match &d.chat_template {
            spec::ChatTemplate::Tokenizer => data::ChatTemplate::Tokenizer,
            spec::ChatTemplate::Chatml => data::ChatTemplate::Chatml,
            spec::ChatTemplate::Alpaca => data::ChatTemplate::Alpaca,
            spec::ChatTemplate::File(_) => data::ChatTemplate::Jinja(template.unwrap_or_default()),
        },
        add_tokens: spec.model().add_tokens.clone(),
        template_kwargs: d.chat_template_kwargs.clone(),
        date: d.date.ok_or_else(undated)?,
    })
}

fn source_options(source: &spec::Source) -> data::SourceOptions {
    data::SourceOptions {
        format: match source.format {
            spec::Format::Auto => data::Format::Auto,
            spec::Format::Alpaca => data::Format::Alpaca,
            spec::Format::Messages => data::Format::Messages,
            spec::Format::Completion => data::Format::Completion,
            spec::Format::Text => data::Format::Text,
            spec::Format::Sharegpt => data::Format::Sharegpt,
        },
        fields: source.fields.clone(),
        roles: roles(&source.roles),
        system: source.system.clone(),
    }
}

/// Whose part each of a source's own names is.
fn roles(roles: &spec::Roles) -> BTreeMap<String, data::Role> {
    let spec::Roles { system, user, assistant, tool } = roles;
    let named = [
        (data::Role::System, system),
        (data::Role::User, user),
        (data::Role::Assistant, assistant),
        (data::Role::Tool, tool),
    ];
    let names = named.into_iter().flat_map(|(role, names)| names.iter().map(move |n| (n, role)));
    names.map(|(name, role)| (name.clone(), role)).collect()
}
