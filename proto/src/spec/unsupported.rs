//! Features that a valid spec can ask for and that are not implemented yet.
//!
//! This is the only such list. Remove an entry when its feature is implemented.

use super::Spec;
use super::error::Problem;

/// The features of `spec` that are not implemented yet.
pub(super) fn list(spec: &Spec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut refuse = |field: &str, what: &str, hint: &str| {
        let what = format!("{what} is not implemented yet");
        problems.push(Problem::new(field, what.trim_start()).hint(hint));
    };
    if spec.model.adapter.is_some() {
        refuse("model.adapter", "of kind `lora`", "leave it out to train every parameter");
    }
    problems
}
