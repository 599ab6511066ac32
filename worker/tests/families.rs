//! Compares every model family's logits with candle-transformers, which shares no code with our implementation.

#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use worker::kernels;
use worker::model::{Config, Family, Model};
use worker::ops::Documents;

/// A candle model: a function from a text to the logits of the next token.
type Peer = Box<dyn FnMut(&[u32]) -> Result<Tensor>>;

/// The candle model for a family.
fn peer(family: &str, config: &Value, weights: VarBuilder<'static>) -> Result<Peer> {
    let batch = |tokens: &[u32]| Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0);
    Ok(match family {
        "llama" => {
            let config: llama::LlamaConfig = serde_json::from_value(config.clone()).unwrap();
            let config = config.into_config(false);
            let model = llama::Llama::load(weights, &config)?;
            Box::new(move |tokens| {
                let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?;
                model.forward(&batch(tokens)?, 0, &mut cache)
            })
        }
        "mistral" => {
            let config: mistral::Config = serde_json::from_value(config.clone()).unwrap();
            let mut model = mistral::Model::new(&config, weights)?;
            Box::new(move |tokens| {
                model.clear_kv_cache();
                model.forward(&batch(tokens)?, 0)
            })
        }
        "qwen2" => {
            let config: qwen2::Config = serde_json::from_value(config.clone()).unwrap();
            let mut model = qwen2::ModelForCausalLM::new(&config, weights)?;
            Box::new(move |tokens| {
                model.clear_kv_cache();
                model.forward(&batch(tokens)?, 0)
            })
        }
        "qwen3" => {
            let config: qwen3::Config = serde_json::from_value(config.clone()).unwrap();
            let mut model = qwen3::ModelForCausalLM::new(&config, weights)?;
            Box::new(move |tokens| {
                model.clear_kv_cache();
                model.forward(&batch(tokens)?, 0)
            })
        }
        _ => panic!("`{family}` has no candle model to compare with: add it here"),
    })
}

/// A configuration of a family, with `changes` to the defaults.
fn config(family: &str, changes: Value) -> Value {
    let mut config = json!({
        "model_type": family, "vocab_size": 61, "hidden_size": 48, "intermediate_size": 80,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 64, "hidden_act": "silu",
        "tie_word_embeddings": false, "initializer_range": 0.2, "attention_bias": false,
        "sliding_window": null, "use_sliding_window": false, "max_window_layers": 3,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Compares the logits after every prefix of a text.
fn compare(config: &Value) {
    let ours = Config::parse(Path::new("config.json"), &config.to_string()).unwrap();
    let family = ours.family.name;
    let model = Model::random(ours, 5, kernels::host());
    let parameters = model.parameters();
    let tensors = parameters.ids().map(|p| {
        let values = parameters.values(p).read::<f32>();
        let tensor = Tensor::from_slice(&values, parameters.shape(p), &Device::Cpu).unwrap();
        (parameters.name(p).to_owned(), tensor)
    });
    let tensors: HashMap<_, _> = tensors.collect();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let mut peer = peer(family, config, weights).unwrap();

    let text: Vec<u32> = (0..20).map(|i| (i * i * 7 + 3) % 61).collect();
    let logits = model.logits(&text, &Documents::of_lengths([text.len()])).unwrap();
    let logits: Vec<Vec<f32>> = logits.to_vec2().unwrap();
    for (end, got) in (1..).zip(&logits) {
        let want = peer(&text[..end]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(got.len(), want.len());
        let largest = want.iter().fold(0f32, |most, logit| most.max(logit.abs()));
        for (got, want) in got.iter().zip(&want) {
            // Both compute in f32, in sums of up to 80 terms through three layers.
            assert!((got - want).abs() <= 2e-5 * largest, "{family}, {end} tokens: {got} {want}");
        }
    }
}

/// The configurations of a family that are compared.
fn configurations(family: &str) -> Vec<Value> {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 16});
    let changes = match family {
        "llama" => vec![
            json!({}),
            json!({"tie_word_embeddings": true, "num_key_value_heads": 4}),
            json!({"rope_theta": 500000.0, "rope_scaling": scaling}),
        ],
        "mistral" => vec![json!({}), json!({"head_dim": 16})],
        "qwen2" => vec![
            json!({"sliding_window": 4096}),
            json!({"sliding_window": 4096, "tie_word_embeddings": true}),
        ],
        "qwen3" => {
            vec![json!({"head_dim": 16}), json!({"head_dim": 8, "tie_word_embeddings": true})]
        }
        _ => vec![json!({})],
    };
    changes.into_iter().map(|changes| config(family, changes)).collect()
}

#[test]
fn every_family_has_the_logits_of_candle() {
    for family in Family::ALL {
        for config in configurations(family.name) {
            compare(&config);
        }
    }
}
