//! The success policy: when an Indexed Job succeeds before all indexes did.

use serde_json::Value;

use crate::indexes::Indexes;
use crate::json::Json;

/// The message of the first rule that the succeeded indexes meet.
pub(crate) fn judge(policy: &Value, completions: u32, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let meets = |rule: &Value| {
        let count = rule.int("succeededCount").and_then(|count| u32::try_from(count).ok());
        match rule.text("succeededIndexes") {
            Some(text) => {
                let required = Indexes::parse(text, completions);
                let done = required.overlap(succeeded);
                !required.is_empty()
                    && (done == required.len() || count.is_some_and(|count| done >= count))
            }
            None => count.is_some_and(|count| succeeded.len() >= count),
        }
    };
    policy
        .list("rules")
        .iter()
        .position(meets)
        .map(|index| format!("Matched rules at index {index}"))
}
