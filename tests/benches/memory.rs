//! Predicted and measured memory of a rank, for models of several shapes, with and without recomputation, and with a
//! checkpoint that is being stored.
//!
//! ```text
//! cargo bench -p muster-tests --bench memory -- [--tokens N] [--shape NAME] [--bf16]
//! ```
//!
//! Each line is measured in a process of its own.

use anyhow::{Context, bail, ensure};
use muster_tests::memory::{Case, SETTINGS};
use proto::cost::bytes;
use std::process::Command;
use worker::device::Dtype;
use worker::ops::Recompute;
use worker::supervise::KEEP_MEMORY;

/// The same allocator as the worker's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SHAPES: [(&str, &str); 3] = [
    (
        "SmolLM2-135M",
        r#"{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
            "tie_word_embeddings": true}"#,
    ),
    (
        "SmolLM2-360M",
        r#"{"model_type": "llama", "vocab_size": 49152, "hidden_size": 960, "intermediate_size": 2560,
            "num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5,
            "tie_word_embeddings": true}"#,
    ),
    (
        "Qwen2.5-0.5B",
        r#"{"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
            "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
            "tie_word_embeddings": true}"#,
    ),
];

struct Options {
    tokens: usize,
    shape: Option<String>,
    dtype: Dtype,
    /// The recomputation and the number of ranks that this process is to measure.
    one: Option<(Recompute, usize)>,
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    let Options { tokens, shape, dtype, one } = &options;
    if let Some((recompute, world)) = *one {
        return measure(&options, recompute, world);
    }
    println!("{tokens} tokens, {dtype:?}, a checkpoint in flight");
    println!("model          recompute  ranks   predicted    measured   ratio");
    for (name, _) in SHAPES.iter().filter(|(name, _)| shape.as_ref().is_none_or(|s| s == name)) {
        for (setting, _) in SETTINGS {
            for world in ["1", "2"] {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["--shape", name, "--tokens", &tokens.to_string()]);
                command.args(["--one", setting, world]);
                command.args((*dtype == Dtype::Bf16).then_some("--bf16"));
                let output = command.env(KEEP_MEMORY.0, KEEP_MEMORY.1).output()?;
                let errors = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "{name}: {}\n{errors}", output.status);
                let text = String::from_utf8_lossy(&output.stdout);
                print!("{name:13}  {setting:9}  {world:>5}   {text}");
            }
        }
    }
    Ok(())
}

fn measure(options: &Options, recompute: Recompute, world: usize) -> anyhow::Result<()> {
    let name = options.shape.as_deref().unwrap_or_default();
    let (_, config) = SHAPES.iter().find(|(shape, _)| *shape == name).context("no such shape")?;
    let Options { tokens, dtype, .. } = *options;
    let (predicted, measured) =
        Case { config, dtype, reduce_dtype: Dtype::F32, recompute, world, tokens }.measure()?;
    let ratio = predicted.total() as f64 / measured as f64;
    let [total, measured] = [predicted.total(), measured].map(bytes);
    println!("{total:>9}   {measured:>9}   {ratio:.3}   ({predicted})");
    Ok(())
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options { tokens: 2048, shape: None, dtype: Dtype::F32, one: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            // Cargo passes this to every benchmark.
            "--bench" => {}
            "--tokens" => options.tokens = value()?.parse()?,
            "--shape" => options.shape = Some(value()?),
            "--bf16" => options.dtype = Dtype::Bf16,
            "--one" => {
                let (setting, world) = (value()?, value()?.parse()?);
                let found = SETTINGS.iter().find(|(name, _)| *name == setting);
                options.one = Some((found.context("off, light or on")?.1, world));
            }
            other => bail!("{other} is not an option\nhint: --tokens N, --shape NAME, --bf16"),
        }
    }
    Ok(options)
}
