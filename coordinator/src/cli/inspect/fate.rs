//! The fate of each sample in the plan. A filter, `max_steps` or a `repeat` below one may leave it out.

use crate::cli::preview::Preview;
use anyhow::Context;
use proto::key;
use proto::manifest;
use proto::plan::{Chunk, Step};
use serde::Serialize;

/// How the plan uses a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fate {
    /// The sample is in a step.
    Trained,
    /// The sample is held out, or of an evaluation source.
    Evaluated,
    /// The sample is not used: a check has filtered it, no step reaches it, or it is of a benchmark.
    LeftOut,
}

impl Fate {
    /// A label to show with the sample, unless it is trained.
    pub(super) fn label(self) -> Option<&'static str> {
        match self {
            Fate::Trained => None,
            Fate::Evaluated => Some("evaluated on, never trained"),
            Fate::LeftOut => Some("in no step of the run"),
        }
    }
}

/// The fate of every prepared sample.
pub(super) struct Fates(Vec<Fate>);

impl Fates {
    /// Reads the fates from the plan, for a prepared data set with this number of samples.
    pub(super) async fn read(preview: &Preview, samples: u64) -> anyhow::Result<Self> {
        let Preview { scratch, run, .. } = preview;
        let outline = scratch.read(&key::plan_outline(run)).await?;
        let outline: manifest::Plan = serde_json::from_slice(&outline)?;
        let mut fates = Self(vec![Fate::LeftOut; usize::try_from(samples)?]);
        for (name, _) in &outline.chunks {
            let chunk = chunk(preview, name).await?;
            let steps = (chunk.first_step..outline.summary.steps).zip(chunk.steps);
            fates.set(steps.map(|(_, step)| step), Fate::Trained);
        }
        if let Some((name, _)) = &outline.held_out {
            fates.set(chunk(preview, name).await?.steps, Fate::Evaluated);
        }
        Ok(fates)
    }

    fn set(&mut self, steps: impl IntoIterator<Item = Step>, fate: Fate) {
        for step in steps {
            for id in step.samples() {
                if let Some(known) = self.0.get_mut(id as usize) {
                    *known = fate;
                }
            }
        }
    }

    pub(super) fn of(&self, id: u64) -> Fate {
        let known = usize::try_from(id).ok().and_then(|id| self.0.get(id));
        known.copied().unwrap_or(Fate::LeftOut)
    }
}

async fn chunk(preview: &Preview, name: &str) -> anyhow::Result<Chunk> {
    let key = format!("{}/{name}", key::plan(&preview.run));
    let body = preview.scratch.read(&key).await?;
    Chunk::decode(&body).with_context(|| format!("`{key}`"))
}
