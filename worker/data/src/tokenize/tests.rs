//! Compares ids and offsets with the `tokenizers` crate: for the quick start's tokenizer and
//! variants of it; for the tokenizer in the folder MUSTER_TEST_MODEL, if set; and for every file in
//! the folder MUSTER_TEST_TOKENIZERS, if set.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

fn quickstart() -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/quickstart/base");
    let json = std::fs::read(PathBuf::from(folder).join("tokenizer.json")).expect("is there");
    serde_json::from_slice(&json).expect("is JSON")
}

/// The quick start's vocabulary with other parts around it.
fn with_parts(parts: Value) -> Value {
    let mut tokenizer = quickstart();
    for (name, part) in parts.as_object().expect("parts by name") {
        match name.as_str() {
            "ignore_merges" => tokenizer["model"][name] = part.clone(),
            _ => tokenizer[name] = part.clone(),
        }
    }
    tokenizer
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
           "use_regex": use_regex})
}

fn split_by(regex: &str) -> Value {
    let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated",
                       "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
}

/// Added tokens with every flag, some contained in others.
fn added() -> Value {
    let token = |id: usize, content: &str, flags: &[&str]| {
        let is = |flag| flags.contains(&flag);
        json!({"id": id, "content": content, "special": is("special"),
               "single_word": is("single_word"), "lstrip": is("lstrip"), "rstrip": is("rstrip"),
               "normalized": is("normalized")})
    };
    json!([
        token(0, "<|endoftext|>", &["special"]),
        token(1, "<|im_start|>", &["special"]),
        token(2, "<|im_end|>", &["special", "rstrip"]),
        token(2048, "<mask>", &["special", "lstrip"]),
        token(2049, "<both>", &["lstrip", "rstrip", "normalized"]),
        token(2050, "word", &["single_word"]),
        token(2051, "   ", &["normalized"]),
        token(2052, "<|im_start|>user", &[]),
        token(2053, "é", &["normalized"]),
        token(2054, "\t\n", &[]),
    ])
}

/// `bos` before a text and `eos` after it.
fn template() -> Value {
    let special = |id: &str, number: u32| json!({"id": id, "ids": [number], "tokens": [id]});
    json!({"type": "TemplateProcessing", "pair": [],
           "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                      {"Sequence": {"id": "A", "type_id": 0}},
                      {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}],
           "special_tokens": {"<|im_start|>": special("<|im_start|>", 1),
                              "<|endoftext|>": special("<|endoftext|>", 0)}})
}

fn tokenizer(json: &Value) -> Tokenizer {
    Tokenizer::new(json.to_string().as_bytes()).expect("what the tokenizers crate reads")
}

fn assert_same(tokenizer: &Tokenizer, text: &str) {
    for add_special_tokens in [false, true] {
        let tokens = tokenizer.encode(text, add_special_tokens).expect("encodes");
        let expected = encode_by(tokenizer.reference(), text, add_special_tokens);
        let shown: String = text.chars().take(200).collect();
        assert_eq!(tokens, expected.expect("encodes"), "{shown:?}");
    }
}

fn assert_fast_and_same(tokenizer: &Tokenizer, seed: u64, texts: usize) {
    let added = tokenizer.reference().get_added_tokens_decoder();
    let added: Vec<String> = added.into_values().map(|token| token.content).collect();
    let fast = tokenizer.fast.as_ref().expect("all of its parts are known");
    let mut fast_texts = 0;
    for text in probe::texts(seed, texts, &added) {
        assert_same(tokenizer, &text);
        fast_texts += usize::from(fast.encode(&text, false).is_some());
    }
    assert!(fast_texts > texts / 4, "only {fast_texts} of {texts} texts went the fast way");
}

#[test]
fn quickstart_tokenizer_is_fast_and_exact() {
    assert_fast_and_same(&tokenizer(&quickstart()), 1, 20_000);
}

#[test]
fn real_tokenizers_are_exact() {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let mut files: Vec<PathBuf> = Vec::new();
    files.extend(variable("MUSTER_TEST_MODEL").map(|folder| folder.join("tokenizer.json")));
    if let Some(folder) = variable("MUSTER_TEST_TOKENIZERS") {
        let entries = std::fs::read_dir(folder).expect("a folder");
        files.extend(entries.map(|entry| entry.expect("a file").path()));
    }
    if files.is_empty() {
        const NAMES: &str = "MUSTER_TEST_MODEL and MUSTER_TEST_TOKENIZERS";
        println!("real_tokenizers_are_exact: skipped, {NAMES} are not set");
    }
    for file in files {
        let json = std::fs::read(&file).expect("is read");
        let tokenizer = Tokenizer::new(&json).expect("what the tokenizers crate reads");
        match tokenizer.fast {
            Some(_) => assert_fast_and_same(&tokenizer, 2, 20_000),
            None => println!("{}: goes through the tokenizers crate", file.display()),
        }
    }
}

#[test]
fn every_known_part_is_exact() {
    let sequence = |stages: Value| json!({"type": "Sequence", "pretokenizers": stages});
    let digits = |individual: bool| json!({"type": "Digits", "individual_digits": individual});
    let mut pre_tokenizers: Vec<Value> =
        split::REGEXES.iter().map(|(regex, _)| split_by(regex)).collect();
    pre_tokenizers.extend([
        byte_level(true),
        byte_level(false),
        sequence(json!([digits(true), byte_level(true)])),
        sequence(json!([digits(false), byte_level(false)])),
    ]);
    let trims = json!({"type": "Sequence", "processors": [byte_level(true), template()]});
    for (index, pre_tokenizer) in pre_tokenizers.into_iter().enumerate() {
        for (normalizer, post_processor, ignore_merges) in [
            (Value::Null, Value::Null, false),
            (json!({"type": "NFC"}), template(), true),
            (Value::Null, trims.clone(), false),
            (json!({"type": "NFC"}), byte_level(true), false),
        ] {
            let tokenizer = tokenizer(&with_parts(json!({
                "pre_tokenizer": pre_tokenizer, "normalizer": normalizer,
                "post_processor": post_processor, "ignore_merges": ignore_merges,
                "added_tokens": added(),
            })));
            assert_fast_and_same(&tokenizer, index as u64, 500);
        }
    }
}

#[test]
fn merges_written_as_one_text_are_read() {
    let mut older = quickstart();
    for merge in older["model"]["merges"].as_array_mut().expect("a list") {
        let [left, right] = [&merge[0], &merge[1]].map(|part| part.as_str().expect("a text"));
        *merge = Value::from(format!("{left} {right}"));
    }
    assert_fast_and_same(&tokenizer(&older), 3, 500);
}

#[test]
fn long_runs_and_long_words_are_exact() {
    let tokenizer = tokenizer(&with_parts(json!({"added_tokens": added()})));
    for run in ["a", "the", "=", "1", " ", "\n", " \t", "日本", "e\u{301}", "word"] {
        assert_same(&tokenizer, &run.repeat(5_000));
        assert_same(&tokenizer, &format!("{}x", run.repeat(5_000)));
    }
}

#[test]
fn more_words_than_the_cache_holds_are_exact() {
    let tokenizer = tokenizer(&quickstart());
    // Three letters to a word, so that no two words are the same.
    let letter = |n: usize| char::from_u32(0x4e00 + n as u32 % 97).unwrap_or('a');
    let words =
        (0..70_000).map(|n| format!(" {}{}{}", letter(n), letter(n / 97), letter(n / 97 / 97)));
    let text: String = words.collect();
    assert_same(&tokenizer, &text);
    assert_same(&tokenizer, &text);
}

#[test]
fn byte_that_the_vocabulary_cannot_spell_is_left_to_the_reference() {
    let mut lacking = quickstart();
    // How the vocabulary spells U+0004.
    lacking["model"]["vocab"].as_object_mut().expect("an object").remove("\u{104}");
    let tokenizer = tokenizer(&lacking);
    let fast = tokenizer.fast.as_ref().expect("all of its parts are known");
    assert_eq!(fast.encode("a\u{4}b", false), None);
    assert!(fast.encode("ab", false).is_some());
    assert_same(&tokenizer, "one\u{4}two \u{4}");
}

#[test]
fn text_that_is_not_composed_is_left_to_the_reference() {
    let tokenizer = tokenizer(&with_parts(json!({"normalizer": {"type": "NFC"}})));
    let fast = tokenizer.fast.as_ref().expect("all of its parts are known");
    for (text, is_fast) in [("é 한 ก็", true), ("e\u{301}", false), ("\u{1112}\u{1161}", false)]
    {
        assert_eq!(fast.encode(text, false).is_some(), is_fast, "{text:?}");
        assert_same(&tokenizer, text);
    }
}

#[test]
fn tokenizers_with_unknown_parts_go_through_the_reference() {
    let prefixed = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                          "use_regex": true});
    for parts in [
        json!({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁",
                                 "prepend_scheme": "always", "split": true}}),
        json!({"pre_tokenizer": prefixed}),
        json!({"pre_tokenizer": split_by(r"\w+|\W+")}),
        json!({"pre_tokenizer": Value::Null}),
        json!({"normalizer": {"type": "Lowercase"}}),
        json!({"post_processor": prefixed}),
    ] {
        let tokenizer = tokenizer(&with_parts(parts.clone()));
        assert!(tokenizer.fast.is_none(), "{parts}");
        assert_same(&tokenizer, "What is it?");
    }
}

#[test]
fn tokenizer_that_differs_on_a_probe_is_not_used() {
    let reference = tokenizer(&quickstart()).reference;
    let mut other = quickstart();
    other["model"]["merges"].as_array_mut().expect("a list").reverse();
    let error =
        fast(other.to_string().as_bytes(), &reference).expect_err("merges in another order");
    assert!(matches!(error, Unknown::Differs(_)), "{error}");
}
