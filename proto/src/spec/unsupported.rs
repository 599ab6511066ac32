//! What a valid spec can ask for and this version does not do yet.
//!
//! The only list of its kind: an entry goes when the feature comes.

use super::error::Problem;
use super::location::Location;
use super::value::Dtype;
use super::{ChatTemplate, Spec};

/// Everything that `spec` asks for in vain.
pub(super) fn list(spec: &Spec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut refuse = |field: &str, what: &str, hint: &str| {
        let what = format!("{what} is not implemented yet");
        problems.push(Problem::new(field, what.trim_start()).hint(hint));
    };
    let local = "download it, and write the path";
    if let Location::Url { scheme, .. } = &spec.model.base {
        refuse("model.base", &format!("from `{}://`", scheme.as_str()), local);
    }
    match spec.model.dtype {
        Dtype::F32 => {}
        Dtype::Bf16 => refuse("model.dtype", "of `bf16`", "write `dtype: f32`"),
    }
    if spec.model.adapter.is_some() {
        refuse("model.adapter", "of kind `lora`", "leave it out to train every parameter");
    }
    let lists = [
        ("data.train", &spec.data.train[..]),
        ("data.eval.sources", spec.data.evaluated()),
        ("data.quality.benchmarks", &spec.data.quality.benchmarks),
    ];
    for (list, sources) in lists {
        for (index, source) in sources.iter().enumerate() {
            let field = format!("{list}[{index}]");
            if let Location::Url { scheme, .. } = &source.location {
                let what = format!("from `{}://`", scheme.as_str());
                refuse(&format!("{field}.source"), &what, local);
            }
        }
    }
    match &spec.data.chat_template {
        ChatTemplate::File(Location::Url { .. }) => {
            refuse("data.chat_template", "from a store", local);
        }
        ChatTemplate::Tokenizer
        | ChatTemplate::Chatml
        | ChatTemplate::Alpaca
        | ChatTemplate::File(Location::File(_)) => {}
    }
    if let Location::Url { scheme, .. } = &spec.output {
        let what = format!("to `{}://`", scheme.as_str());
        refuse("output", &what, "write a folder");
    }
    problems
}
