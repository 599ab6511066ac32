//! From prepared samples to a stored plan: the data is checked and the receipt settled, then chunks are written as they
//! are made, then their outline. A plan's chunks are never in memory together: a run of many epochs has many times the
//! samples' own bytes of them.

use super::contents::{self, Checked, Contents};
use super::quality::{self, Verdict};
use super::{base, fault};
use crate::core::{Fault, PlanOutline};
use proto::event::Failure;
use proto::id::RunId;
use proto::key;
use proto::manifest::{self, Prepared};
use proto::plan::schedule::Warmup;
use proto::plan::{self, Chunk, Meta, Pack, Packs, Plan, Step};
use proto::receipt::{Reason, Receipt};
use proto::spec::{Amount, ControlTokens, EvalOn, LeftOut, Media, Source, Spec};
use std::sync::Arc;
use storage::Storage;
use tokio::runtime::Handle;

/// Where things are: the same storage, unless the run is only being looked at.
pub(crate) struct Places {
    /// The run's own folder.
    pub(crate) run: Storage,
    /// The prepared data sets.
    pub(crate) prepared: Storage,
}

/// Stores the prepared data set's table of contents, where this run made it, and plans the run.
///
/// # Errors
/// A fault of the data's if nothing is left to train on or more is lost than the spec allows.
pub(crate) async fn plan(
    places: &Places,
    run: &RunId,
    spec: &Arc<Spec>,
    fingerprint: &str,
    prepared: Option<Prepared>,
) -> Result<PlanOutline, Fault> {
    let storage = &places.prepared;
    let manifest_key = key::prepared_manifest(fingerprint);
    if let Some(prepared) = prepared {
        let body = serde_json::to_vec_pretty(&prepared).expect("counts are JSON");
        // Another run may have prepared the same: the contents are a function of the fingerprint.
        storage.put(&manifest_key, body).await.map_err(infrastructure)?;
    }
    let bytes = storage.read(&manifest_key).await.map_err(infrastructure)?;
    let prepared: Prepared = serde_json::from_slice(&bytes)
        .map_err(|e| damaged(fingerprint, &format!("`{manifest_key}`: {e}")))?;
    if let Some(message) = too_many_lost(spec, &prepared.receipt) {
        return Err(refused(&places.run, run, &prepared.receipt, message).await);
    }

    let contents = Contents::read(storage, fingerprint, &prepared, spec.data()).await;
    let contents = contents.map_err(|e| unreadable(fingerprint, e))?;
    let positions = base::positions(&spec.base()).await;
    let mut warnings: Vec<_> =
        positions.and_then(|seen| unseen_positions(&contents.metas, seen)).into_iter().collect();
    let made = tokio::task::spawn_blocking({
        let (spec, fingerprint) = (spec.clone(), fingerprint.to_owned());
        let chunks = Chunks { storage: places.run.clone(), folder: key::plan(run) };
        let mut receipt = prepared.receipt;
        move || {
            let sources = sources(&spec, &contents.by_source);
            let mut excluded = Vec::new();
            if let Some(checked) = &contents.checked {
                let verdict = judge(&spec, &contents.metas, checked, &sources);
                let verdict = verdict.map_err(|e| unreadable(&fingerprint, e))?;
                let names: Vec<_> =
                    spec.data().sources().iter().map(|s| s.location.to_string()).collect();
                let length = |id: u32| contents.metas[id as usize].length;
                verdict.settle(&mut receipt, &checked.records, &names, length);
                excluded = verdict.excluded;
            }
            let Contents { metas, by_source, checked: _ } = contents;
            let made = make(&spec, &Input { metas, by_source, sources, excluded }, chunks);
            Ok((made, receipt))
        }
    });
    let (made, receipt) = made.await.map_err(|_| Fault {
        kind: Failure::Infrastructure,
        message: "planning panicked; the log says where".into(),
    })??;
    let made = match made {
        Ok(made) => made,
        Err(Unmade::Plan(plan::Error::Nothing { .. })) => {
            let message = nothing_left(spec, &receipt);
            return Err(refused(&places.run, run, &receipt, message).await);
        }
        Err(Unmade::Plan(error)) => return Err(fault::of(Failure::Data, &error)),
        Err(Unmade::Stored(fault)) => return Err(fault),
    };
    warnings.extend(endless_warmup(spec, made.summary.steps));
    store(&places.run, run, spec, made, (receipt, warnings)).await.map_err(infrastructure)
}

/// A warning, if the learning rate only rises.
fn endless_warmup(spec: &Spec, steps: u64) -> Option<String> {
    // A share of a run of a few steps may well be all of them.
    let Warmup::Steps(warmup) = spec.train().schedule().warmup else { return None };
    (warmup >= steps).then(|| {
        format!(
            "the warmup takes {warmup} steps and the run has {steps}: the learning rate only rises; set a \
             smaller `train.schedule.warmup`, for example 0.03"
        )
    })
}

/// A warning, if samples are longer than what the base was trained on.
fn unseen_positions(metas: &[Meta], seen: u64) -> Option<String> {
    let longer = metas.iter().filter(|meta| u64::from(meta.length) > seen).count();
    let longest = metas.iter().map(|meta| meta.length).max()?;
    (longer > 0).then(|| {
        format!(
            "{longer} of {} samples are longer than the {seen} positions that the base was trained \
             on (`max_position_embeddings`), the longest has {longest} tokens; set `rope_scaling` in \
             the base's config.json, or a smaller `data.max_tokens`",
            metas.len()
        )
    })
}

fn infrastructure(error: storage::Error) -> Fault {
    fault::of(Failure::Infrastructure, &error)
}

fn damaged(fingerprint: &str, what: &str) -> Fault {
    let folder = key::prepared(fingerprint);
    let message = format!("{what}\nhint: delete the folder `{folder}`");
    Fault { kind: Failure::Data, message }
}

fn unreadable(fingerprint: &str, error: contents::Error) -> Fault {
    match error {
        contents::Error::Storage(e) => infrastructure(e),
        contents::Error::Damaged(what) => damaged(fingerprint, &what),
    }
}

/// What the plan needs to know of the sources to train on, each with so many samples.
fn sources(spec: &Spec, counts: &[u32]) -> Vec<plan::Source> {
    let data = spec.data();
    let share = match &data.eval.on {
        EvalOn::Holdout(share) => *share,
        EvalOn::Nothing | EvalOn::Sources(_) => 0.0,
    };
    let source = |(samples, source): (&u32, &Source)| plan::Source {
        samples: *samples,
        amount: source.amount,
        holdout: share,
    };
    counts.iter().zip(&data.train).map(source).collect()
}

/// Checks the data as the spec asks for. To be called on a thread that may block.
fn judge(
    spec: &Spec,
    metas: &[Meta],
    checked: &Checked,
    sources: &[plan::Source],
) -> Result<Verdict, contents::Error> {
    let trained: usize = sources.iter().map(|s| s.samples as usize).sum();
    let held_out = plan::held_out(&metas[..trained], sources);
    let Checked { records, signatures } = checked;
    let runtime = Handle::current();
    let read = |places| runtime.block_on(signatures.read(places));
    quality::check(records, sources.len() as u32, &held_out, &spec.data().quality, read)
}

/// All that a plan is made of, but for the spec.
struct Input {
    metas: Vec<Meta>,
    /// Samples by source.
    by_source: Vec<u32>,
    /// Those to train on.
    sources: Vec<plan::Source>,
    /// Samples that the checks left out.
    excluded: Vec<u32>,
}

/// A plan whose chunks are stored: each with its name and SHA-256.
struct Made {
    summary: plan::Summary,
    chunks: Vec<(String, String)>,
    held_out: Option<(String, String)>,
    held_out_by_source: Vec<u64>,
}

/// Why there is no plan.
enum Unmade {
    /// None can be made.
    Plan(plan::Error),
    /// It cannot be stored.
    Stored(Fault),
}

impl From<plan::Error> for Unmade {
    fn from(error: plan::Error) -> Self {
        Self::Plan(error)
    }
}

impl From<Fault> for Unmade {
    fn from(fault: Fault) -> Self {
        Self::Stored(fault)
    }
}

fn make(spec: &Spec, input: &Input, store: Chunks) -> Result<Made, Unmade> {
    let data = spec.data();
    let Input { metas, by_source, sources, excluded } = input;
    let trained: usize = sources.iter().map(|s| s.samples as usize).sum();
    let options = plan::Options {
        max_tokens: data.max_tokens,
        global_batch: spec.train().global_batch,
        epochs: spec.train().epochs,
        max_steps: spec.train().max_steps,
        seed: spec.train().seed,
    };
    let plan = Plan::without(excluded, &metas[..trained], sources, options)?;
    let mut chunks = Vec::new();
    for epoch in 0..plan.epochs() {
        for (number, chunk) in (0..).zip(plan.chunks(&plan.epoch(epoch))) {
            chunks.push(store.put(key::plan_chunk(epoch, number), &chunk)?);
        }
    }

    // Held-out packs, one step a source.
    let mut steps = Vec::new();
    match &data.eval.on {
        EvalOn::Nothing => {}
        EvalOn::Holdout(_) => {
            let mut start = 0;
            for source in sources {
                let range = start..start + source.samples;
                let mine = plan.held_out().iter().copied().filter(|id| range.contains(id));
                steps.push(step(metas, &plan.pack_all(mine.collect()), 0));
                start = range.end;
            }
        }
        EvalOn::Sources(evaluated) => {
            let mut start = trained;
            for samples in by_source[sources.len()..].iter().take(evaluated.len()) {
                let end = start + *samples as usize;
                let source =
                    plan::Source { samples: *samples, amount: Amount::Repeat(1.0), holdout: 0.0 };
                let only = [source];
                let of_source = Plan::new(&metas[start..end], &only, options)?;
                let packs = of_source.pack_all((0..*samples).collect());
                steps.push(step(metas, &packs, start.try_into().unwrap_or(u32::MAX)));
                start = end;
            }
        }
    }
    let held_out_by_source =
        steps.iter().map(|s: &Step| s.packs.iter().map(|p| p.samples.len() as u64).sum()).collect();
    let held_out = match steps.is_empty() {
        true => None,
        false => {
            let chunk = Chunk { epoch: 0, first_step: 0, steps };
            Some(store.put(key::HELD_OUT_PLAN.into(), &chunk)?)
        }
    };
    Ok(Made { summary: plan.summary(), chunks, held_out, held_out_by_source })
}

/// Packs as one step; their ids count from `first`.
fn step(metas: &[Meta], packs: &Packs, first: u32) -> Step {
    let meta = |id: &u32| metas[*id as usize];
    let pack = |ids: &[u32]| {
        let samples: Vec<u32> = ids.iter().map(|id| first + id).collect();
        let lengths = || samples.iter().map(|id| meta(id).length);
        let squares = lengths().map(|n| u64::from(n).pow(2)).sum();
        Pack { tokens: lengths().sum(), squares, samples: samples.clone() }
    };
    let packs: Vec<_> = packs.iter().map(pack).collect();
    let weights = packs.iter().flat_map(|p| &p.samples).map(|id| f64::from(meta(id).weight));
    Step { weight: weights.sum(), packs }
}

/// Where the chunks of a run's plan go.
struct Chunks {
    storage: Storage,
    folder: String,
}

impl Chunks {
    /// The chunk's name and SHA-256. To be called on a thread that may block.
    fn put(&self, name: String, chunk: &Chunk) -> Result<(String, String), Fault> {
        let body = chunk.encode();
        let sha256 = manifest::sha256(&body);
        let key = format!("{}/{name}", self.folder);
        Handle::current().block_on(self.storage.put(&key, body)).map_err(infrastructure)?;
        Ok((name, sha256))
    }
}

/// Stores the outline behind its chunks, and the receipt.
async fn store(
    storage: &Storage,
    run: &RunId,
    spec: &Spec,
    made: Made,
    (mut receipt, warnings): (Receipt, Vec<String>),
) -> Result<PlanOutline, storage::Error> {
    for (source, held_out) in held_out_sources(spec).iter().zip(&made.held_out_by_source) {
        if let Some(counts) = receipt.sources.get_mut(&source.location.to_string()) {
            counts.held_out += held_out;
        }
    }
    let steps = made.summary.steps;
    let mut summary = serde_json::to_value(&made.summary).expect("numbers are JSON");
    if let Some(summary) = summary.as_object_mut() {
        // Said beside it: an object that says it twice is not read back.
        summary.shift_remove("steps");
        let sources = summary.get_mut("sources").and_then(serde_json::Value::as_array_mut);
        for (figures, source) in sources.into_iter().flatten().zip(&spec.data().train) {
            figures["name"] = source.location.to_string().into();
        }
        if !warnings.is_empty() {
            summary.insert("warnings".into(), warnings.into());
        }
    }
    let Made { summary: planned, chunks, held_out, .. } = made;
    let outline = manifest::Plan { summary: planned, chunks, held_out };
    let body = serde_json::to_vec_pretty(&outline).expect("an outline is JSON");
    let digest = manifest::sha256(&body);
    storage.put(&key::plan_outline(run), body).await?;
    let body = serde_json::to_vec_pretty(&receipt).expect("counts are JSON");
    storage.put(&key::receipt(run), body).await?;
    Ok(PlanOutline { digest, steps, receipt, summary })
}

/// What the held-out packs are made of, in their order.
pub(crate) fn held_out_sources(spec: &Spec) -> &[Source] {
    match &spec.data().eval.on {
        EvalOn::Nothing => &[],
        EvalOn::Holdout(_) => &spec.data().train,
        EvalOn::Sources(sources) => sources,
    }
}

/// Refuses the run for what became of its records, and leaves the receipt where it would have been.
async fn refused(storage: &Storage, run: &RunId, receipt: &Receipt, message: String) -> Fault {
    let key = key::receipt(run);
    let body = serde_json::to_vec_pretty(receipt).expect("counts are JSON");
    let place = match storage.put(&key, body).await {
        // Of a preview nothing stays.
        Ok(()) if storage.is_memory() => String::new(),
        Ok(()) => {
            let url = storage.url();
            let place = url.strip_prefix("file://").unwrap_or(url);
            format!("\nhint: the receipt is {place}/{key}")
        }
        Err(error) => {
            let error = proto::error::chain(&error);
            tracing::warn!(%run, error, "the receipt is not stored");
            String::new()
        }
    };
    Fault { kind: Failure::Data, message: message + &place }
}

/// What to say, if more is lost than the spec allows.
fn too_many_lost(spec: &Spec, receipt: &Receipt) -> Option<String> {
    let data = spec.data();
    // Where the spec allows neither, they have failed the run, or count.
    let mut allowed = vec![Reason::BrokenEnd];
    allowed.extend((data.media == Media::Drop).then_some(Reason::Media));
    allowed.extend((data.left_out == LeftOut::Drop).then_some(Reason::LeftOut));
    let is_filtered = data.control_tokens == ControlTokens::Filter;
    allowed.extend(is_filtered.then_some(Reason::ControlTokens));
    let (lost, most) = (receipt.dropped_share(&allowed), data.max_dropped);
    if lost <= most {
        return None;
    }
    let total = receipt.total();
    let fitting = match receipt.fitting_max_tokens(most) {
        Some(tokens) => format!("write `max_tokens: {tokens}`, with which few enough are too long"),
        None => "mend these records".into(),
    };
    Some(format!(
        "{} of {} records are lost ({:.1} %), more than the {:.1} % that `data.max_dropped` allows\
         {}\n\
         hint: {fitting}, or raise `data.max_dropped`",
        total.dropped_records(),
        total.read,
        lost * 100.0,
        most * 100.0,
        receipt.losses(proto::receipt::EXAMPLES),
    ))
}

/// What to say where nothing can be trained.
fn nothing_left(spec: &Spec, receipt: &Receipt) -> String {
    let total = receipt.total();
    if total.read == 0 {
        let sources = spec.data().train.iter().map(|source| format!("`{}`", source.location));
        let sources = sources.collect::<Vec<_>>().join(", ");
        return format!(
            "no sample is left to train on: no record was found in {sources}\n\
             hint: look whether these are the files that you mean, and whether they are empty"
        );
    }
    format!(
        "no sample is left to train on: of {} records that were read, {} were dropped{}",
        total.read,
        total.dropped_records(),
        receipt.losses(1)
    )
}

#[cfg(test)]
mod tests;
