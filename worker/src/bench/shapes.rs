//! Models to measure: well-known ones by name, and any other by its `config.json`. Weights do not change what a step
//! costs, so only the shape counts.

use crate::model::Config;
use anyhow::Context;
use std::path::Path;

/// The shapes that have names, and their `config.json` as published, without what a shape does not depend on.
const KNOWN: [(&str, &str); 7] = [
    (
        "smollm2-135m",
        r#"{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192, "rope_theta": 100000.0, "tie_word_embeddings": true}"#,
    ),
    (
        "smollm2-360m",
        r#"{"model_type": "llama", "vocab_size": 49152, "hidden_size": 960, "intermediate_size": 2560,
            "num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192, "rope_theta": 100000.0, "tie_word_embeddings": true}"#,
    ),
    (
        "smollm2-1.7b",
        r#"{"model_type": "llama", "vocab_size": 49152, "hidden_size": 2048, "intermediate_size": 8192,
            "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192, "rope_theta": 130000.0, "tie_word_embeddings": true}"#,
    ),
    (
        "qwen2.5-0.5b",
        r#"{"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
            "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768, "rope_theta": 1000000.0, "tie_word_embeddings": true}"#,
    ),
    (
        "qwen2.5-7b",
        r#"{"model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131072, "rope_theta": 1000000.0, "tie_word_embeddings": false}"#,
    ),
    (
        "llama-3.2-1b",
        r#"{"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
            "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
            "rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "rope_theta": 500000.0,
            "tie_word_embeddings": true}"#,
    ),
    (
        "llama-3.1-8b",
        r#"{"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072, "rope_theta": 500000.0, "tie_word_embeddings": false}"#,
    ),
];

/// The shape called `model`, or that of the folder or `config.json` at this path.
///
/// # Errors
/// There is neither, or the configuration is not one of a model that can be trained.
pub(super) fn find(model: &str) -> anyhow::Result<Config> {
    if let Some((name, text)) = KNOWN.iter().find(|(name, _)| name.eq_ignore_ascii_case(model)) {
        return Ok(Config::parse(Path::new(name), text)?);
    }
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(Config::read(path)?);
    }
    let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
    anyhow::ensure!(
        path.is_file(),
        "there is no model shape `{model}`, and no such folder or config.json\nhint: the shapes are {}",
        names.join(", ")
    );
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(Config::parse(path, &text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Ledger;
    use crate::kernels;
    use crate::model::Model;

    #[test]
    fn known_shapes_have_as_many_parameters_as_published() {
        // In millions, from the models' cards; tied matrices count once.
        let published = [134.5, 361.8, 1711.4, 494.0, 7615.6, 1235.8, 8030.3];
        for ((name, _), wanted) in KNOWN.into_iter().zip(published) {
            let config = find(name).expect("a known shape");
            let model = Model::zeros(config, kernels::rehearsal(Ledger::of_host()));
            let parameters = model.parameters();
            let elements: usize = parameters.ids().map(|p| parameters.elements(p)).sum();
            assert!((elements as f64 / 1e6 - wanted).abs() < 0.1, "{name}: {elements}");
        }
    }

    #[test]
    fn an_unknown_shape_is_refused_with_those_that_exist() {
        let error = find("gpt-5").expect_err("unknown").to_string();
        assert!(error.contains("`gpt-5`") && error.contains("llama-3.1-8b"), "{error}");
    }
}
