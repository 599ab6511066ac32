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
    /// bfloat16 with f32 masters, on an accelerator.
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
    /// The rank of the update: rows of A, and columns of B.
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
    /// OpenAssistant's trees of messages, or one record for each message of a tree. Each tree gives one conversation,
    /// which follows the best-ranked reply after each message.
    Oasst,
    /// Records of plain `text`, every token of which is trained.
    Text,
}

impl Format {
    /// As a spec names it.
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
            Format::Oasst => &[BESIDE],
            Format::Text => &[&["text"]],
        };
        lists.concat()
    }

    /// Whether its records hold messages, whose speakers a source's `roles` may name.
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

/// Names of the speakers in a source's conversations, besides the format's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Roles {
    /// Names of the speaker who gives the instructions for the whole conversation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub system: Vec<String>,
    /// Names of the speaker who asks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user: Vec<String>,
    /// Names of the speaker who answers, and whose messages are trained.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assistant: Vec<String>,
    /// Names under which a tool's results stand.
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
    /// The sample is left out.
    #[default]
    Drop,
    /// The sample's end is cut off.
    Truncate,
    /// The run is refused.
    Fail,
}

/// What happens to a data file that ends before its records do: one that is cut off, an archive that
/// breaks off, a quote that never closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BrokenEnd {
    /// The run is refused, with the place.
    #[default]
    Fail,
    /// What comes before the place is trained; what follows is lost.
    Keep,
}

/// What happens to records with images, videos or sounds, which a text model does not see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// They are lost, and count against `max_dropped`.
    #[default]
    Refuse,
    /// They are left out, and counted.
    Drop,
    /// Their text is trained alone, and what it speaks of is never seen.
    Text,
}

/// What happens to the thinking block that a chat template writes, empty, into an answer without
/// thoughts, and into the prompt when thinking is switched off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Think {
    /// It is part of the prompt, as when the model answers.
    #[default]
    Prompt,
    /// It is trained: the model learns not to think.
    Train,
}

/// What happens to records of which the chat template leaves something out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LeftOut {
    /// What the template shows is trained, and the receipt says what is missing.
    #[default]
    Report,
    /// The record is left out, and counted.
    Drop,
    /// The run is refused.
    Fail,
}

/// What happens to conversations whose messages hold the text of a special token, such as
/// `<|im_end|>`: the tokenizer reads it as the token itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ControlTokens {
    /// Nothing is looked for.
    Off,
    /// They are trained as they are, and the receipt names them.
    #[default]
    Report,
    /// The record is left out, and counted.
    Filter,
    /// Within messages it stays text: it is cut into pieces as every other text.
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

/// How many samples a conversation makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Turns {
    /// One sample, rendered as a whole.
    #[default]
    Whole,
    /// One sample for every answer that is trained, ending with it.
    Each,
}

/// When the model is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EvalEvery {
    /// After every checkpoint.
    Checkpoint,
    /// Each time this number of further steps is taken, and after the last step.
    #[serde(untagged)]
    Steps(#[schemars(range(min = 1))] u64),
}

/// The training itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// How often every sample is seen.
    #[schemars(range(min = 1, max = 1000))]
    pub epochs: u32,
    /// Stop after this many steps, where the epochs would have more.
    #[schemars(range(min = 1))]
    pub max_steps: Option<u64>,
    /// Packs per optimizer step, whatever the world size.
    #[schemars(range(min = 1, max = 65536))]
    pub global_batch: u32,
    /// Packs per forward and backward pass on one worker: `auto`, or a number. It changes speed and
    /// memory, not the result. `auto` is 2048 / `data.max_tokens` packs and at least 1, whatever
    /// memory there is: lower it where a worker runs out of memory.
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
    /// Whether activations are computed again in the backward pass instead of kept, which saves
    /// memory and costs time. `auto` is `off` for now: choose `on` where a worker runs out of
    /// memory.
    pub recompute: Recompute,
    /// Seed of everything random: the order of the packs, and the values of new parameters.
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

/// Packs per forward and backward pass on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MicroBatch {
    /// 2048 / `data.max_tokens` packs, and at least 1: about 2048 tokens, enough for the matrix
    /// products to be efficient. It does not depend on the memory at hand.
    Auto,
    /// This number of packs.
    #[serde(untagged)]
    Packs(#[schemars(range(min = 1, max = 65536))] u32),
}

/// How the learning rate rises and falls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// The course after the warmup.
    pub kind: ScheduleKind,
    /// How long the learning rate rises: below 1 a share of all steps, else a number of steps.
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
    /// No fall: the learning rate stays at its highest.
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
    /// A small number that keeps the division by the gradient's size finite.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
    pub eps: f64,
    /// Weight decay of tensors of two or more dimensions; norms and biases never decay.
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
    /// Activations are kept.
    Off,
    /// As `off`, for now; it is to depend on the memory at hand.
    Auto,
    /// Activations are computed again.
    On,
}

/// When checkpoints are written, and how many stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Steps between two checkpoints; the last step always has one.
    #[schemars(range(min = 1))]
    pub every: u64,
    /// Number of checkpoints that are kept, counted from the newest; the best one is kept as well.
    #[schemars(range(min = 1))]
    pub keep: u32,
    /// How long the storage may fail before the run does, such as `30m`, `90s` or `2h`. Until then training goes on,
    /// and checkpoints that fall due meanwhile are left out.
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
