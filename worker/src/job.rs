//! What a run needs in memory on every worker: its spec, the plan, the prepared samples, the base.
//!
//! Loading is async and done before the worker becomes a member; the training thread then only reads. Whatever is wrong
//! with data or base is found here, before anybody waits in a collective.

use crate::checkpoint::{self, PartFile, Snapshot};
use crate::data;
use proto::error::chain;
use crate::model::{Config, Dtype, Model};
use crate::ops::optimizer::AdamW;
use crate::ops::{Documents, Target};
use crate::session::Trouble;
use crate::train::{Batch, MicroBatch, Recipe, Trainer};
use bytes::Bytes;
use proto::key;
use proto::manifest::{self, Checkpoint};
use proto::plan::{Chunk, Consumed, Pack, Step, Summary, schedule, share};
use proto::prepared::{Sample, Shard};
use proto::protocol::{Cause, Load, RawShard, Train};
use proto::receipt::Receipt;
use proto::spec::{self, EvalEvery, EvalOn, Init, MicroBatch as MicroBatchSize, Recompute, SaveDtype, Spec};
use proto::storage::Storage;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Tokens in a micro-batch where the spec leaves it to us: enough for the matrix products to be efficient.
const MICRO_BATCH_TOKENS: u32 = 2048;
/// What attention costs per pair of tokens, and everything else per token, for sharing packs evenly.
const COST_PER_TOKEN: u64 = 4096;
const COST_PER_PAIR: u64 = 1;

/// A run, ready to be trained.
pub struct Job {
    spec: Spec,
    load: Load,
    storage: Storage,
    plan: Plan,
    samples: Samples,
    base: PathBuf,
    /// Read once while loading, to find what is wrong with it early; the first training takes it.
    model: Mutex<Option<Model>>,
    save_dtype: Dtype,
    companions: Vec<(String, Vec<u8>)>,
}

struct Plan {
    summary: Summary,
    chunks: Vec<Chunk>,
    /// Held-out packs by source.
    held_out: Vec<Step>,
}

/// Prepared shards; sample ids count through them in order.
struct Samples {
    shards: Vec<Shard>,
    /// The id of each shard's first sample.
    starts: Vec<u32>,
}

fn trouble(cause: Cause) -> impl Fn(String) -> Trouble {
    move |message| Trouble { cause, message }
}

fn storage_trouble(error: proto::storage::Error) -> Trouble {
    Trouble { cause: Cause::Storage, message: chain(&error) }
}

impl Job {
    /// Brings everything into memory.
    ///
    /// # Errors
    /// [`Cause::Model`] for the base, [`Cause::Data`] for what was prepared, [`Cause::Storage`].
    pub async fn load(load: Load) -> Result<Self, Trouble> {
        let spec = parse(&load.spec_yaml)?;
        let output = spec.output().to_string();
        let storage = Storage::open_existing(&output).map_err(storage_trouble)?;
        let plan = Plan::fetch(&storage, &load).await?;
        let samples = Samples::fetch(&storage, &load.fingerprint).await?;
        let base = base(&spec)?;
        let read = tokio::task::spawn_blocking({
            let (base, spec) = (base.clone(), spec.clone());
            move || Ok::<_, Trouble>((read_model(&base, &spec)?, companions(&base)?))
        });
        let (model, companions) = read.await.map_err(|_| Trouble {
            cause: Cause::Internal,
            message: "reading the base model panicked; the log says where".into(),
        })??;
        let save_dtype = match spec.model().save_dtype {
            None => model.dtype(),
            Some(SaveDtype::F32) => Dtype::F32,
            Some(SaveDtype::F16) => Dtype::F16,
            Some(SaveDtype::Bf16) => Dtype::Bf16,
        };
        Ok(Self {
            companions: with_dtype(companions, save_dtype),
            model: Mutex::new(Some(model)),
            spec,
            load,
            storage,
            plan,
            samples,
            base,
            save_dtype,
        })
    }

    /// The state files of the checkpoint that `train` begins with, every byte verified; none for the base.
    ///
    /// # Errors
    /// [`Cause::Storage`] where the checkpoint is not what its manifest says.
    pub async fn fetch_checkpoint(&self, train: &Train) -> Result<Option<Restorable>, Trouble> {
        let Some(key) = &train.checkpoint else { return Ok(None) };
        let bytes = self.storage.read(key).await.map_err(storage_trouble)?;
        let damaged = |what: String| trouble(Cause::Storage)(format!("`{key}`: {what}"));
        let checkpoint: Checkpoint =
            serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if checkpoint.plan_digest != self.load.plan_digest {
            return Err(damaged("it belongs to another plan".into()));
        }
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut files = Vec::new();
        for file in checkpoint.state {
            let body = self.storage.read(&format!("{folder}/{}", file.key)).await;
            let body = body.map_err(storage_trouble)?;
            if body.len() as u64 != file.bytes || manifest::sha256(&body) != file.sha256 {
                return Err(damaged(format!("`{}` is not what was written", file.key)));
            }
            files.push((file.key, body));
        }
        Ok(Some(Restorable { step: checkpoint.step, files }))
    }

    /// A training at its beginning, or where `from` left it, and the steps committed there.
    ///
    /// # Errors
    /// [`Cause::Model`] if the base is no longer what it was, [`Cause::Storage`] if the checkpoint is of another model.
    pub fn start(&self, from: Option<&Restorable>) -> Result<(Trainer, u64), Trouble> {
        let ready = self.model.lock().expect("held only to take").take();
        let model = match ready {
            Some(model) => model,
            None => read_model(&self.base, &self.spec)?,
        };
        let mut trainer = Trainer::new(model, self.recipe());
        let Some(from) = from else { return Ok((trainer, 0)) };
        let files = from.files.iter().map(|(key, body)| (key.as_str(), body.as_ref()));
        checkpoint::restore(&mut trainer, files)
            .map_err(|e| trouble(Cause::Storage)(chain(&e)))?;
        Ok((trainer, from.step))
    }

    fn recipe(&self) -> Recipe {
        let train = self.spec.train();
        let [beta1, beta2] = train.optimizer.betas;
        Recipe {
            adamw: AdamW { beta1, beta2, eps: train.optimizer.eps },
            weight_decay: train.optimizer.weight_decay,
            clip_norm: train.clip_norm,
            recompute: train.recompute == Recompute::On,
        }
    }

    /// The run's output.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Steps planned.
    pub fn steps(&self) -> u64 {
        self.plan.summary.steps
    }

    /// The dtype of the model files.
    pub fn save_dtype(&self) -> Dtype {
        self.save_dtype
    }

    /// Of step `step`, from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        schedule::learning_rate(step, self.steps(), &self.spec.train().schedule())
    }

    /// Whether a checkpoint belongs after `step` steps.
    pub fn checkpoint_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.spec.checkpoint().every)
    }

    /// Whether the held-out loss is measured after `step` steps.
    pub fn evaluation_due(&self, step: u64, at_checkpoint: bool) -> bool {
        let due = match self.spec.data().eval.every {
            EvalEvery::Checkpoint => at_checkpoint,
            EvalEvery::Steps(every) => step.is_multiple_of(every) || step == self.steps(),
        };
        due && !matches!(self.spec.data().eval.on, EvalOn::Nothing)
    }

    /// A rank's share of step `step`: a function of the plan alone.
    ///
    /// # Errors
    /// [`Cause::Internal`] for a step or a sample that the plan does not have.
    pub fn batch(&self, step: u64, rank: usize, world: usize) -> Result<Batch, Trouble> {
        let lacks = || trouble(Cause::Internal)(format!("the plan has no step {step}"));
        let chunk = self.plan.chunks.iter().rfind(|c| c.first_step <= step).ok_or_else(lacks)?;
        let at = usize::try_from(step - chunk.first_step).map_err(|_| lacks())?;
        let planned = chunk.steps.get(at).ok_or_else(lacks)?;
        let mut consumed = Consumed::default();
        let mut micro_batches = Vec::new();
        for packs in self.share(&planned.packs, rank, world) {
            for pack in &packs {
                consumed.add_all(chunk.epoch, &pack.samples);
            }
            micro_batches.push(self.samples.micro_batch(packs.into_iter())?);
        }
        Ok(Batch {
            step,
            weight: micro_batches.iter().map(MicroBatch::weight).sum(),
            micro_batches,
            planned_weight: planned.weight,
            samples: consumed.samples,
            samples_digest: consumed.digest,
        })
    }

    /// A rank's share of the held-out packs, by source.
    ///
    /// # Errors
    /// [`Cause::Internal`] for a sample that the shards do not have.
    pub fn held_out(&self, rank: usize, world: usize) -> Result<Vec<(u32, MicroBatch)>, Trouble> {
        let mut micro_batches = Vec::new();
        for (source, planned) in (0..).zip(&self.plan.held_out) {
            for packs in self.share(&planned.packs, rank, world) {
                micro_batches.push((source, self.samples.micro_batch(packs.into_iter())?));
            }
        }
        Ok(micro_batches)
    }

    /// A rank's packs, in micro-batches.
    fn share<'a>(&self, packs: &'a [Pack], rank: usize, world: usize) -> Vec<Vec<&'a Pack>> {
        let costs: Vec<_> = packs.iter().map(|p| p.cost(COST_PER_TOKEN, COST_PER_PAIR)).collect();
        let mine = share(&costs, world).swap_remove(rank);
        let size = match self.spec.train().micro_batch {
            MicroBatchSize::Packs(packs) => packs,
            MicroBatchSize::Auto => (MICRO_BATCH_TOKENS / self.spec.data().max_tokens).max(1),
        };
        mine.chunks(size as usize).map(|m| m.iter().map(|i| &packs[*i]).collect()).collect()
    }

    /// The snapshot with the files that make a model folder of it, which rank 0 adds.
    pub fn with_companions(&self, mut snapshot: Snapshot, rank: usize) -> Snapshot {
        if rank == 0 {
            let part = |(name, body): &(String, Vec<u8>)| PartFile {
                key: format!("{}/{name}", Checkpoint::MODEL),
                body: body.clone(),
                tensors: Vec::new(),
            };
            snapshot.files.extend(self.companions.iter().map(part));
        }
        snapshot
    }
}

/// A checkpoint's state, as read.
pub struct Restorable {
    /// Steps committed.
    pub step: u64,
    files: Vec<(String, Bytes)>,
}

impl Plan {
    async fn fetch(storage: &Storage, load: &Load) -> Result<Self, Trouble> {
        let damaged = |what: String| trouble(Cause::Data)(format!("the stored plan: {what}"));
        let read = |key: String| async move { storage.read(&key).await.map_err(storage_trouble) };
        let bytes = read(key::plan_outline(&load.run)).await?;
        if manifest::sha256(&bytes) != load.plan_digest {
            return Err(damaged("it is not the coordinator's".into()));
        }
        let outline: manifest::Plan =
            serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let mut chunks = Vec::new();
        for (name, sha256) in outline.chunks.iter().chain(&outline.held_out) {
            let body = read(format!("{}/{name}", key::plan(&load.run))).await?;
            if manifest::sha256(&body) != *sha256 {
                return Err(damaged(format!("`{name}` is not what was written")));
            }
            chunks.push(Chunk::decode(&body).map_err(|e| damaged(chain(&e)))?);
        }
        let held_out = outline.held_out.and_then(|_| chunks.pop()).map_or(Vec::new(), |c| c.steps);
        Ok(Self { summary: outline.summary, chunks, held_out })
    }
}

impl Samples {
    async fn fetch(storage: &Storage, fingerprint: &str) -> Result<Self, Trouble> {
        let damaged = |what: String| trouble(Cause::Data)(format!("the prepared data set: {what}"));
        let bytes = storage.read(&key::prepared_manifest(fingerprint)).await;
        let prepared: manifest::Prepared =
            serde_json::from_slice(&bytes.map_err(storage_trouble)?)
                .map_err(|e| damaged(e.to_string()))?;
        let mut samples = Self { shards: Vec::new(), starts: Vec::new() };
        let mut start = 0u32;
        for (index, count) in (0..).zip(&prepared.samples) {
            let key = key::prepared_shard(fingerprint, index);
            let body = storage.read(&key).await.map_err(storage_trouble)?;
            let shard = Shard::parse(body).map_err(|e| damaged(format!("`{key}`: {}", chain(&e))))?;
            if shard.fingerprint() != fingerprint || shard.len() as u64 != *count {
                return Err(damaged(format!("`{key}` belongs to another")));
            }
            samples.starts.push(start);
            start += u32::try_from(shard.len()).map_err(|_| damaged("too many samples".into()))?;
            samples.shards.push(shard);
        }
        Ok(samples)
    }

    fn sample(&self, id: u32) -> Option<Sample> {
        let shard = self.starts.partition_point(|start| *start <= id).checked_sub(1)?;
        self.shards[shard].sample((id - self.starts[shard]) as usize)
    }

    fn micro_batch<'a>(
        &self,
        packs: impl Iterator<Item = &'a Pack>,
    ) -> Result<MicroBatch, Trouble> {
        let mut samples = Vec::new();
        for id in packs.flat_map(|p| &p.samples) {
            let lacks = || trouble(Cause::Internal)(format!("there is no sample {id}"));
            samples.push(self.sample(*id).ok_or_else(lacks)?);
        }
        let batch = data::assemble(&samples);
        let target = |t: &data::Target| Target { row: t.row, token: t.token, weight: t.weight };
        Ok(MicroBatch {
            documents: Documents::of_lengths(samples.iter().map(|s| s.tokens.len())),
            targets: batch.targets.iter().map(target).collect(),
            tokens: batch.tokens,
        })
    }
}

/// Tokenizes a raw shard and stores what comes of it.
///
/// # Errors
/// [`Cause::Data`] for an object that is gone, changed or unreadable, [`Cause::Model`] for the tokenizer.
pub async fn prepare(
    spec_yaml: &str,
    fingerprint: &str,
    shard: RawShard,
) -> Result<(Receipt, u64), Trouble> {
    let spec = parse(spec_yaml)?;
    let storage = Storage::open_existing(&spec.output().to_string()).map_err(storage_trouble)?;
    let bytes = read_source(&shard).await?;
    let (key, fingerprint) =
        (key::prepared_shard(fingerprint, shard.index), fingerprint.to_owned());
    let made = tokio::task::spawn_blocking(move || prepare_bytes(&spec, &fingerprint, &shard, &bytes));
    let (receipt, samples, body) = made.await.map_err(|_| Trouble {
        cause: Cause::Internal,
        message: "preparing data panicked; the log says where".into(),
    })??;
    storage.put(&key, body).await.map_err(storage_trouble)?;
    Ok((receipt, samples))
}

async fn read_source(shard: &RawShard) -> Result<Bytes, Trouble> {
    let data = trouble(Cause::Data);
    let (folder, name) = shard
        .url
        .rsplit_once('/')
        .ok_or_else(|| data(format!("`{}` names no object", shard.url)))?;
    let source = Storage::open_existing(folder).map_err(|e| data(chain(&e)))?;
    let found = source.head(name).await.map_err(|e| data(chain(&e)))?;
    let same = found.as_ref().is_some_and(|o| o.bytes == shard.bytes && o.etag == shard.etag);
    if !same {
        let what = if found.is_some() { "has changed" } else { "is gone" };
        return Err(data(format!(
            "`{}` {what} since the run began
hint: start the run again",
            shard.url
        )));
    }
    source.read(name).await.map_err(|e| data(chain(&e)))
}

fn prepare_bytes(
    spec: &Spec,
    fingerprint: &str,
    shard: &RawShard,
    bytes: &[u8],
) -> Result<(Receipt, u64, Vec<u8>), Trouble> {
    let (model, data_set) = (trouble(Cause::Model), trouble(Cause::Data));
    let folder = data::Folder::read(&base(spec)?).map_err(|e| model(chain(&e)))?;
    let preparer =
        data::Preparer::new(&folder, options(spec)?).map_err(|e| model(chain(&e)))?;
    let sources = spec.data().sources();
    let source = sources
        .get(shard.source as usize)
        .ok_or_else(|| data_set(format!("there is no source {}", shard.source)))?;
    let name = shard.url.strip_prefix("file://").unwrap_or(&shard.url);
    let prepared = preparer
        .prepare(name, bytes, &source_options(source)?)
        .map_err(|e| unprepared(spec, e))?;
    let mut writer = proto::prepared::Writer::new(fingerprint);
    writer.object(proto::prepared::Object {
        name: name.to_owned(),
        source: shard.source,
        unit: prepared.unit,
    });
    prepared.samples.iter().for_each(|s| writer.push(s));
    let receipt = Receipt::of(source.location.to_string(), prepared.counts);
    Ok((receipt, prepared.samples.len() as u64, writer.finish()))
}

/// Whose fault it is that nothing of an object can be prepared; what is the base's is told with its folder.
fn unprepared(spec: &Spec, error: data::PrepareError) -> Trouble {
    use data::PrepareError as E;
    match error {
        E::Container(_) | E::Detect(_) | E::TooLong { .. } => trouble(Cause::Data)(chain(&error)),
        E::Tokenizer(_)
        | E::NoTemplate
        | E::Template(_)
        | E::MissingToken { .. }
        | E::NoEndToken
        | E::MaxTokens(_) => {
            trouble(Cause::Model)(format!("{}: {}", spec.model().base, chain(&error)))
        }
    }
}

fn options(spec: &Spec) -> Result<data::Options, Trouble> {
    let d = spec.data();
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
        chat_template: match &d.chat_template {
            spec::ChatTemplate::Tokenizer => data::ChatTemplate::Tokenizer,
            spec::ChatTemplate::Chatml => data::ChatTemplate::Chatml,
            spec::ChatTemplate::Alpaca => data::ChatTemplate::Alpaca,
            spec::ChatTemplate::File(location) => {
                let path = local(location, "data.chat_template")?;
                let source = std::fs::read_to_string(&path).map_err(|e| {
                    trouble(Cause::Model)(format!("data.chat_template: {}: {e}", path.display()))
                })?;
                data::ChatTemplate::Jinja(source)
            }
        },
        template_kwargs: d.chat_template_kwargs.clone(),
        ..data::Options::default()
    })
}

fn source_options(source: &spec::Source) -> Result<data::SourceOptions, Trouble> {
    Ok(data::SourceOptions {
        format: match source.format {
            spec::Format::Auto => data::Format::Auto,
            spec::Format::Alpaca => data::Format::Alpaca,
            spec::Format::Messages => data::Format::Messages,
            spec::Format::Completion => data::Format::Completion,
            spec::Format::Text => data::Format::Text,
            spec::Format::Sharegpt => {
                return Err(trouble(Cause::Data)("`sharegpt` is not implemented yet".into()));
            }
        },
        fields: source.fields.clone(),
        system: source.system.clone(),
    })
}

fn parse(spec_yaml: &str) -> Result<Spec, Trouble> {
    Spec::from_resolved(spec_yaml).map_err(|e| Trouble { cause: Cause::Internal, message: chain(&e) })
}

fn base(spec: &Spec) -> Result<PathBuf, Trouble> {
    local(&spec.model().base, "model.base")
}

fn local(location: &spec::Location, field: &str) -> Result<PathBuf, Trouble> {
    let refuse = || trouble(Cause::Model)(format!("{field}: `{location}` is not a local path"));
    location.as_file().map(Path::to_owned).ok_or_else(refuse)
}

fn read_model(base: &Path, spec: &Spec) -> Result<Model, Trouble> {
    let model = match spec.model().init {
        Init::Pretrained => Model::load(base),
        Init::Random => Config::read(base).and_then(|c| Model::random(c, spec.train().seed)),
    };
    model.map_err(|e| trouble(Cause::Model)(chain(&e)))
}

/// The small files of the base's folder that belong to a model: everything but weights.
fn companions(base: &Path) -> Result<Vec<(String, Vec<u8>)>, Trouble> {
    const NAMES: [&str; 10] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
    ];
    let mut files = Vec::new();
    for name in NAMES {
        match std::fs::read(base.join(name)) {
            Ok(body) => files.push((name.to_owned(), body)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                let path = base.join(name);
                return Err(trouble(Cause::Model)(format!("{}: {e}", path.display())));
            }
        }
    }
    Ok(files)
}

/// The files with a `config.json` that names the dtype in which the model is saved.
fn with_dtype(mut files: Vec<(String, Vec<u8>)>, dtype: Dtype) -> Vec<(String, Vec<u8>)> {
    for (name, body) in &mut files {
        if name != "config.json" {
            continue;
        }
        let parsed: Option<serde_json::Map<_, _>> = serde_json::from_slice(body).ok();
        let Some(mut config) = parsed else { continue };
        let key = if config.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
        config.insert(key.into(), dtype.name().into());
        *body = serde_json::to_vec_pretty(&config).expect("JSON stays JSON");
    }
    files
}
