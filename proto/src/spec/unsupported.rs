//! What a valid spec can ask for and this version does not do yet.
//!
//! The only list of its kind: an entry goes when the feature comes.

use super::Spec;
use super::error::Problem;
use super::value::Dtype;

/// Everything that `spec` asks for in vain.
pub(super) fn list(spec: &Spec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut refuse = |field: &str, what: &str, hint: &str| {
        let what = format!("{what} is not implemented yet");
        problems.push(Problem::new(field, what.trim_start()).hint(hint));
    };
    match spec.model.dtype {
        Dtype::F32 => {}
        Dtype::Bf16 => refuse("model.dtype", "of `bf16`", "write `dtype: f32`"),
    }
    if spec.model.adapter.is_some() {
        refuse("model.adapter", "of kind `lora`", "leave it out to train every parameter");
    }
    problems
}
