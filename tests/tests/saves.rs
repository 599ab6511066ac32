//! Saves and restores on a real S3 server behind a proxy that injects faults. A restore gives exactly the newest
//! commit or a clear error.
//!
//! For every seed, a run saves a few checkpoints, each on two ranks, with the code of workers and coordinators. A
//! coordinator whose journal entry fails starts again from the journal. Needs SeaweedFS (MUSTER_TEST_WEED).
//! MUSTER_SEEDS sets the number of seeds.

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use coordinator::checkpoints;
use coordinator::core::Retained;
use coordinator::runtime::journal::{self, Journal};
use futures::{StreamExt, TryStreamExt, stream};
use muster_tests::ignored::run_ignored;
use muster_tests::lone::{self, PLAN};
use muster_tests::proxy::{Fault, Faults, Proxy};
use muster_tests::seaweed::{BUCKET, SeaweedFs};
use proto::error::chain;
use proto::event::Fact;
use proto::id::{CheckpointId, Generation, Lineage, RunId, WorkerId};
use proto::key;
use proto::manifest::{Digests, File};
use proto::protocol::{Cause, Place, Start};
use proto::receipt::Receipt;
use std::path::Path;
use std::time::Duration;
use storage::{Patience, Storage};
use worker::agent::upload;
use worker::collective::{AbortHandle, InProcess};
use worker::job::Restorable;
use worker::kernels;
use worker::model::{Config, Dtype, Model};
use worker::ops::{Documents, Recompute, Target};
use worker::replica::optimizer::AdamW;
use worker::replica::{
    Batch, MicroBatch, PartFile, Recipe, RestoreError, Room, Saved, Snapshot, State, Trainer,
    restore, snapshot,
};

const SEEDS: u64 = 60;
/// Number of checkpoints per seed.
const SAVES: u64 = 3;
/// Number of ranks that save.
const WORLD: usize = 2;
/// Probability of each fault for a request.
const RATE: f64 = 0.01;
/// Probability of faults that apply to few requests.
const RARE: f64 = 0.05;
/// Seeds that run at the same time. Most of the time they wait for an answer that does not come.
const AT_ONCE: usize = 30;
/// Short, so that a silence ends soon.
const PATIENCE: Duration = Duration::from_secs(3);
/// Number of attempts to start a coordinator while the store fails.
const STARTS: usize = 20;
/// Number of restarts until the first generation must be journaled.
const RESTARTS: u64 = 20;

const CONFIG: &str = r#"{
    "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "initializer_range": 0.1, "tie_word_embeddings": true, "hidden_act": "silu"
}"#;

const RECIPE: Recipe = Recipe {
    adamw: AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8 },
    weight_decay: 0.1,
    clip_norm: 1.0,
    recompute: Recompute::Off,
    reduce_dtype: worker::device::Dtype::F32,
    bucket_elements: 512,
};

fn state() -> State {
    let config = Config::parse(Path::new("config.json"), CONFIG).expect("a configuration");
    State::new(Model::random(config, 7, kernels::host()))
}

fn alone() -> InProcess {
    InProcess::world(1, Duration::from_secs(60)).swap_remove(0)
}

/// Takes a step on a document that is unique to the seed and step.
fn train(state: &mut State, seed: u64, step: u64) -> Result<()> {
    let token = |i: u64| u32::try_from((seed + 3 * step + i * i) % 32).expect("small");
    let target = |row: u64| Target {
        row: u32::try_from(row).expect("few"),
        token: token(row + 1),
        weight: 1.0,
    };
    let micro_batch = MicroBatch {
        tokens: (0..6).map(token).collect(),
        documents: Documents::of_lengths([6]),
        sources: vec![0],
        targets: (0..5).map(target).collect(),
    };
    let weight = micro_batch.weight();
    let batch = Batch {
        step,
        weight,
        learning_rate: 1e-2,
        planned_weight: weight,
        samples: 1,
        samples_digest: 0,
        micro_batches: vec![micro_batch],
    };
    Trainer::new(state, RECIPE).step(state, &mut alone(), &batch, false)?;
    Ok(())
}

fn saved() -> Saved {
    // The limit is so small that the model has several files.
    Saved { dtype: Dtype::F32, file_bytes: 4000 }
}

fn part(state: &State, step: u64, rank: usize, world: usize) -> Snapshot {
    let room = Room::default().reserve(&AbortHandle::new()).expect("it is free");
    snapshot(state, step, (rank, world), saved(), room)
}

/// Parameters, moments and the count of updates, as bytes in a fixed order.
fn held(state: &State) -> Vec<Vec<u8>> {
    part(state, 0, 0, 1).files.into_iter().map(|f| f.body.to_vec()).collect()
}

#[test]
fn no_fault_loses_a_checkpoint_or_restores_a_wrong_one() -> Result<()> {
    let name = "no_fault_loses_a_checkpoint_or_restores_a_wrong_one";
    let Some(server) = SeaweedFs::start(name) else { return Ok(()) };
    let environment = Proxy::before(server.address());
    run_ignored("a_damaged_completion_is_retried", &environment)?;
    run_ignored("saves_and_restores_under_faults", &environment)
}

#[tokio::test]
#[ignore = "run by `no_fault_loses_a_checkpoint_or_restores_a_wrong_one` in the server's environment"]
async fn a_damaged_completion_is_retried() -> Result<()> {
    let proxy = Proxy::here();
    let storage = Storage::open(&format!("s3://{BUCKET}"))?;
    let mut snapshot = part(&state(), 1, 0, 1);
    // The body takes two parts.
    let body = Bytes::from(vec![7; 9 << 20]);
    let (key, tensors) = ("state/large".to_owned(), Vec::new());
    snapshot.files = vec![PartFile { key, body: body.clone(), tensors }];
    let place = Place { run: run(u64::MAX), generation: Generation(1), lineage: LINEAGE };
    // The request to join the parts arrives damaged, and the store refuses it finally.
    proxy.inject(Faults::none().first(Fault::FlipRequest, "POST", "large"));
    let stored_part = upload::store(&storage, &place, snapshot, PATIENCE)
        .await
        .map_err(|error| anyhow!(error))?;
    ensure!(stored_part.files[0].digests == Digests::of(&body));
    let stored = format!("{}/state/large", key::checkpoint(&place.run, LINEAGE, 1));
    ensure!(storage.read(&stored).await? == body);
    // Two uploads with two parts each, and the cleanup of the first one.
    let injected = proxy.injected();
    ensure!(injected.len() == 1 && proxy.requests() > 8, "{injected:?} of {}", proxy.requests());
    ensure!(storage.unfinished("").await? == Some(Vec::new()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `no_fault_loses_a_checkpoint_or_restores_a_wrong_one` in the server's environment"]
async fn saves_and_restores_under_faults() -> Result<()> {
    let proxy = Proxy::here();
    // A server that has just started may take long for the first object.
    let patient = Storage::open(&format!("s3://{BUCKET}"))?;
    let storage = patient.patient(Patience::Within(PATIENCE))?;
    let seeds = std::env::var("MUSTER_SEEDS").map_or(Ok(SEEDS), |n| n.parse())?;

    let receipt = serde_json::to_vec(&Receipt::default())?;
    for seed in 0..seeds {
        patient.put(&key::receipt(&run(seed)), receipt.clone()).await?;
    }
    let rare = [Fault::Conflict, Fault::LostWin, Fault::StaleListing];
    let faults = rare.into_iter().fold(Faults::all(1, RATE), |f, fault| f.with(fault, RARE));
    let silent = [Fault::Silence, Fault::SilenceAfter];
    let faults = silent.into_iter().fold(faults, |f, fault| f.with(fault, RATE / 3.0));
    proxy.inject(faults);
    let storage = &storage;
    let saved = stream::iter(0..seeds).map(|seed| async move {
        save_and_restore(storage, seed).await.with_context(|| format!("seed {seed}"))
    });
    let runs: Vec<Run> = saved.buffer_unordered(AT_ONCE).try_collect().await?;
    let injected = proxy.injected();
    let sum = |of: fn(&Run) -> u64| runs.iter().map(of).sum::<u64>();
    println!(
        "{seeds} seeds: {} requests, {} faults; {} of {} saves committed, {} coordinators \
         started again; {} of {seeds} restores under faults",
        proxy.requests(),
        injected.len(),
        sum(|r| r.states.len() as u64),
        seeds * SAVES,
        sum(|r| r.restarts),
        sum(|r| u64::from(r.restored)),
    );
    for fault in Fault::ALL {
        ensure!(injected.iter().any(|b| b.fault == fault), "{fault:?} was never injected");
    }
    ensure!(sum(|r| r.states.len() as u64) * 10 > seeds * SAVES * 8, "most faults are overcome");

    proxy.inject(Faults::none());
    for run in runs {
        run.holds_in_the_end(&patient).await.with_context(|| format!("seed {}", run.seed))?;
    }
    Ok(())
}

fn run(seed: u64) -> RunId {
    RunId::new(format!("seed-{seed}-20261121-000000-0000"))
}

const LINEAGE: Lineage = Lineage(1);

/// A run and its saves.
struct Run {
    seed: u64,
    /// Committed steps, and the state at each.
    states: Vec<(u64, Vec<Vec<u8>>)>,
    /// Saves that failed, possibly after they were stored.
    doubtful: Vec<(u64, Vec<Vec<u8>>)>,
    restarts: u64,
    restored: bool,
}

async fn save_and_restore(storage: &Storage, seed: u64) -> Result<Run> {
    let (id, mut state) = (run(seed), state());
    let mut run =
        Run { seed, states: Vec::new(), doubtful: Vec::new(), restarts: 0, restored: false };
    let mut journal = run.start(storage).await?.0;
    let members = ["w-0", "w-1"].map(WorkerId::new).into();
    let first = Fact::Generation { generation: Generation(1), lineage: LINEAGE, step: 0, members };
    while let Err(error) = journal.append(vec![first.clone()]).await {
        ensure!(run.restarts < RESTARTS, "the first generation cannot be journaled: {error}");
        let (restarted, history) = run.restart(storage, error).await?;
        journal = restarted;
        if history.contains(&first) {
            break;
        }
    }
    for step in 1..=SAVES {
        train(&mut state, seed, step)?;
        let held = held(&state);
        let sealed = match store(storage, &id, &state, step).await {
            Ok(files) => {
                let manifest = lone::manifest(&id, LINEAGE, step, files);
                checkpoints::seal(storage, &manifest, Vec::new())
                    .await
                    .map_err(|error| chain(&error))
            }
            Err(error) => Err(error),
        };
        let Ok(manifest_sha256) = sealed else {
            run.doubtful.push((step, held));
            continue;
        };
        let commit = Fact::Checkpointed { lineage: LINEAGE, step, manifest_sha256 };
        if let Err(error) = journal.append(vec![commit]).await {
            // The next coordinator finds the checkpoint, journaled or not.
            journal = run.restart(storage, error).await?.0;
        }
        run.states.push((step, held));
        let retained = Retained {
            kept: run.states.iter().rev().take(2).map(|(step, _)| checkpoint(*step)).collect(),
            latest: checkpoint(step),
            best: None,
        };
        // Checkpoints that could not be deleted are left until the next time.
        let _ = checkpoints::retain(storage, &id, &retained).await;
    }
    drop(journal);
    let (_, history) = run.start(storage).await?;
    match run.restore(storage, &history).await {
        Ok(()) => run.restored = true,
        Err(Unrestored::Store(_)) => {}
        Err(Unrestored::Wrong(error)) => return Err(error),
    }
    Ok(run)
}

fn checkpoint(step: u64) -> CheckpointId {
    CheckpointId { lineage: LINEAGE, step }
}

/// Stores both ranks' parts as workers do.
async fn store(
    storage: &Storage,
    run: &RunId,
    state: &State,
    step: u64,
) -> Result<Vec<File>, String> {
    let place = Place { run: run.clone(), generation: Generation(1), lineage: LINEAGE };
    let mut files = Vec::new();
    for rank in 0..WORLD {
        let part = part(state, step, rank, WORLD);
        files.extend(upload::store(storage, &place, part, PATIENCE).await?.files);
    }
    Ok(files)
}

/// Why nothing was restored.
enum Unrestored {
    /// The store failed, which says nothing about the checkpoint.
    Store(String),
    Wrong(anyhow::Error),
}

impl Run {
    /// Starts a coordinator: opens the journal and commits checkpoints that were stored but not journaled.
    async fn start(&self, storage: &Storage) -> Result<(Journal, Vec<Fact>)> {
        let mut last = None;
        for _ in 0..STARTS {
            match self.try_start(storage).await {
                Ok(started) => return Ok(started),
                Err(error @ journal::Error::Storage(_)) => last = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(anyhow!(last.expect("it was tried"))).context("the store never answers")
    }

    async fn try_start(&self, storage: &Storage) -> Result<(Journal, Vec<Fact>), journal::Error> {
        let id = run(self.seed);
        let (mut journal, mut history) = Journal::open::<Fact>(storage, key::journal(&id)).await?;
        let found = checkpoints::uncommitted(storage, &id, &history).await?;
        if !found.is_empty() {
            journal.append(found.clone()).await?;
            history.extend(found);
        }
        Ok((journal, history))
    }

    async fn restart(
        &mut self,
        storage: &Storage,
        error: journal::Error,
    ) -> Result<(Journal, Vec<Fact>)> {
        ensure!(
            !matches!(error, journal::Error::Deposed { .. }),
            "no other coordinator runs: {error}"
        );
        self.restarts += 1;
        self.start(storage).await
    }

    /// Checks that the newest commit of `history` is the newest acknowledged one or a later doubtful one, and that a
    /// worker restores exactly that state.
    async fn restore(&self, storage: &Storage, history: &[Fact]) -> Result<(), Unrestored> {
        let wrong = |what: String| Unrestored::Wrong(anyhow!(what));
        let newest = history.iter().rev().find_map(|event| match event {
            Fact::Checkpointed { step, manifest_sha256, .. } => Some((*step, manifest_sha256)),
            _ => None,
        });
        let acknowledged = self.states.last().map(|(step, _)| *step);
        let Some((step, sha256)) = newest else {
            return match acknowledged {
                None => Ok(()),
                Some(step) => Err(wrong(format!("the commit of step {step} is lost"))),
            };
        };
        if Some(step) < acknowledged {
            return Err(wrong(format!("{step} is newest, {acknowledged:?} was acknowledged")));
        }
        let mut known = self.states.iter().chain(&self.doubtful);
        let expected = known.find(|(s, _)| *s == step).map(|(_, state)| state);
        let expected = expected.ok_or_else(|| wrong(format!("step {step} was never saved")))?;
        let manifest = key::manifest(&run(self.seed), LINEAGE, step);
        let start = Start { manifest, sha256: sha256.clone() };
        let restored =
            restored(storage, self.seed, start).await.map_err(|trouble| match trouble.cause {
                Cause::Storage => Unrestored::Store(trouble.message),
                _ => wrong(trouble.message),
            })?;
        let restored = restored.map_err(Unrestored::Wrong)?;
        if restored == *expected {
            Ok(())
        } else {
            Err(wrong(format!("the restored state of step {step} differs")))
        }
    }

    async fn holds_in_the_end(&self, storage: &Storage) -> Result<()> {
        let (_, history) = self.try_start(storage).await?;
        match self.restore(storage, &history).await {
            Ok(()) => Ok(()),
            Err(Unrestored::Store(message)) => Err(anyhow!(message)),
            Err(Unrestored::Wrong(error)) => Err(error),
        }
    }
}

type Restored = Result<Vec<Vec<u8>>>;

/// The state of a lone worker that starts from this checkpoint.
async fn restored(
    storage: &Storage,
    seed: u64,
    start: Start,
) -> Result<Restored, worker::session::Trouble> {
    let train = lone::duty(&run(seed), start);
    let opened = Restorable::open(storage, &train, PLAN).await?;
    let mut from = opened.expect("a checkpoint to start from");
    let read = tokio::task::spawn_blocking(move || {
        let mut state = state();
        let mine = std::iter::from_fn(|| from.mine.blocking_recv());
        let mine = mine.map(|fetched| fetched.map_err(Failed::Trouble));
        let outcome = restore(&mut state, &mut alone(), &from.state, mine);
        outcome.map(|()| held(&state))
    });
    match read.await.expect("it does not panic") {
        Ok(state) => Ok(Ok(state)),
        Err(Failed::Trouble(trouble)) => Err(trouble),
        Err(Failed::Restore(error)) => Ok(Err(error.into())),
    }
}

enum Failed {
    Trouble(worker::session::Trouble),
    Restore(RestoreError),
}

impl From<RestoreError> for Failed {
    fn from(error: RestoreError) -> Self {
        Self::Restore(error)
    }
}
