//! Enums and small groups of keys that are the same in a draft and in a resolved spec.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::dtype::ReduceDtype;
use crate::plan::schedule;

/// Whether the weights of the base model are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Training starts with the weights of the base model.
    #[default]
    Pretrained,
    /// Training starts from scratch: only the `config.json` and the tokenizer of the base model are read, and the
    /// parameters are drawn randomly from `train.seed`.
    Random,
}

/// A small set of new parameters, trained beside frozen weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// The only kind: low-rank adaptation.
    pub kind: AdapterKind,
    /// The rank of the update: rows of A, and columns of B.
    #[serde(default = "default_rank")]
    #[schemars(range(min = 1, max = 4096))]
    pub rank: u32,
    /// The adapter's update is scaled by `alpha / rank`.
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

/// The modules that get an adapter.
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

/// The format of a source's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The format is detected from the first records.
    #[default]
    Auto,
    /// Records of `instruction`, `input` and `output`.
    Alpaca,
    /// Records with `conversations`, whose messages have `from` and `value`.
    Sharegpt,
    /// Records with OpenAI's `messages`, which have `role` and `content`.
    Messages,
    /// Records of `prompt` and `completion`.
    Completion,
    /// OpenAssistant's trees of messages, or one record for each message of a tree. Each tree becomes one
    /// conversation, which follows the best-ranked reply after each message.
    Oasst,
    /// Records of plain `text`, every token of which is trained.
    Text,
}

impl Format {
    /// The format's name in a spec.
    pub fn name(self) -> &'static str {
        match self {
            Format::Auto => "auto",
            Format::Alpaca => "alpaca",
            Format::Sharegpt => "sharegpt",
            Format::Messages => "messages",
            Format::Completion => "completion",
            Format::Oasst => "oasst",
            Format::Text => "text",
        }
    }

    /// The fields that a source's `fields` may rename: those of a record, and those of the messages in its lists.
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
            Format::Oasst => &[BESIDE],
            Format::Text => &[&["text"]],
        };
        lists.concat()
    }

    /// Whether its records contain messages, whose speakers can be named in a source's `roles`.
    pub fn has_roles(self) -> bool {
        match self {
            Format::Auto
            | Format::Sharegpt
            | Format::Messages
            | Format::Completion
            | Format::Oasst => true,
            Format::Alpaca | Format::Text => false,
        }
    }
}

/// Names of the speakers in a source's conversations, in addition to those that the format defines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Roles {
    /// Names for the author of the system message, which gives instructions for the whole conversation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub system: Vec<String>,
    /// Names for the speaker who asks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user: Vec<String>,
    /// Names for the speaker who answers, and whose messages are trained.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assistant: Vec<String>,
    /// Names for messages with the result of a tool.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool: Vec<String>,
}

impl Roles {
    /// Every name, with the key that lists it.
    pub fn names(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let keys = [
            ("system", &self.system),
            ("user", &self.user),
            ("assistant", &self.assistant),
            ("tool", &self.tool),
        ];
        keys.into_iter().flat_map(|(key, names)| names.iter().map(move |name| (key, name)))
    }

    /// Whether no name is given.
    pub fn is_empty(&self) -> bool {
        self.names().next().is_none()
    }
}

/// What happens to a sample that is longer than `max_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// The sample is left out.
    #[default]
    Drop,
    /// The sample's end is cut off.
    Truncate,
    /// The run is refused.
    Fail,
}

/// What happens to a data file that ends in the middle of a record or an archive: it was cut off, or a quote is never
/// closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BrokenEnd {
    /// The run is refused, and the error names the position.
    #[default]
    Fail,
    /// Everything before the break is trained, the rest is lost.
    Keep,
}

/// What happens to records with images, videos or sounds, which a text model cannot see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// The records are lost, and count against `max_dropped`.
    #[default]
    Refuse,
    /// The records are left out and counted in the receipt.
    Drop,
    /// Only their text is trained, without the media that it refers to.
    Text,
}

/// Whether an empty thinking block is trained. Some chat templates write one into an answer without thinking, and
/// into the prompt when thinking is switched off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Think {
    /// The empty block is part of the prompt, as when the model answers with thinking switched off.
    #[default]
    Prompt,
    /// The empty block is trained: the model learns not to think.
    Train,
}

/// What happens to records when the chat template leaves out part of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LeftOut {
    /// What the template renders is trained, and the receipt says what is missing.
    #[default]
    Report,
    /// The record is left out and counted in the receipt.
    Drop,
    /// The run is refused.
    Fail,
}

/// What happens to conversations whose messages contain the text of a special token, such as `<|im_end|>`, which the
/// tokenizer converts to the special token itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ControlTokens {
    /// Messages are not searched for special tokens.
    Off,
    /// The conversations are trained unchanged, and the receipt lists them.
    #[default]
    Report,
    /// The record is left out and counted in the receipt.
    Filter,
    /// Within messages, the text is tokenized as ordinary text.
    Escape,
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

/// How many samples a conversation becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Turns {
    /// One sample: the whole conversation.
    #[default]
    Whole,
    /// One sample for every trained answer, which ends with that answer.
    Each,
}

/// When the model is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EvalEvery {
    /// After every checkpoint.
    Checkpoint,
    /// After every N steps, and after the last step.
    #[serde(untagged)]
    Steps(#[schemars(range(min = 1))] u64),
}

/// Hyperparameters of the training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Number of passes over the training data.
    #[schemars(range(min = 1, max = 1000))]
    pub epochs: u32,
    /// Stops training after this number of steps, even if `epochs` would take more.
    #[schemars(range(min = 1))]
    pub max_steps: Option<u64>,
    /// Packs per optimizer step, over all workers. It does not depend on the number of workers.
    #[schemars(range(min = 1, max = 65536))]
    pub global_batch: u32,
    /// Packs per forward and backward pass on one worker: `auto`, or a number. It changes speed and memory use, and
    /// the order in which numbers are summed. `auto` is 2048 / `data.max_tokens` packs, but at least 1, and fewer if
    /// they do not fit in memory.
    pub micro_batch: MicroBatch,
    /// The highest learning rate, at the end of the warmup.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
    pub learning_rate: f64,
    /// The learning rate schedule.
    pub schedule: Schedule,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The maximum global gradient norm. A larger gradient is scaled down to it.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub clip_norm: f64,
    /// Whether activations are recomputed in the backward pass instead of stored, which saves memory and costs time;
    /// the result is the same. `auto` recomputes only what is necessary to fit in memory.
    pub recompute: Recompute,
    /// The type in which gradients are summed between workers: `f32`, or `bf16`, which halves the bytes that they
    /// exchange and rounds each gradient to 8 significant bits. Use `bf16` if the network limits the speed of a run.
    /// Gradients are rounded even if there is only one worker.
    pub reduce_dtype: ReduceDtype,
    /// The seed of everything random: the order of the packs, and the values of new parameters.
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
            reduce_dtype: ReduceDtype::F32,
            seed: 42,
        }
    }
}

impl Train {
    /// The schedule, in the form that [`schedule::learning_rate`] takes.
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

/// Packs per forward and backward pass on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MicroBatch {
    /// 2048 / `data.max_tokens` packs, but at least 1: about 2048 tokens, which is enough for efficient matrix
    /// products. Fewer if they do not fit in memory.
    Auto,
    /// A fixed number of packs.
    #[serde(untagged)]
    Packs(#[schemars(range(min = 1, max = 65536))] u32),
}

/// The learning rate schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// How the learning rate falls after the warmup.
    pub kind: ScheduleKind,
    /// The length of the warmup, in which the learning rate rises to its maximum. A value below 1 is a share of all
    /// steps, otherwise it is a number of steps.
    #[schemars(range(min = 0.0))]
    pub warmup: f64,
    /// The learning rate at the end of the schedule.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_lr: f64,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule { kind: ScheduleKind::Cosine, warmup: 0.03, min_lr: 0.0 }
    }
}

/// How the learning rate falls after the warmup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Half a cosine.
    Cosine,
    /// A straight line.
    Linear,
    /// The learning rate stays at its maximum.
    Constant,
}

/// The optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// The only kind: AdamW.
    pub kind: OptimizerKind,
    /// Decay rates of the running averages of the gradient and of its square.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 2],
    /// A small number that is added to the denominator of the update, so that it is never 0.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
    pub eps: f64,
    /// Weight decay of tensors with two or more dimensions. Norms and biases are never decayed.
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

/// Whether activations are recomputed in the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Activations are stored.
    Off,
    /// As little as fits in memory: nothing, what is cheap, or everything.
    Auto,
    /// Only what is cheap to compute again: the outputs of norms and gate products. This saves a quarter of the memory
    /// of activations, for hardly any time.
    Light,
    /// Each layer saves only its input: a quarter more time, for a fraction of the memory.
    On,
}

/// How workers exchange gradients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ring {
    /// Whether gradients are encrypted between workers. States and control messages always are. NCCL cannot encrypt, so
    /// that a run on several GPUs is refused.
    pub encrypt: bool,
}

/// When checkpoints are written, and how many are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Steps between two checkpoints. There is always one after the last step.
    #[schemars(range(min = 1))]
    pub every: u64,
    /// The number of newest checkpoints that are kept. The best one is kept as well.
    #[schemars(range(min = 1))]
    pub keep: u32,
    /// How long the storage may be unavailable before the run fails, such as `30m`, `90s` or `2h`. Until then,
    /// training continues and skips the checkpoints that are due.
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
