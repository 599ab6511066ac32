//! The files that make a model folder of weights: the base's own, adapted to what was tuned.

use super::trouble;
use crate::model::Dtype;
use crate::session::Trouble;
use proto::protocol::Cause;
use serde_json::{Map, Value};
use std::path::Path;

/// Name and content.
pub(super) type Companion = (String, Vec<u8>);

/// The small files of the base's folder that belong to a model: everything but weights.
fn read(base: &Path) -> Result<Vec<Companion>, Trouble> {
    const NAMES: [&str; 10] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
    ];
    let mut files = Vec::new();
    for name in NAMES {
        match std::fs::read(base.join(name)) {
            Ok(body) => files.push((name.to_owned(), body)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                let path = base.join(name);
                return Err(trouble(Cause::Model)(format!("{}: {e}", path.display())));
            }
        }
    }
    Ok(files)
}

/// The companions of a model that is saved in `dtype` and stops at `stops`.
///
/// A base that has never seen the template does not know the token that ends its answers: `transformers`, vLLM and
/// llama.cpp's converter take it from `generation_config.json`.
///
/// # Errors
/// [`Cause::Model`] for a file that cannot be read.
pub(super) fn of(base: &Path, dtype: Dtype, stops: &[u32]) -> Result<Vec<Companion>, Trouble> {
    let mut files = read(base)?;
    edit(&mut files, "config.json", |config| {
        let key = if config.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
        config.insert(key.into(), dtype.name().into());
    });
    if !files.iter().any(|(name, _)| name == GENERATION) {
        files.push((GENERATION.into(), b"{}".to_vec()));
    }
    edit(&mut files, GENERATION, |config| {
        let stops: Vec<Value> = stops.iter().map(|id| (*id).into()).collect();
        match &stops[..] {
            [] => {}
            [one] => drop(config.insert("eos_token_id".into(), one.clone())),
            _ => drop(config.insert("eos_token_id".into(), stops.into())),
        }
    });
    Ok(files)
}

const GENERATION: &str = "generation_config.json";

/// Changes a file that is a JSON object; one that is not stays as it is.
fn edit(files: &mut [Companion], name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let Some((_, body)) = files.iter_mut().find(|(n, _)| n == name) else {
        return;
    };
    if let Ok(mut object) = serde_json::from_slice(body) {
        change(&mut object);
        *body = serde_json::to_vec_pretty(&object).expect("JSON stays JSON");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuned_model_stops_where_its_template_stops() {
        let base = tempfile::tempdir().unwrap();
        std::fs::write(base.path().join("config.json"), r#"{"torch_dtype": "float32"}"#).unwrap();
        let files = of(base.path(), Dtype::Bf16, &[0, 2]).unwrap();
        let text = |name: &str| {
            let (_, body) = files.iter().find(|(n, _)| n == name).unwrap();
            serde_json::from_slice::<Value>(body).unwrap()
        };
        assert_eq!(text("config.json")["torch_dtype"], "bfloat16");
        assert_eq!(text("generation_config.json")["eos_token_id"], serde_json::json!([0, 2]));
    }
}
