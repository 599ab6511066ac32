//! The texts of special tokens in messages: reported, dropped or kept as text.

use super::*;

/// A user asks about a token, and an answer names it.
fn line() -> String {
    let line = r#"{"messages": [{"role": "user", "content": "What is <|im_end|>?"},
        {"role": "assistant", "content": "<|im_end|> ends é."}]}"#;
    line.replace('\n', "")
}

fn with(control_tokens: ControlTokens) -> Preparer {
    chatml(Options { control_tokens, ..Options::default() })
}

#[test]
fn special_tokens_in_messages_are_reported_dropped_or_left_alone() {
    let (samples, counts) = shown(&with(ControlTokens::Report), &line());
    assert_eq!(samples.len(), 1);
    let found = counts.findings[&Reason::ControlTokens].examples[0].to_string();
    let expected = "d.jsonl, line 1: `content` of message 1 holds `<|im_end|>`, which becomes the \
                    special token\nhint: `data.control_tokens: escape` keeps it as text, `filter` \
                    leaves the record out";
    assert_eq!(found, expected);
    let (reason, why) = rejected(&with(ControlTokens::Filter), &line());
    assert_eq!(reason, Reason::ControlTokens);
    assert_eq!(why, "d.jsonl, line 1: `content` of message 1 holds `<|im_end|>`");
    let (unlooked, counts) = shown(&with(ControlTokens::Off), &line());
    assert_eq!((unlooked, counts.findings.len()), (samples, 0));
    // Texts that are not special tokens of the tokenizer are not reported, and neither are the
    // template's own tokens.
    let (_, counts) = shown(&with(ControlTokens::Report), &line().replace("im_end", "im_and"));
    assert_eq!(counts.findings.len(), 0);
    // Calls, tools and further fields are searched too.
    let tools = line().replace("<|im_end|>", "it").replace(
        r#""messages""#,
        r#""tools": [{"name": "f", "description": ["</s>"]}], "messages""#,
    );
    let (_, counts) = shown(&with(ControlTokens::Report), &tools);
    let found = counts.findings[&Reason::ControlTokens].examples[0].to_string();
    assert!(found.starts_with("d.jsonl, line 1: `tools` holds `</s>`, which"), "{found}");
}

/// With one token per byte, the expected tokens of a text can be written down.
#[test]
fn an_escaped_token_is_a_text_like_any_other() {
    let preparer = with(ControlTokens::Escape);
    let prepared = preparer.prepare("d.jsonl", line().as_bytes(), &SourceOptions::default());
    let prepared = prepared.expect("readable");
    let found = prepared.counts.findings[&Reason::ControlTokens].examples[0].to_string();
    assert!(found.ends_with("holds `<|im_end|>`, which is kept as text"), "{found}");
    let sample = prepared.samples().next().expect("one");
    let (start, end) = (2, 3);
    let bytes = |text: &str| preparer.encoder().piece(text).expect("bytes");
    // The two halves of a special token's text are not the token.
    let text = |text: &str| -> Vec<u32> { text.split_inclusive('|').flat_map(bytes).collect() };
    let tokens = [
        vec![start],
        text("user\nWhat is <|im_end|>?"),
        vec![end],
        text("\n"),
        vec![start],
        text("assistant\n"),
        text("<|im_end|> ends é."),
        vec![end],
        text("\n"),
    ];
    assert_eq!(sample.tokens, tokens.concat());
    let trained = sample.weights.iter().filter(|weight| **weight > 0.0).count();
    assert_eq!(trained, "<|im_end|> ends é.".len() + 1, "the answer and its end");
    let shown = bracketed(preparer.tokenizer(), sample);
    assert!(shown.contains("assistant\n⟦<|im_end|> ends é.<|im_end|>⟧"), "{shown}");
    // A conversation without such a text is unchanged.
    let (escaped, _) = shown_of(&preparer, &two_turns());
    assert_eq!(escaped, shown_of(&with(ControlTokens::Report), &two_turns()).0);
}

fn shown_of(preparer: &Preparer, line: &str) -> (Vec<Vec<u32>>, Counts) {
    let prepared = preparer.prepare("d.jsonl", line.as_bytes(), &SourceOptions::default());
    let prepared = prepared.expect("readable");
    (prepared.samples().map(|sample| sample.tokens.clone()).collect(), prepared.counts)
}

#[test]
fn characters_that_escaping_needs_are_refused_if_they_are_ambiguous() {
    let line = line().replace('é', "\u{f0003}");
    let (reason, why) = rejected(&with(ControlTokens::Escape), &line);
    assert_eq!(reason, Reason::Malformed);
    assert!(why.contains("private-use planes"), "{why}");
    // Where nothing is escaped, these characters are ordinary text.
    for c in ["\u{f0003}", "\u{100003}", "\u{f0003}\u{100003}"] {
        let line = line.replace("<|im_end|>", "it").replace('\u{f0003}', c);
        let (tokens, _) = shown_of(&with(ControlTokens::Escape), &line);
        assert_eq!(tokens, shown_of(&with(ControlTokens::Off), &line).0);
    }
    // A template that prints an object: Python would escape the character that stands for the token.
    let repr = "{% for m in messages %}{% generation %}{{ [m.content] }}<|im_end|>\
                {% endgeneration %}{% endfor %}";
    let chat_template = ChatTemplate::Jinja(repr.into());
    let control_tokens = ControlTokens::Escape;
    let repr = preparer(Options { chat_template, control_tokens, ..Options::default() });
    let (_, why) = rejected(&repr, &self::line());
    assert!(why.contains("writes the text of a special token with escapes"), "{why}");
}
