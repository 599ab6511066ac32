//! The whole way, from bytes to text with the trained parts in brackets, on a tokenizer made here:
//! one token per byte, and a few special ones.

use proto::prepared::{Object, Shard, Writer};
use proto::receipt::{Counts, Reason};
use serde_json::{Value, json};

use super::*;

mod formats;

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
    // The 256 characters by which byte-level tokenizers spell bytes.
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

#[test]
fn chatml_trains_each_answer_with_its_stop_token_and_not_the_newline() {
    let (samples, counts) = shown(&chatml(Options::default()), &two_turns());
    let expected = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n⟦2<|im_end|>⟧\n\
                    <|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n⟦ Yes. <|im_end|>⟧\n";
    assert_eq!(samples, [expected]);
    assert_eq!((counts.read, counts.eligible, counts.trained_tokens), (1, 1, 9));
}

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
fn last_and_all_and_a_messages_own_train_and_weight_are_honoured() {
    let train_on = |train_on| chatml(Options { train_on, ..Options::default() });
    let short = |line: &str, on| {
        let (samples, _) = shown(&train_on(on), line);
        let text = samples.join("").replace("<|im_start|>", "<").replace("<|im_end|>", ">");
        text.replace('\n', "/")
    };
    let plain = two_turns();
    let weighted = plain
        .replace(r#""content": "2""#, r#""content": "2", "weight": 0.5"#)
        .replace(r#"Yes. ""#, r#"Yes. ", "train": false"#);
    let first = plain.replace(r#""content": "2""#, r#""content": "2", "train": true"#);
    for (line, on, expected) in [
        (&plain, TrainOn::Last, "<user/1+1?>/<assistant/2>/<user/Sure?>/<assistant/⟦ Yes. >⟧/"),
        (&first, TrainOn::Last, "<user/1+1?>/<assistant/⟦2>⟧/<user/Sure?>/<assistant/⟦ Yes. >⟧/"),
        // A document's first token has nothing before it to be predicted from.
        (&plain, TrainOn::All, "<⟦user/1+1?>/<assistant/2>/<user/Sure?>/<assistant/ Yes. >/⟧"),
        (
            &weighted,
            TrainOn::Assistant,
            "<user/1+1?>/<assistant/⟦0.5|2>⟧/<user/Sure?>/<assistant/ Yes. >/",
        ),
        (
            &weighted,
            TrainOn::All,
            "<⟦user/1+1?>/<assistant/⟧⟦0.5|2>⟧⟦/<user/Sure?>/<assistant/⟧ Yes. >⟦/⟧",
        ),
    ] {
        assert_eq!(short(line, on), expected, "{on:?}: {line}");
    }
    let asked = plain.replace(r#""content": "1+1?""#, r#""content": "1+1?", "train": true"#);
    let (reason, text) = rejected(&train_on(TrainOn::Assistant), &asked);
    assert_eq!(reason, Reason::Malformed);
    assert!(
        text.contains("`train` and `weight` choose among answers, not for a `user` message"),
        "{text}"
    );
}

const UNMARKED: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
                        {{ m.content | trim }}<|im_end|>\n\
                        {% endfor %}\
                        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn template_without_marks_proves_its_spans_by_prefixes() {
    let (samples, _) = shown(&jinja(UNMARKED), &two_turns());
    let expected = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n⟦2<|im_end|>⟧\n\
                    <|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n⟦Yes.<|im_end|>⟧\n";
    assert_eq!(samples, [expected]);
}

#[test]
fn template_that_rewrites_earlier_turns_is_refused_with_a_hint() {
    let forgets = UNMARKED
        .replace("m.content | trim", "m.content if loop.last or m.role == 'user' else '...'");
    let (reason, text) = rejected(&jinja(&forgets), &two_turns());
    assert_eq!(reason, Reason::Malformed);
    let expected = "d.jsonl, line 1: cannot prove where message 2 ends: it is rendered differently \
                    later\n\
                    hint: set data.turns to each, ";
    assert!(text.starts_with(expected), "{text}");
    let opens = UNMARKED.replace("assistant\n{% endif", "assistant\n<think>{% endif");
    let (_, text) = rejected(&jinja(&opens), &two_turns());
    assert!(text.contains("cannot prove where message 2 starts"), "{text}");
}

#[test]
fn known_template_is_marked_where_its_assistant_speaks_and_renders_as_before() {
    let special = serde_json::Map::from_iter([("eos_token".to_owned(), json!("</s>"))]);
    let parse = |source: &str| Template::new(source, &special, Default::default()).expect("valid");
    let said = [Message::new(Role::User, "1+1?"), Message::new(Role::Assistant, "2")];
    let conversation = Conversation::of(said);
    for (source, expected) in [
        (include_str!("../../../tests/templates/smollm2.jinja"), vec!["2<|im_end|>"]),
        (include_str!("../../../tests/templates/phi3.jinja"), vec!["2<|end|>", "</s>"]),
    ] {
        let render = |template: &Template| template.render(&conversation, 2, false).expect("text");
        let template = parse(source);
        assert_eq!(template.marking(), Marking::Known);
        let rendered = render(&template);
        let spans: Vec<&str> = rendered.spans.iter().map(|s| &rendered.text[s.clone()]).collect();
        assert_eq!(spans, expected);
        // Another hash, and nothing else.
        let altered = format!("{{##}}{source}");
        let unknown = parse(&altered);
        assert_eq!(unknown.marking(), Marking::Proof);
        assert_eq!(render(&unknown).text, rendered.text);
    }
}

#[test]
fn template_that_wants_parts_gets_them() {
    let template = "{% for m in messages %}{% for part in m.content %}{% if part.type == 'text' \
                    %}{{ m.role }}: {{ part.text }}</s>{% endif %}{% endfor %}{% endfor %}\
                    {% if add_generation_prompt %}assistant: {% endif %}";
    let (samples, _) = shown(&jinja(template), &two_turns());
    let expected = "user: 1+1?</s>assistant: ⟦2</s>⟧user: Sure?</s>assistant: ⟦ Yes. </s>⟧";
    assert_eq!(samples, [expected]);
}

#[test]
fn each_turn_is_a_sample_as_it_was_given() {
    let forgets = UNMARKED
        .replace("m.content | trim", "m.content if loop.last or m.role == 'user' else '...'");
    let marked = forgets.replace(
        "{{ m.role }}\n",
        "{{ m.role }}\n{% if m.role == 'assistant' %}{% \
        generation %}{{ m.content if loop.last else '...' }}<|im_end|>{% endgeneration %}{{ '\n' }}{% \
        continue %}{% endif %}",
    );
    let with = |template: &str, train_on, max_tokens| {
        let chat_template = ChatTemplate::Jinja(template.into());
        let turns = Turns::Each;
        preparer(Options { chat_template, turns, train_on, max_tokens, ..Options::default() })
    };
    let first = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n⟦2<|im_end|>⟧\n";
    let second = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n...<|im_end|>\n\
                  <|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n⟦ Yes. <|im_end|>⟧\n";
    for template in [&forgets, &marked] {
        let (samples, counts) = shown(&with(template, TrainOn::Assistant, 100), &two_turns());
        assert_eq!(samples, [first, second]);
        assert_eq!((counts.eligible, counts.samples), (1, 2));
        let (samples, _) = shown(&with(template, TrainOn::Last, 100), &two_turns());
        assert_eq!(samples, [second]);
    }
    // A turn that is too long is counted, and the others stay.
    let (samples, counts) = shown(&with(&forgets, TrainOn::Assistant, 40), &two_turns());
    assert_eq!((samples.as_slice(), counts.truncated.tokens_lost), ([first.into()].as_slice(), 60));
    let untrained =
        two_turns().replace(r#""role": "assistant""#, r#""train": false, "role": "assistant""#);
    let (reason, _) = rejected(&with(&forgets, TrainOn::Assistant, 100), &untrained);
    assert_eq!(reason, Reason::Untrained);
}

#[test]
fn answer_with_several_marks_is_weighted_as_one() {
    let template = "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation \
                    %}<think>{% endgeneration %} {% generation %}{{ m.content }}</s>{% endgeneration \
                    %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let weighted = two_turns().replace(r#""content": "2""#, r#""content": "2", "weight": 0.5"#);
    let (samples, _) = shown(&jinja(template), &weighted);
    let expected = "user:1+1?assistant:⟦0.5|<think>⟧ ⟦0.5|2</s>⟧user:Sure?assistant:⟦<think>⟧ \
                    ⟦ Yes. </s>⟧";
    assert_eq!(samples, [expected]);
}

#[test]
fn stop_token_that_is_never_trained_is_refused() {
    let marked = "{% for m in messages %}{{ m.role }}: {% generation %}{{ m.content }}{% \
                  endgeneration %}</s>{% endfor %}";
    let unmarked = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}assistant: {% endif %}";
    for template in [marked, unmarked] {
        let (reason, text) = rejected(&jinja(template), &two_turns());
        assert_eq!(reason, Reason::NoStop, "{text}");
        assert!(text.contains("stop token"), "{text}");
    }
}

#[test]
fn marks_survive_white_space_control_captures_and_scopes() {
    let template = "{% for m in messages %}\n\
        {% if m.role == 'assistant' %}\n\
        {% set said %}[  {%- generation -%}  {% set x = 1 %}{{ m.content }}</s>  \
        {%- endgeneration -%}  ]{% endset %}\n\
        {{ said }}{{ x }}\n\
        {% else %}\n{{ m.content }}\n{% endif %}\n{% endfor %}";
    let (samples, _) = shown(&jinja(template), &two_turns());
    assert_eq!(samples, ["1+1?\n[⟦2</s>⟧]\nSure?\n[⟦ Yes. </s>⟧]\n"]);
}

#[test]
fn spans_are_bytes_and_every_byte_of_a_letter_is_trained() {
    // A family of joined emoji, and a right-to-left override.
    let said = "日本 \u{1f3f3}\u{fe0f}\u{200d}\u{1f308}\u{202e}ע\u{202c}";
    let line = serde_json::json!({"instruction": "🎉", "output": said}).to_string();
    let (samples, counts) = shown(&chatml(Options::default()), &line);
    let expected = format!("assistant\n⟦{said}<|im_end|>⟧\n");
    assert!(samples[0].contains(&expected), "{}", samples[0]);
    assert_eq!(counts.trained_tokens, said.len() as u64 + 1);
}

#[test]
fn text_is_cut_into_chunks_that_train_every_target_once() {
    let preparer = preparer(Options { max_tokens: 4, ..Options::default() });
    let (samples, counts) = shown(&preparer, r#"{"text": "abcdefg"}"#);
    assert_eq!(samples, ["<s>⟦abc⟧", "c⟦def⟧", "f⟦g</s>⟧"]);
    assert_eq!((counts.samples, counts.trained_tokens, counts.eligible), (3, 8, 1));
    let prepared = preparer.prepare("a.txt", b"{x}", &SourceOptions::default()).expect("a text");
    let texts: Vec<String> =
        prepared.samples().map(|s| bracketed(preparer.tokenizer(), s)).collect();
    assert_eq!(texts, ["<s>⟦{x}⟧", "}⟦</s>⟧"]);
}

#[test]
fn completion_trains_what_follows_the_prompt() {
    let preparer = preparer(Options::default());
    let (samples, _) = shown(&preparer, r#"{"prompt": "1+1=", "completion": "2"}"#);
    assert_eq!(samples, ["<s>1+1=⟦2</s>⟧"]);
}

#[test]
fn doubled_first_token_is_refused() {
    let (_, text) = rejected(&preparer(Options::default()), r#"{"text": "<s>a"}"#);
    assert!(text.contains("starts with `<s>` twice"), "{text}");
    let doubles = format!("{{{{ bos_token }}}}{{{{ bos_token }}}}{UNMARKED}");
    let (_, text) = rejected(&jinja(&doubles), &two_turns());
    assert!(text.contains("starts with `<s>` twice"), "{text}");
}

#[test]
fn too_long_is_dropped_cut_or_fails_and_always_counted() {
    let line = r#"{"instruction": "a", "output": "0123456789"}"#;
    let with =
        |max_tokens, too_long| chatml(Options { max_tokens, too_long, ..Options::default() });
    let (reason, text) = rejected(&with(20, TooLong::Drop), line);
    assert_eq!(
        (reason, text.as_str()),
        (Reason::TooLong, "d.jsonl, line 1: 32 tokens, max_tokens is 20")
    );
    let (samples, counts) = shown(&with(24, TooLong::Truncate), line);
    assert_eq!(samples, ["<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦0123⟧"]);
    assert_eq!((counts.truncated.records, counts.truncated.tokens_lost), (1, 8));
    let (reason, text) = rejected(&with(10, TooLong::Truncate), line);
    assert_eq!(reason, Reason::TooLong);
    assert!(text.ends_with("32 tokens, none of the first 10 is trained"), "{text}");
    let failed =
        with(20, TooLong::Fail).prepare("d.jsonl", line.as_bytes(), &SourceOptions::default());
    let error = failed.expect_err("too long").to_string();
    assert!(error.starts_with("d.jsonl, line 1: 32 tokens, more than the 20"), "{error}");
}

#[test]
fn each_bad_line_stands_in_the_receipt_and_the_good_ones_are_kept() {
    let mut bytes =
        b"{\"messages\": [{\"role\": \"bot\", \"content\": \"x\"}]}\n{\"messages\": [\n".to_vec();
    bytes.extend(two_turns().as_bytes());
    bytes.extend(b"\n{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}\nnull\n");
    bytes.extend(b"{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}\n");
    bytes.extend(
        "{\"messages\": [{\"role\": \"assistant\", \"content\": \"\u{fdd0}\"}]}".as_bytes(),
    );
    let preparer = chatml(Options::default());
    let prepared = preparer.prepare("s3://d/7.jsonl", &bytes, &SourceOptions::default());
    let counts = prepared.expect("one good line").counts;
    assert_eq!((counts.read, counts.eligible, counts.dropped_records()), (7, 1, 6));
    let examples: Vec<String> =
        counts.dropped[&Reason::Malformed].examples.iter().map(ToString::to_string).collect();
    let role =
        "s3://d/7.jsonl, line 1: role must be `system`, `user`, `assistant` or `tool`, got `bot`\n";
    assert!(examples[0].starts_with(role), "{}", examples[0]);
    assert!(
        examples[1].starts_with("s3://d/7.jsonl, line 2: not valid JSON: EOF"),
        "{}",
        examples[1]
    );
    assert!(
        examples[3].contains("line 5: a record must be an object, got null"),
        "{}",
        examples[3]
    );
}

#[test]
fn every_cut_and_flip_of_a_file_is_accounted_for() {
    let preparer = chatml(Options::default());
    let array = format!("[{},\n{}]", two_turns(), two_turns());
    let lines = format!("{}\n{}", two_turns(), two_turns());
    for (name, text) in [("a.json", array), ("a.jsonl", lines)] {
        for at in 0..text.len() {
            for flip in [0, 0x01, 0x20, 0xff] {
                let mut bytes = text.clone().into_bytes();
                match flip {
                    0 => bytes.truncate(at),
                    flip => bytes[at] ^= flip,
                }
                // An error accounts for the whole object.
                if let Ok(prepared) = preparer.prepare(name, &bytes, &SourceOptions::default()) {
                    assert!(prepared.counts.is_balanced());
                }
            }
        }
    }
}

#[test]
fn errors_of_the_folder_say_what_to_do() {
    let conversations = two_turns();
    let no_template = preparer(Options::default());
    let error = no_template.prepare("d", conversations.as_bytes(), &SourceOptions::default());
    let error = error.expect_err("no template").to_string();
    assert!(error.contains("no chat template\nhint: set data.chat_template"), "{error}");

    let broken = Preparer::new(&folder(Some("a\n{% if x %}\n{{ y }")), Options::default());
    let error = broken.expect_err("no Jinja").to_string();
    assert!(error.starts_with("chat template, line 3: "), "{error}");

    let empty = tempfile::tempdir().expect("a folder");
    let error = Folder::read(empty.path()).expect_err("no tokenizer").to_string();
    assert!(error.contains("no tokenizer.json\nhint: "), "{error}");
}

#[test]
fn digest_changes_with_everything_that_changes_tokens() {
    let options = Options::default();
    let source = SourceOptions::default();
    let digest = |folder: &Folder, options: &Options| {
        let preparer = Preparer::new(folder, options.clone()).expect("valid");
        preparer.digest(&source)
    };
    let plain = folder(Some(UNMARKED));
    let base = digest(&plain, &options);
    assert_eq!(digest(&plain, &options), base);
    let another_day = Options {
        date: chrono::NaiveDate::from_ymd_opt(2026, 11, 21).expect("a day"),
        ..options.clone()
    };
    // Only a template that asks for the date depends on it.
    assert_eq!(digest(&plain, &another_day), base);
    let dated = folder(Some(&format!("{UNMARKED}{{{{ strftime_now('%Y') }}}}")));
    let digests = [
        digest(&dated, &options),
        digest(&dated, &another_day),
        digest(&plain, &Options { max_tokens: 7, ..options.clone() }),
        digest(&plain, &Options { train_on: TrainOn::All, ..options.clone() }),
        digest(&plain, &Options { chat_template: ChatTemplate::Chatml, ..options.clone() }),
        Preparer::new(&plain, options)
            .expect("valid")
            .digest(&SourceOptions { system: Some("S".into()), ..source.clone() }),
        base,
    ];
    for (i, a) in digests.iter().enumerate() {
        assert!(!digests[i + 1..].contains(a), "{i}");
    }
}

#[test]
fn generation_stops_where_the_template_stops() {
    assert_eq!(chatml(Options::default()).stop_ids(), [1, 3]);
    let alpaca = preparer(Options { chat_template: ChatTemplate::Alpaca, ..Options::default() });
    assert_eq!(alpaca.stop_ids(), [1]);
}

#[test]
fn records_template_arguments_go_before_the_runs() {
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
    let mut writer = Writer::new(preparer.digest(&SourceOptions::default()));
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
    let planned: f32 = shard.front().metas().map(|meta| meta.weight).sum();
    assert_eq!(batch.weight(), f64::from(planned));
    for target in &batch.targets {
        assert_eq!(batch.tokens[target.row as usize + 1], target.token);
    }
}
