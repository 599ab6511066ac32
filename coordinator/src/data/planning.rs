//! Turns prepared samples into a stored plan: checks the data, completes the receipt, stores each chunk of the plan as
//! soon as it is made, and then the outline. The chunks are never all in memory: over many epochs they would take many
//! times the memory of the samples' metas.

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

/// The storages that planning reads and writes. Both are the same, except for a preview.
pub(crate) struct Places {
    /// The run's own folder.
    pub(crate) run: Storage,
    /// The prepared data sets.
    pub(crate) prepared: Storage,
}

/// Stores the manifest of the prepared data set, if this run prepared it, and plans the run.
///
/// # Errors
/// A data fault if no sample is left to train on, or if more records are lost than the spec allows.
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
        // Another run may have stored it as well; equal fingerprints have equal manifests.
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
                let verdict = check_quality(&spec, &contents.metas, checked, &sources);
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
        Err(MakeError::Plan(plan::Error::Nothing { .. })) => {
            let message = nothing_left(spec, &receipt);
            return Err(refused(&places.run, run, &receipt, message).await);
        }
        Err(MakeError::Plan(error)) => return Err(fault::of(Failure::Data, &error)),
        Err(MakeError::Store(fault)) => return Err(fault),
    };
    warnings.extend(endless_warmup(spec, made.summary.steps));
    store(&places.run, run, spec, made, (receipt, warnings)).await.map_err(infrastructure)
}

/// A warning if the warmup is as long as the run.
fn endless_warmup(spec: &Spec, steps: u64) -> Option<String> {
    // A warmup given as a share may round up to all steps of a very short run.
    let Warmup::Steps(warmup) = spec.train().schedule().warmup else { return None };
    (warmup >= steps).then(|| {
        format!(
            "the warmup takes {warmup} steps and the run has {steps}: the learning rate only rises; set a \
             smaller `train.schedule.warmup`, for example 0.03"
        )
    })
}

/// A warning if samples are longer than the sequences that the base was trained on.
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

/// The sources to train on, as the plan needs them; `counts` is the number of samples of each source.
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

/// Runs the quality checks of the spec. Must be called on a thread that may block.
fn check_quality(
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

/// The input of a plan, besides the spec.
struct Input {
    metas: Vec<Meta>,
    /// Number of samples of each source.
    by_source: Vec<u32>,
    /// The sources to train on.
    sources: Vec<plan::Source>,
    /// Samples that the quality checks have excluded.
    excluded: Vec<u32>,
}

/// A plan whose chunks are stored. Each chunk is listed by name and SHA-256.
struct Made {
    summary: plan::Summary,
    chunks: Vec<(String, String)>,
    held_out: Option<(String, String)>,
    held_out_by_source: Vec<u64>,
}

/// Why a plan was not made.
enum MakeError {
    /// No plan is possible.
    Plan(plan::Error),
    /// A chunk cannot be stored.
    Store(Fault),
}

impl From<plan::Error> for MakeError {
    fn from(error: plan::Error) -> Self {
        Self::Plan(error)
    }
}

impl From<Fault> for MakeError {
    fn from(fault: Fault) -> Self {
        Self::Store(fault)
    }
}

fn make(spec: &Spec, input: &Input, store: Chunks) -> Result<Made, MakeError> {
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

    // Held-out packs, one step per source.
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

/// One step of the given packs, whose sample ids are relative to `first`.
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

/// The folder for the chunks of a run's plan.
struct Chunks {
    storage: Storage,
    folder: String,
}

impl Chunks {
    /// Stores a chunk, and returns its name and SHA-256. Must be called on a thread that may block.
    fn put(&self, name: String, chunk: &Chunk) -> Result<(String, String), Fault> {
        let body = chunk.encode();
        let sha256 = manifest::sha256(&body);
        let key = format!("{}/{name}", self.folder);
        Handle::current().block_on(self.storage.put(&key, body)).map_err(infrastructure)?;
        Ok((name, sha256))
    }
}

/// Stores the outline, after its chunks, and the receipt.
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
        // `PlanOutline` has its own `steps`; an object with the field twice could not be parsed.
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

/// The sources of the held-out packs, in the order of the packs.
pub(crate) fn held_out_sources(spec: &Spec) -> &[Source] {
    match &spec.data().eval.on {
        EvalOn::Nothing => &[],
        EvalOn::Holdout(_) => &spec.data().train,
        EvalOn::Sources(sources) => sources,
    }
}

/// The fault that refuses the run because of its records. The receipt is stored nevertheless.
async fn refused(storage: &Storage, run: &RunId, receipt: &Receipt, message: String) -> Fault {
    let key = key::receipt(run);
    let body = serde_json::to_vec_pretty(receipt).expect("counts are JSON");
    let place = match storage.put(&key, body).await {
        // A preview keeps nothing.
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

/// The message of the fault if more records are lost than the spec allows.
fn too_many_lost(spec: &Spec, receipt: &Receipt) -> Option<String> {
    let data = spec.data();
    // For the reasons that the spec does not allow, such a record has failed the run already, or counts here.
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
        None => "fix these records".into(),
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

/// The message of the fault if no sample is left.
fn nothing_left(spec: &Spec, receipt: &Receipt) -> String {
    let total = receipt.total();
    if total.read == 0 {
        let sources = spec.data().train.iter().map(|source| format!("`{}`", source.location));
        let sources = sources.collect::<Vec<_>>().join(", ");
        return format!(
            "no sample is left to train on: no record was found in {sources}\n\
             hint: check that these are the intended files and that they are not empty"
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
