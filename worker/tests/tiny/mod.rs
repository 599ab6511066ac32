//! Tiny models, and what they are trained on.

use worker::ops::{Documents, Target};
use worker::replica::MicroBatch;

/// Configurations that cover the differences between families: biases, tied matrices, grouped heads, rotary scaling,
/// windows.
pub(crate) const TINY: [(&str, &str); 3] = [
    (
        "llama",
        r#"{"model_type": "llama", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 80,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1,
            "rope_theta": 500000.0, "max_position_embeddings": 128,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16}}"#,
    ),
    (
        "qwen2",
        r#"{"model_type": "qwen2", "vocab_size": 96, "hidden_size": 24, "intermediate_size": 56,
            "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "initializer_range": 0.1,
            "tie_word_embeddings": true, "max_position_embeddings": 128}"#,
    ),
    (
        "mistral",
        r#"{"model_type": "mistral", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.1,
            "head_dim": 24, "sliding_window": 7, "max_position_embeddings": 128}"#,
    ),
];
/// A rank's packs of a step: two packs of several documents each; in every fifth step, the second rank has none.
pub(crate) fn packs(step: u64, rank: u64, vocabulary: u64) -> Vec<MicroBatch> {
    let mut state = step * 1000 + rank * 100 + 17;
    let mut next = move |below: u64| {
        // The upper half of Knuth's MMIX generator.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let count = if rank == 1 && step % 5 == 4 { 0 } else { 2 };
    let mut pack = || {
        let lengths: Vec<usize> = (0..2 + next(3)).map(|_| 3 + next(17) as usize).collect();
        let tokens: Vec<u32> = (0..lengths.iter().sum()).map(|_| next(vocabulary) as u32).collect();
        let documents = Documents::of_lengths(lengths.iter().copied());
        let mut targets = Vec::new();
        for rows in documents.iter() {
            for row in rows.start..rows.end - 1 {
                // Some tokens are not trained, and some have a higher weight.
                let weight = [0.0, 1.0, 1.0, 0.5, 2.0][next(5) as usize];
                targets.push(Target { row: row as u32, token: tokens[row + 1], weight });
            }
        }
        MicroBatch { sources: vec![0; lengths.len()], tokens, documents, targets }
    };
    (0..count).map(|_| pack()).collect()
}
