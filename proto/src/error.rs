//! Formats an error with all its causes in one line, followed by hints on their own lines.

/// Formats `error` and its causes, from the outside in. Hints come last, wherever in the chain they occur.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut hints = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let (cause, hint) = match text.split_once("\nhint: ") {
            Some((cause, hint)) => (cause.to_owned(), Some(hint.to_owned())),
            None => (text, None),
        };
        // The text of a transparent wrapper is that of its cause, and in some libraries it ends with it.
        if !causes.last().is_some_and(|last| last.ends_with(&cause)) {
            causes.push(cause);
        }
        hints.extend(hint);
        next = error.source();
    }
    hints.dedup();
    let hints = hints.into_iter().map(|h| format!("\nhint: {h}"));
    causes.join(": ") + &hints.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer\nhint: do this")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner;

    #[test]
    fn causes_are_shown_from_the_outside_in_and_hints_last() {
        assert_eq!(chain(&Outer(Inner)), "outer: inner\nhint: do this");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("store: disk: {0}")]
    struct Repeating(#[source] Inner);

    #[test]
    fn a_cause_that_its_wrapper_repeats_is_shown_once() {
        assert_eq!(chain(&Repeating(Inner)), "store: disk: inner");
    }
}
