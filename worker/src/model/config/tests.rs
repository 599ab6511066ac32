//! The expected values are transformers' own defaults and its results for the same files.

use super::*;

const SMOLLM2: &str = r#"{
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "tie_word_embeddings": true, "max_position_embeddings": 8192, "hidden_act": "silu",
    "rms_norm_eps": 1e-05"#;

fn parse(tail: &str) -> Result<Config, Error> {
    Config::parse(Path::new("m/config.json"), &format!("{SMOLLM2}{tail}}}"))
}

/// The error for the same text with `tail` appended; a repeated key overrides the earlier one in JSON.
fn refused(tail: &str) -> String {
    parse(tail).expect_err("the configuration is refused").to_string()
}

#[test]
fn both_spellings_of_transformers_mean_the_same() {
    let older = parse(r#", "rope_theta": 1e5, "rope_scaling": null, "torch_dtype": "bfloat16""#);
    let newer = parse(
        r#", "rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}, "dtype": "bfloat16""#,
    );
    let older = older.expect("a sound configuration");
    assert_eq!(older, newer.expect("a sound configuration"));
    assert_eq!(older.rope, Rope { theta: 1e5, scaling: Scaling::Default });
    assert_eq!(older.dtype, Some(Dtype::Bf16));
    assert_eq!((older.heads, older.kv_heads, older.head_dim, older.layers()), (9, 3, 64, 30));
}

#[test]
fn scaling_is_read_from_either_key() {
    let llama3 = r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64"#;
    let older = parse(&format!(r#", "rope_theta": 5e5, "rope_scaling": {llama3}}}"#));
    let newer = parse(&format!(r#", "rope_parameters": {llama3}, "rope_theta": 5e5}}"#));
    assert_eq!(older.expect("sound"), newer.expect("sound"));
}

#[test]
fn absent_keys_have_the_defaults_of_their_family() {
    let mistral = parse(r#", "model_type": "mistral""#).expect("a sound configuration");
    assert_eq!(mistral.windows, [Some(4096); 30], "mistral uses a sliding window by default");
    let mistral = parse(r#", "model_type": "mistral", "sliding_window": null"#).expect("sound");
    assert_eq!(mistral.windows, [None; 30]);
    let qwen2 = parse(r#", "model_type": "qwen2", "sliding_window": 8"#).expect("sound");
    assert_eq!((qwen2.qkv_bias, qwen2.output_bias, qwen2.qk_norm), (true, false, false));
    assert_eq!(qwen2.windows, [None; 30], "qwen2 uses no sliding window by default");
    let qwen3 = parse(r#", "model_type": "qwen3""#).expect("a sound configuration");
    assert_eq!((qwen3.qkv_bias, qwen3.qk_norm, qwen3.head_dim), (false, true, 128));
    assert_eq!(qwen3.rope.theta, 10_000.0);
}

#[test]
fn qwen_uses_the_window_from_max_window_layers_on() {
    let config = parse(
        r#", "model_type": "qwen2", "use_sliding_window": true, "sliding_window": 8,
        "max_window_layers": 28"#,
    );
    let windows = config.expect("a sound configuration").windows;
    assert_eq!(windows[26..], [None, None, Some(8), Some(8)]);
}

#[test]
fn unimplemented_arithmetic_is_refused_by_name() {
    for (tail, message) in [
        (
            r#", "model_type": "gpt2""#,
            "m/config.json: model_type `gpt2` is not implemented\n\
             hint: the model types llama, mistral, ",
        ),
        (r#", "hidden_act": "gelu""#, "hidden_act `gelu` is not implemented"),
        (r#", "attention_dropout": 0.1"#, "attention_dropout `0.1` is not implemented"),
        (r#", "quantization_config": {"bits": 4}"#, "quantization_config `{\"bits\":4}` is not"),
        (
            r#", "rope_scaling": {"type": "dynamic", "factor": 2.0}"#,
            "rope_scaling.type `dynamic` is not implemented",
        ),
        (
            r#", "rope_parameters": {"rope_type": "longrope"}"#,
            "rope_parameters.rope_type `longrope` is not implemented\n\
             hint: the types `default`, `linear`, `llama3` and `yarn` are supported",
        ),
        (r#", "rope_parameters": {"full_attention": {}}"#, "rope_parameters.full_attention"),
        (r#", "partial_rotary_factor": 0.5"#, "partial_rotary_factor `0.5` is not implemented"),
        (r#", "dtype": "float8_e4m3fn""#, "dtype `float8_e4m3fn` is not implemented"),
        (
            r#", "model_type": "qwen3", "num_hidden_layers": 1,
            "layer_types": ["chunked_attention"]"#,
            "`layer_types[0]` \"chunked_attention\" is not implemented",
        ),
    ] {
        let error = refused(tail);
        assert!(error.contains(message), "{error}");
        assert!(error.contains("\nhint: "), "{error}");
    }
}

#[test]
fn invalid_values_are_named() {
    for (tail, message) in [
        (
            r#", "num_attention_heads": "nine""#,
            "m/config.json: `num_attention_heads` must be a whole number from 1 to 16777216; \
             got `nine`",
        ),
        (r#", "num_key_value_heads": 2"#, "a divisor of num_attention_heads, 9; got `2`"),
        (r#", "head_dim": 63"#, "`head_dim` must be even"),
        (r#", "hidden_size": null"#, "`hidden_size` must be a whole number"),
        (r#", "vocab_size": 1e30"#, "`vocab_size` must be a whole number"),
        (r#", "model_type": null"#, "`model_type` must be one of llama, mistral"),
        (r#", "rope_scaling": {"type": "linear"}"#, "`rope_scaling.factor` must be a number above"),
        (r#", "rope_scaling": "linear""#, "`rope_scaling` must be an object; got `linear`"),
        (r#", "model_type": "qwen2", "layer_types": ["full_attention"]"#, "must be a list of 30"),
    ] {
        let error = refused(tail);
        assert!(error.contains(message), "{error}");
    }
}
