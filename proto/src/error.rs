//! How an error is told: the whole chain of causes in one line, a hint on its own.

/// `error` and its causes, from the outside in. A hint, wherever in the chain it stands, comes last on its own line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut hints = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let (said, hint) = match text.split_once("\nhint: ") {
            Some((said, hint)) => (said.to_owned(), Some(hint.to_owned())),
            None => (text, None),
        };
        // Transparent wrappers say what their cause says, and some libraries end with it.
        if !causes.last().is_some_and(|last| last.ends_with(&said)) {
            causes.push(said);
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
    fn causes_are_told_outside_in_and_hints_last() {
        assert_eq!(chain(&Outer(Inner)), "outer: inner\nhint: do this");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("store: disk: {0}")]
    struct Repeating(#[source] Inner);

    #[test]
    fn a_cause_is_told_once() {
        assert_eq!(chain(&Repeating(Inner)), "store: disk: inner");
    }
}
