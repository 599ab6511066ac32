//! Muster's save and restore, as a worker does them.

use super::Took;
use super::plain::Objects;
use anyhow::{Result, anyhow, bail};
use muster_tests::lone::{self, PLAN};
use proto::id::{Generation, Lineage, RunId};
use proto::key;
use proto::manifest::sha256;
use proto::protocol::{Place, Start};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use storage::Storage;
use worker::agent::upload;
use worker::collective::{self, AbortHandle, Listener, Membership, Ring};
use worker::job::Restorable;
use worker::kernels;
use worker::model::{Config, Dtype, Model};
use worker::ops::{Documents, Recompute, Target};
use worker::replica::optimizer::AdamW;
use worker::replica::{
    BUCKET_ELEMENTS, Batch, MicroBatch, Recipe, Room, Saved, Snapshot, State, Trainer, restore,
    snapshot,
};

const SMOLLM2: &str = r#"{
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": LAYERS, "num_attention_heads": 9, "num_key_value_heads": 3,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000.0,
    "tie_word_embeddings": true, "hidden_act": "silu", "initializer_range": 0.04}"#;
const SAVED: Saved = Saved { dtype: Dtype::Bf16, file_bytes: 5_000_000_000 };
const STEP: u64 = 1;
const LINEAGE: Lineage = Lineage(1);

pub(super) struct Ours {
    /// Shared with the thread that restores.
    state: Arc<Mutex<State>>,
    elements: Vec<usize>,
    room: Room,
    storage: Storage,
}

impl Ours {
    pub(super) fn new(layers: usize, url: &str) -> Result<Self> {
        let config = SMOLLM2.replace("LAYERS", &layers.to_string());
        let config = Config::parse(Path::new("config.json"), &config)?;
        let recipe = Recipe {
            adamw: AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
            weight_decay: 0.0,
            clip_norm: 1.0,
            recompute: Recompute::Off,
            reduce_dtype: worker::device::Dtype::F32,
            bucket_elements: BUCKET_ELEMENTS,
        };
        let model = Model::random(config, 1, kernels::host());
        let elements = model.parameters().ids().map(|p| model.parameters().elements(p)).collect();
        let mut state = State::new(model);
        // Without a step, the pages of the moments would not be allocated.
        Trainer::new(&state, recipe).step(&mut state, &mut alone()?, &batch(), false)?;
        let (state, storage) = (Arc::new(Mutex::new(state)), Storage::open(url)?);
        Ok(Self { state, elements, room: Room::default(), storage })
    }

    /// The number of elements of every parameter.
    pub(super) fn elements(&self) -> &[usize] {
        &self.elements
    }

    /// The bytes of masters and moments, which a restore reads.
    pub(super) fn state_bytes(&self) -> usize {
        12 * self.elements.iter().sum::<usize>()
    }

    /// The objects that a save writes.
    pub(super) fn objects(&self) -> Objects {
        let files = self.snapshot().files.into_iter();
        files.map(|file| (file.key, file.body)).collect()
    }

    fn snapshot(&self) -> Snapshot {
        let room = self.room.reserve(&AbortHandle::new()).expect("no abort");
        let state = self.state.lock().expect("no panic");
        snapshot(&state, STEP, (0, 1), SAVED, room)
    }

    pub(super) async fn save(&self) -> Result<Took> {
        let start = Instant::now();
        let snapshot = self.snapshot();
        let pause = start.elapsed().as_secs_f64();
        let place = Place { run: run(), generation: Generation(1), lineage: LINEAGE };
        let stored = upload::store(&self.storage, &place, snapshot, Duration::from_secs(60)).await;
        let stored = stored.map_err(|error| anyhow!(error))?;
        let checkpoint = lone::manifest(&run(), LINEAGE, STEP, stored.files);
        self.storage.put(&manifest(), serde_json::to_vec(&checkpoint)?).await?;
        Ok(Took { pause, seconds: start.elapsed().as_secs_f64() })
    }

    /// Restores the state, and returns the seconds that it took.
    pub(super) async fn restore(&mut self) -> Result<f64> {
        let start = Instant::now();
        let manifest = manifest();
        let sha256 = sha256(&self.storage.read(&manifest).await?);
        let train = lone::duty(&run(), Start { manifest, sha256 });
        let opened = Restorable::open(&self.storage, &train, PLAN).await;
        let Some(mut from) = opened.map_err(|trouble| anyhow!(trouble.message))? else {
            bail!("there is no checkpoint to start from")
        };
        let state = self.state.clone();
        let restored = tokio::task::spawn_blocking(move || {
            let mine = std::iter::from_fn(|| from.mine.blocking_recv());
            let mine = mine.map(|f| f.map_err(|trouble| anyhow!(trouble.message)));
            let mut state = state.lock().expect("no panic");
            restore(&mut state, &mut alone()?, &from.state, mine)
        });
        restored.await??;
        Ok(start.elapsed().as_secs_f64())
    }

    pub(super) async fn clear(&self) -> Result<()> {
        for object in self.storage.list(&key::checkpoints(&run())).await? {
            self.storage.delete(&object.key).await?;
        }
        Ok(())
    }
}

fn manifest() -> String {
    key::manifest(&run(), LINEAGE, STEP)
}

fn run() -> RunId {
    RunId::new("bench-20261121-000000-0000")
}

fn alone() -> Result<Ring> {
    let listener = Listener::bind("127.0.0.1:0")?;
    let membership = Membership {
        run: run().to_string(),
        generation: 1,
        rank: 0,
        addresses: vec![listener.local_addr().to_string()],
        key: [0; 32],
        encrypt: false,
    };
    Ok(Ring::connect(&listener, &membership, &collective::Options::default(), AbortHandle::new())?)
}

fn batch() -> Batch {
    let target = |row| Target { row, token: row + 1, weight: 1.0 };
    let micro_batch = MicroBatch {
        tokens: (0..16).collect(),
        documents: Documents::of_lengths([16]),
        sources: vec![0],
        targets: (0..15).map(target).collect(),
    };
    let weight = micro_batch.weight();
    Batch {
        step: 0,
        weight,
        learning_rate: 1e-3,
        planned_weight: weight,
        samples: 1,
        samples_digest: 0,
        micro_batches: vec![micro_batch],
    }
}
