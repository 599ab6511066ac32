//! A base that makes one conversation's gradient infinite: its embedding of one word is.

use crate::Fixture;
use crate::model::weights;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::Value;

/// The word.
pub const WORD: &str = "Trumpet";
const EMBEDDING: &str = "model.embed_tokens.weight";
const INFINITY_BF16: [u8; 2] = [0x80, 0x7f];

/// A conversation about an instrument, as one line of JSON.
pub fn conversation(instrument: &str) -> String {
    let message = |role, content| serde_json::json!({"role": role, "content": content});
    let messages = [message("user", instrument), message("assistant", "A horn.")];
    serde_json::json!({ "messages": messages }).to_string()
}

/// Sets the word's row of the embedding to infinity. The output matrix is a separate copy, since otherwise every loss
/// would be infinite.
pub fn poison(fixture: &Fixture) {
    let base = fixture.path("base");
    let mut weights = weights(&base);
    for file in base.read_dir().expect("a base").map(|e| e.expect("listed").path()) {
        if file.to_string_lossy().contains(".safetensors") {
            std::fs::remove_file(file).expect("a copy");
        }
    }
    let head = weights[EMBEDDING].clone();
    weights.insert("lm_head.weight".into(), head);
    let vocabulary: Value =
        serde_json::from_str(&fixture.read("base/tokenizer.json")).expect("a tokenizer");
    let token = vocabulary["model"]["vocab"][WORD].as_u64().expect("one token") as usize;
    let (shape, bytes) = weights.get_mut(EMBEDDING).expect("a model has one");
    let row = shape[1] * INFINITY_BF16.len();
    bytes[token * row..][..row].copy_from_slice(&INFINITY_BF16.repeat(shape[1]));
    let views = weights.iter().map(|(name, (shape, bytes))| {
        (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).expect("as it was read"))
    });
    serialize_to_file(views, None, &base.join("model.safetensors")).expect("a temporary folder");
    fixture.change(
        "base/config.json",
        r#""tie_word_embeddings": true"#,
        r#""tie_word_embeddings": false"#,
    );
}
