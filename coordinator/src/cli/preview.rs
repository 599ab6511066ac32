//! Prepares a run's data with a local worker and plans it, without running it. Only the prepared data set stays, and
//! the run can use it.

use super::embedded::{self, Embedded};
use super::mixture::{self, Mixed};
use super::typed::Typed;
use super::{Blame, Exit, Refusal, follow};
use crate::core::{Notice, Timing};
use crate::data::{sources, survey};
use crate::launch;
use crate::runtime::Runtime;
use crate::runtime::feed::Watch;
use crate::runtime::handle::{Handle, Stopped};
use anyhow::{Context, anyhow};
use indicatif::ProgressBar;
use proto::id::RunId;
use proto::plan::Summary;
use proto::print;
use proto::receipt::Receipt;
use proto::spec::Spec;
use serde::Deserialize;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;
use storage::Storage;
use tokio::sync::broadcast::error::RecvError;

/// A run that is planned but not started.
pub(super) struct Preview {
    pub(super) spec: Spec,
    /// The run's name in `scratch`.
    pub(super) run: RunId,
    /// An in-memory storage with the run's plan.
    pub(super) scratch: Storage,
    /// The spec's output.
    pub(super) storage: Storage,
    /// The fingerprint of the prepared data set in `storage`.
    pub(super) fingerprint: String,
    /// The account of every record.
    pub(super) receipt: Receipt,
    /// The plan's summary.
    pub(super) plan: Summary,
    /// The plan's use of each source, in the spec's order.
    pub(super) sources: Vec<Mixed>,
    /// Warnings about the plan.
    pub(super) warnings: Vec<String>,
}

/// Prepares and plans the spec at `path`.
pub(super) async fn preview(path: &Path) -> Result<Preview, Refusal> {
    let Typed { spec, .. } = Typed::read(path).await?;
    // The preview is of a run that is submitted today.
    let spec = spec.dated(Some(chrono::Local::now().date_naive()));
    let program = launch::program().blame(Exit::Infrastructure)?;
    let listener = embedded::listen(embedded::reserve(0)?)?;
    let storage = embedded::output(&spec).await?;
    let spec = sources::pin(spec).await?;
    survey::check(&spec, survey::Scope::Everywhere).await?;
    let scratch = Storage::memory();
    let (runtime, handle) = Runtime::preview(scratch.clone(), storage.clone(), Timing::default());
    let mut coordinator = Embedded::start(runtime, handle.clone(), listener)?;
    let (run, watch) = coordinator.work(begin(&handle, spec.clone())).await?;

    let mut progress = Progress::new(watch);
    let outcome = match coordinator.work(progress.next()).await {
        // One process with all cores is enough: it prepares the records of a shard in parallel.
        Ok(Milestone::Shards) => {
            let say = |line: &str| print::note(line);
            let node = follow::local(program, &coordinator, "cpu".into());
            follow::with_workers(&mut coordinator, node, say, progress.planned()).await
        }
        // The data was prepared before, so no worker is needed.
        Ok(Milestone::Planned(plan)) => Ok(plan),
        Err(refusal) => Err(refusal),
    };
    coordinator.close().await;
    coordinator.end();
    progress.bar.finish_and_clear();
    let Planned { fingerprint, receipt, plan, sources, warnings } = *outcome?;
    Ok(Preview { spec, run, scratch, storage, fingerprint, receipt, plan, sources, warnings })
}

async fn begin(handle: &Handle, spec: Spec) -> Result<(RunId, Watch), Refusal> {
    let run = handle.submit(spec, proto::id::unique(), None).await.blame(Exit::Infrastructure)?;
    let run = run.map_err(anyhow::Error::msg).blame(Exit::Infrastructure)?;
    let watch = handle.watch(run.clone(), 0).await.blame(Exit::Infrastructure)?;
    let watch = watch.map_err(anyhow::Error::msg).blame(Exit::Infrastructure)?;
    Ok((run, watch.context("the run is unknown").blame(Exit::Infrastructure)?))
}

struct Planned {
    fingerprint: String,
    receipt: Receipt,
    plan: Summary,
    sources: Vec<Mixed>,
    warnings: Vec<String>,
}

/// An event that the preview waits for.
enum Milestone {
    /// There are raw shards to prepare.
    Shards,
    /// The run is planned.
    Planned(Box<Planned>),
}

/// Follows the run's notices up to the plan.
struct Progress {
    watch: Watch,
    /// Number of notices handled so far.
    handled: usize,
    bar: ProgressBar,
    prepared: Option<(String, Receipt)>,
}

impl Progress {
    fn new(watch: Watch) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.enable_steady_tick(Duration::from_millis(200));
        bar.set_message("listing sources");
        Self { watch, handled: 0, bar, prepared: None }
    }

    async fn planned(&mut self) -> Result<Box<Planned>, Refusal> {
        loop {
            if let Milestone::Planned(planned) = self.next().await? {
                return Ok(planned);
            }
        }
    }

    async fn next(&mut self) -> Result<Milestone, Refusal> {
        loop {
            let notice = match self.watch.past.get(self.handled) {
                Some(notice) => notice.clone(),
                None => match self.watch.now.recv().await {
                    Ok(notice) => notice,
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return Err(Stopped).blame(Exit::Infrastructure),
                },
            };
            self.handled += 1;
            match &notice.notice {
                Notice::Preparing { done, shards } => {
                    self.bar.set_message(format!("preparing data: {done} of {shards} shards"));
                    return Ok(Milestone::Shards);
                }
                Notice::Prepared { fingerprint, receipt, .. } => {
                    self.bar.set_message("planning");
                    self.prepared = Some((fingerprint.clone(), receipt.clone()));
                }
                Notice::Planned { steps, summary } => {
                    return self.plan(*steps, summary.clone()).blame(Exit::Infrastructure);
                }
                other => {
                    if let Some(ended) = follow::end(other) {
                        ended?;
                        return Err(anyhow!("the run ended before it was planned"))
                            .blame(Exit::Infrastructure);
                    }
                }
            }
        }
    }

    fn plan(&mut self, steps: u64, mut summary: serde_json::Value) -> anyhow::Result<Milestone> {
        let prepared = self.prepared.take();
        let (fingerprint, receipt) =
            prepared.context("the run was planned before its data was prepared")?;
        summary["steps"] = steps.into();
        let sources = Vec::deserialize(&summary["sources"]).context("the plan's sources")?;
        let warnings = mixture::warnings(&summary);
        let plan = serde_json::from_value(summary).context("the plan's summary")?;
        let planned = Planned { fingerprint, receipt, plan, sources, warnings };
        Ok(Milestone::Planned(Box::new(planned)))
    }
}

#[cfg(test)]
impl Preview {
    /// Ten steps of one epoch, each of 16 packs of 100 tokens. The epoch sees half of its source.
    pub(super) fn example() -> Self {
        use proto::plan::{EpochSummary, SourceSummary};
        let spec = "name: n\nmodel: {base: /b}\ndata: {train: [{source: /d.jsonl}]}\n";
        let figures = SourceSummary { samples: 320, weight: 4_000.0, repeat: 0.5, share: 1.0 };
        Self {
            spec: proto::spec::parse(spec, Path::new("/")).expect("a spec"),
            run: RunId::new("r"),
            scratch: Storage::memory(),
            storage: Storage::memory(),
            fingerprint: String::new(),
            receipt: Receipt::default(),
            plan: Summary {
                samples: 330,
                held_out: 10,
                max_tokens: 100,
                steps: 10,
                steps_per_epoch: 10,
                packs_per_epoch: 160,
                epochs: vec![EpochSummary { samples: 320, tokens: 16_000, weight: 4_000.0 }],
                ..Summary::default()
            },
            sources: vec![Mixed { name: "/d.jsonl".into(), figures }],
            warnings: Vec::new(),
        }
    }
}
