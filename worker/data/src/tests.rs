//! The whole way from bytes to text with the trained parts in brackets, with a tokenizer made here:
//! one token per byte, and a few special ones.

use proto::prepared::{Object, Shard, Writer};
use proto::receipt::{Counts, Reason};
use serde_json::{Value, json};

use super::*;

mod accounts;
mod control;
mod formats;
mod shapes;
mod spans;
mod trees;

fn folder(chat_template: Option<&str>) -> Folder {
    let special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];
    let added: Vec<_> = (0..)
        .zip(special)
        .map(|(id, content)| {
            json!({"id": id, "content": content, "special": true, "single_word": false,
                   "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let mut vocab: serde_json::Map<_, _> =
        (0..).zip(special).map(|(id, content)| (content.to_owned(), json!(id))).collect();
    // The 256 characters with which byte-level tokenizers spell bytes.
    let mut letters: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    letters.sort_unstable();
    for (id, letter) in (special.len()..).zip(letters) {
        vocab.insert(letter.to_string(), json!(id));
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                            "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": {
            "type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        },
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"},
                        "chat_template": chat_template});
    let Value::Object(config) = config else {
        unreachable!("an object is written above");
    };
    Folder {
        tokenizer: tokenizer.to_string().into_bytes(),
        config,
        template: None,
        tool_template: None,
        generation: serde_json::Map::new(),
    }
}

fn preparer(options: Options) -> Preparer {
    Preparer::new(&folder(None), options).expect("the tokenizer above")
}

fn chatml(options: Options) -> Preparer {
    preparer(Options { chat_template: ChatTemplate::Chatml, ..options })
}

fn jinja(template: &str) -> Preparer {
    preparer(Options { chat_template: ChatTemplate::Jinja(template.into()), ..Options::default() })
}

/// The samples of JSON lines as bracketed texts, and the counts.
fn shown(preparer: &Preparer, lines: &str) -> (Vec<String>, Counts) {
    let source = SourceOptions::default();
    let prepared = preparer.prepare("d.jsonl", lines.as_bytes(), &source).expect("readable");
    assert!(prepared.counts.is_balanced(), "{:?}", prepared.counts);
    let show = |sample| bracketed(preparer.tokenizer(), sample);
    (prepared.samples().map(show).collect(), prepared.counts)
}

/// The only reject of one line.
fn rejected(preparer: &Preparer, line: &str) -> (Reason, String) {
    let (samples, counts) = shown(preparer, line);
    assert_eq!(samples, Vec::<String>::new());
    let (reason, tally) = counts.dropped.into_iter().next().expect("one reject");
    (reason, tally.examples[0].to_string())
}

const TWO_TURNS: &str = r#"{"messages": [{"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2"}, {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": " Yes. "}]}"#;

fn two_turns() -> String {
    TWO_TURNS.replace('\n', "")
}

const UNMARKED: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
                        {{ m.content | trim }}<|im_end|>\n\
                        {% endfor %}\
                        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn alpaca_reads_as_stanford_wrote_it() {
    let preparer = preparer(Options { chat_template: ChatTemplate::Alpaca, ..Options::default() });
    let lines = r#"{"instruction": "Add.", "input": "1 2", "output": "3"}
                   {"instruction": "Hi", "input": "", "output": "Hello"}"#;
    let (samples, _) = shown(&preparer, lines);
    let with_input = "Below is an instruction that describes a task, paired with an input that \
        provides further context. Write a response that appropriately completes the request.\n\n\
        ### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n⟦3</s>⟧\n\n";
    let without = "Below is an instruction that describes a task. Write a response that \
        appropriately completes the request.\n\n### Instruction:\nHi\n\n\
        ### Response:\n⟦Hello</s>⟧\n\n";
    assert_eq!(samples, [with_input, without]);
}

#[test]
fn template_that_expects_parts_gets_them() {
    let template = "{% for m in messages %}{% for part in m.content %}{% if part.type == 'text' \
                    %}{{ m.role }}: {{ part.text }}</s>{% endif %}{% endfor %}{% endfor %}\
                    {% if add_generation_prompt %}assistant: {% endif %}";
    let (samples, _) = shown(&jinja(template), &two_turns());
    let expected = "user: 1+1?</s>assistant: ⟦2</s>⟧user: Sure?</s>assistant: ⟦ Yes. </s>⟧";
    assert_eq!(samples, [expected]);
}

#[test]
fn errors_of_the_folder_say_what_to_do() {
    let conversations = two_turns();
    let no_template = preparer(Options::default());
    let error = no_template.prepare("d", conversations.as_bytes(), &SourceOptions::default());
    let error = error.expect_err("no template").to_string();
    assert!(error.contains("no chat template\nhint: set data.chat_template"), "{error}");

    let broken = Preparer::new(&folder(Some("a\n{% if x %}\n{{ y }")), Options::default());
    let error = broken.expect_err("not Jinja").to_string();
    assert!(error.starts_with("chat template, line 3: "), "{error}");

    let empty = tempfile::tempdir().expect("a folder");
    let error = Folder::read(empty.path()).expect_err("no tokenizer").to_string();
    assert!(error.contains("no tokenizer.json\nhint: "), "{error}");
}

#[test]
fn generation_stops_where_the_template_stops() {
    assert_eq!(chatml(Options::default()).stop_ids(), [1, 3]);
    let alpaca = preparer(Options { chat_template: ChatTemplate::Alpaca, ..Options::default() });
    assert_eq!(alpaca.stop_ids(), [1]);
}

#[test]
fn a_records_template_arguments_override_the_runs() {
    let template = "{{ x }}{{ y }}{% for m in messages %}{{ m.content }}</s>{% endfor %}";
    let Value::Object(template_kwargs) = json!({"x": "run", "y": "run"}) else {
        unreachable!("an object is written above");
    };
    let preparer = preparer(Options {
        chat_template: ChatTemplate::Jinja(template.into()),
        template_kwargs,
        train_on: TrainOn::All,
        ..Options::default()
    });
    let line = json!({"messages": [{"role": "assistant", "content": "a"}],
                      "chat_template_kwargs": {"x": "record"}});
    let (samples, _) = shown(&preparer, &line.to_string());
    assert_eq!(samples, ["r⟦ecordruna</s>⟧"]);
}

#[test]
fn samples_go_through_a_shard_into_a_batch() {
    let preparer = chatml(Options::default());
    let lines = format!("{}\n\n{{broken\n{}", two_turns(), two_turns());
    let prepared = preparer.prepare("d.jsonl", lines.as_bytes(), &SourceOptions::default());
    let prepared = prepared.expect("readable");
    let mut writer = Writer::new("f");
    writer.object(Object { name: "d.jsonl".into(), source: 0, unit: prepared.unit });
    for record in &prepared.records {
        writer.record(record.features.clone());
        record.samples.iter().for_each(|sample| writer.push(sample));
    }
    let shard = Shard::parse(writer.finish().into()).expect("our own bytes");
    assert_eq!(shard.origin(1).as_deref(), Some("d.jsonl, line 4"));
    let samples: Vec<_> = (0..2).filter_map(|i| shard.sample(i).expect("valid weights")).collect();
    assert!(samples.iter().eq(prepared.samples()));
    // Equal records are on the same side of a hold-out.
    assert_eq!(samples[0].hash, samples[1].hash);
    let batch = assemble(&samples);
    assert_eq!(batch.targets.len() as u64, prepared.counts.trained_tokens);
    assert!(!batch.targets.is_empty());
    let planned: f32 = shard.front().metas().map(|meta| meta.weight).sum();
    assert_eq!(batch.weight(), f64::from(planned));
    for target in &batch.targets {
        assert_eq!(batch.tokens[target.row as usize + 1], target.token);
    }
}
