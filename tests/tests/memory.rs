//! The memory of a rank is what was predicted, in processes that train a model of 20 million parameters.

use anyhow::{Context, ensure};
use muster_tests::ignored::run_ignored;
use muster_tests::memory::{Case, SETTINGS};
use worker::device::Dtype;
use worker::supervise::KEEP_MEMORY;

/// The same allocator as the worker's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 16384, "hidden_size": 384, "intermediate_size": 1024,
    "num_hidden_layers": 9, "num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": true}"#;

#[test]
fn a_rank_needs_the_predicted_memory() -> anyhow::Result<()> {
    for (setting, _) in SETTINGS {
        for (dtype, reduce_dtype) in [("f32", "f32"), ("bf16", "f32"), ("f32", "bf16")] {
            let environment = [
                (KEEP_MEMORY.0, KEEP_MEMORY.1.to_owned()),
                // The last page of a buffer would have up to 2 MiB, which is much for buffers as small as these.
                ("MIMALLOC_ALLOW_THP", "0".to_owned()),
                ("MUSTER_TEST_RECOMPUTE", setting.to_owned()),
                ("MUSTER_TEST_DTYPE", dtype.to_owned()),
                ("MUSTER_TEST_REDUCE_DTYPE", reduce_dtype.to_owned()),
            ];
            run_ignored("prediction_and_peak", &environment)
                .context(format!("{setting}, {dtype}, reduced in {reduce_dtype}"))?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "run by `a_rank_needs_the_predicted_memory`"]
fn prediction_and_peak() -> anyhow::Result<()> {
    let setting = std::env::var("MUSTER_TEST_RECOMPUTE")?;
    let (_, recompute) =
        *SETTINGS.iter().find(|(name, _)| *name == setting).context("a setting")?;
    let dtype = |variable: &str| match std::env::var(variable)?.as_str() {
        "bf16" => Ok::<_, anyhow::Error>(Dtype::Bf16),
        _ => Ok(Dtype::F32),
    };
    let (dtype, reduce_dtype) = (dtype("MUSTER_TEST_DTYPE")?, dtype("MUSTER_TEST_REDUCE_DTYPE")?);
    let case = Case { config: CONFIG, dtype, reduce_dtype, recompute, world: 2, tokens: 2048 };
    let (predicted, measured) = case.measure()?;
    let ratio = predicted.total() as f64 / measured as f64;
    println!(
        "{setting}, {dtype}, reduced in {reduce_dtype}: {ratio:.3} of {measured} bytes; {predicted}"
    );
    ensure!(
        (0.95..1.05).contains(&ratio),
        "{ratio}: {predicted}, and {measured} bytes were measured"
    );
    Ok(())
}
