//! The words and small groups of a run spec that mean the same before and after it is resolved.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::plan::schedule;

/// Whether the base's weights are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Training goes on from the base's weights.
    #[default]
    Pretrained,
    /// Training starts from scratch: the base's folder has a `config.json` and a tokenizer, its
    /// weights are not read, and parameters are drawn from `train.seed`.
    Random,
}

/// The type of parameters and activations in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bits throughout.
    #[default]
    F32,
    /// bfloat16 with f32 masters; on an accelerator.
    Bf16,
}

/// The type of the weights in a written model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SaveDtype {
    /// 32 bits.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

/// A small set of new parameters, trained beside frozen weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// The only kind: low-rank adaptation.
    pub kind: AdapterKind,
    /// Rows of A, columns of B.
    #[serde(default = "default_rank")]
    #[schemars(range(min = 1, max = 4096))]
    pub rank: u32,
    /// The update is scaled by `alpha / rank`.
    #[serde(default = "default_alpha")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub alpha: f64,
    /// `all-linear`, or a list of module names such as `[q_proj, v_proj]`.
    #[serde(default)]
    pub targets: AdapterTargets,
}

/// Kinds of adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// Low-rank adaptation.
    Lora,
}

/// The modules that an adapter stands beside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterTargets {
    /// Every linear module of the decoder layers.
    #[default]
    AllLinear,
    /// The modules with these names.
    #[serde(untagged)]
    Named(Vec<String>),
}

/// How records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Detected from the first records.
    #[default]
    Auto,
    /// `instruction`, `input`, `output`.
    Alpaca,
    /// `conversations` of `from` and `value`.
    Sharegpt,
    /// OpenAI's `messages` of `role` and `content`.
    Messages,
    /// `prompt` and `completion`.
    Completion,
    /// Plain `text`, every token of it trained.
    Text,
}

impl Format {
    /// The names that a source's `fields` may rename: those of a record, and those of the messages
    /// in its lists.
    pub fn fields(self) -> Vec<&'static str> {
        const BESIDE: &[&str] = &["system", "tools", "chat_template_kwargs"];
        const MESSAGE: &[&str] =
            &["role", "content", "reasoning_content", "tool_calls", "train", "weight"];
        const SHAREGPT: &[&str] = &["from", "value", "train", "weight"];
        const ALPACA: &[&str] = &["instruction", "input", "output", "history"];
        const COMPLETION: &[&str] = &["prompt", "completion"];
        let lists: &[&[&str]] = match self {
            Format::Auto => &[
                ALPACA,
                COMPLETION,
                &["messages", "conversations", "text", "from", "value"],
                MESSAGE,
                BESIDE,
            ],
            Format::Alpaca => &[ALPACA, BESIDE],
            Format::Sharegpt => &[&["conversations"], SHAREGPT, BESIDE],
            Format::Messages => &[&["messages"], MESSAGE, BESIDE],
            Format::Completion => &[COMPLETION, MESSAGE, BESIDE],
            Format::Text => &[&["text"]],
        };
        lists.concat()
    }

    /// Whether its records hold messages, whose speakers a source's `roles` may name.
    pub fn has_roles(self) -> bool {
        match self {
            Format::Auto | Format::Sharegpt | Format::Messages | Format::Completion => true,
            Format::Alpaca | Format::Text => false,
        }
    }
}

/// What a source calls those who speak in its conversations, besides the format's own names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Roles {
    /// Who sets the scene.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub system: Vec<String>,
    /// Who asks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user: Vec<String>,
    /// Who answers: what is trained.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assistant: Vec<String>,
    /// What a tool gave back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool: Vec<String>,
}

impl Roles {
    /// Every name, with the key that it stands under.
    pub fn names(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let keys = [
            ("system", &self.system),
            ("user", &self.user),
            ("assistant", &self.assistant),
            ("tool", &self.tool),
        ];
        keys.into_iter().flat_map(|(key, names)| names.iter().map(move |name| (key, name)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names().next().is_none()
    }
}

/// What happens to a sample that is longer than `max_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// It is left out.
    #[default]
    Drop,
    /// Its end is cut off.
    Truncate,
    /// The run is refused.
    Fail,
}

/// Which messages of a conversation are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    /// Every answer of the assistant.
    #[default]
    Assistant,
    /// The assistant's last answer.
    Last,
    /// Every token.
    All,
}

/// How many samples a conversation makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Turns {
    /// One, rendered as a whole.
    #[default]
    Whole,
    /// One for every answer that is trained, ending with it.
    Each,
}

/// When the model is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EvalEvery {
    /// With every checkpoint.
    Checkpoint,
    /// Every so many steps.
    #[serde(untagged)]
    Steps(#[schemars(range(min = 1))] u64),
}

/// The training itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// How often the data is seen.
    #[schemars(range(min = 1, max = 1000))]
    pub epochs: u32,
    /// Stop after this many steps, where the epochs would have more.
    #[schemars(range(min = 1))]
    pub max_steps: Option<u64>,
    /// Packs per optimizer step, whatever the world size.
    #[schemars(range(min = 1, max = 65536))]
    pub global_batch: u32,
    /// Packs per forward and backward on one worker: `auto`, or a number. Changes speed and memory,
    /// not the result.
    pub micro_batch: MicroBatch,
    /// The highest learning rate, at the end of the warmup.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
    pub learning_rate: f64,
    /// How the learning rate rises and falls.
    pub schedule: Schedule,
    /// What turns gradients into updates.
    pub optimizer: Optimizer,
    /// A gradient with a larger norm is scaled down to it.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub clip_norm: f64,
    /// Whether activations are computed again in the backward pass instead of kept: memory for
    /// time.
    pub recompute: Recompute,
    /// Of the packs' order, and of new parameters.
    pub seed: u64,
}

impl Default for Train {
    fn default() -> Train {
        Train {
            epochs: 3,
            max_steps: None,
            global_batch: 16,
            micro_batch: MicroBatch::Auto,
            learning_rate: 2.0e-5,
            schedule: Schedule::default(),
            optimizer: Optimizer::default(),
            clip_norm: 1.0,
            recompute: Recompute::Auto,
            seed: 42,
        }
    }
}

impl Train {
    /// The learning rate's course, for [`schedule::learning_rate`].
    pub fn schedule(&self) -> schedule::Schedule {
        let Schedule { kind, warmup, min_lr } = self.schedule;
        schedule::Schedule {
            peak: self.learning_rate,
            floor: min_lr,
            warmup: match warmup {
                share if share < 1.0 => schedule::Warmup::Share(share),
                steps => schedule::Warmup::Steps(steps as u64),
            },
            decay: match kind {
                ScheduleKind::Cosine => schedule::Decay::Cosine,
                ScheduleKind::Linear => schedule::Decay::Linear,
                ScheduleKind::Constant => schedule::Decay::Constant,
            },
        }
    }
}

/// Packs per forward and backward on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MicroBatch {
    /// As many as fit.
    Auto,
    /// So many.
    #[serde(untagged)]
    Packs(#[schemars(range(min = 1, max = 65536))] u32),
}

/// How the learning rate rises and falls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// The course after the warmup.
    pub kind: ScheduleKind,
    /// Below 1 a share of all steps, else a number of steps.
    #[schemars(range(min = 0.0))]
    pub warmup: f64,
    /// What the learning rate falls to.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_lr: f64,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule { kind: ScheduleKind::Cosine, warmup: 0.03, min_lr: 0.0 }
    }
}

/// The learning rate's course after the warmup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Half a cosine.
    Cosine,
    /// A straight line.
    Linear,
    /// It stays.
    Constant,
}

/// What turns gradients into updates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// The only kind: AdamW.
    pub kind: OptimizerKind,
    /// How slowly the means of the gradient and of its square forget.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 2],
    /// Keeps the division finite.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
    pub eps: f64,
    /// Of tensors with two or more dimensions; never of norms or biases.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub weight_decay: f64,
}

impl Default for Optimizer {
    fn default() -> Optimizer {
        Optimizer { kind: OptimizerKind::Adamw, betas: [0.9, 0.95], eps: 1.0e-8, weight_decay: 0.0 }
    }
}

/// Kinds of optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay, as PyTorch's `AdamW`.
    Adamw,
}

/// Whether activations are computed again in the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Never.
    Off,
    /// Where memory is short.
    Auto,
    /// Always.
    On,
}

/// When checkpoints are written, and how many stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Steps between two checkpoints; the last step always has one.
    #[schemars(range(min = 1))]
    pub every: u64,
    /// Checkpoints that stay, newest first; the best and the latest are kept besides.
    #[schemars(range(min = 1))]
    pub keep: u32,
    /// How long checkpoints may fail before the run does, such as `30m`: until then training goes on without them.
    #[serde(with = "super::duration")]
    #[schemars(with = "String")]
    pub storage_patience: Duration,
}

impl Default for Checkpoint {
    fn default() -> Checkpoint {
        Checkpoint { every: 50, keep: 3, storage_patience: Duration::from_secs(30 * 60) }
    }
}

fn default_rank() -> u32 {
    16
}

fn default_alpha() -> f64 {
    32.0
}
