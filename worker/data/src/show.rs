//! A sample as a person reads it: its text, with what is trained in brackets.

use proto::prepared::Sample;
use tokenizers::Tokenizer;

/// The text, each run of trained tokens as `⟦text⟧`, or `⟦0.5|text⟧` by its weight.
pub fn bracketed(tokenizer: &Tokenizer, sample: &Sample) -> String {
    let mut out = String::new();
    let mut from = 0;
    for run in sample.weights.chunk_by(|a, b| a == b) {
        let ids = &sample.tokens[from..from + run.len()];
        from += run.len();
        let text = tokenizer.decode(ids, false).unwrap_or_else(|error| format!("<{error}>"));
        match run[0] {
            0.0 => out.push_str(&text),
            1.0 => out.push_str(&format!("⟦{text}⟧")),
            weight => out.push_str(&format!("⟦{weight}|{text}⟧")),
        }
    }
    out
}
