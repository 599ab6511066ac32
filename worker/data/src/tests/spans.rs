//! Which bytes are trained: by a template's own marks, by ours, by proof, and by what a message
//! says.

use super::*;

#[test]
fn chatml_trains_each_answer_with_its_stop_token_and_not_the_newline() {
    let (samples, counts) = shown(&chatml(Options::default()), &two_turns());
    let expected = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n⟦2<|im_end|>⟧\n\
                    <|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n⟦ Yes. <|im_end|>⟧\n";
    assert_eq!(samples, [expected]);
    assert_eq!((counts.read, counts.eligible, counts.trained_tokens), (1, 1, 9));
}

#[test]
fn train_on_and_a_messages_own_train_and_weight_are_honoured() {
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
        // Nothing precedes a document's first token from which it could be predicted.
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
        text.contains("`train` and `weight` apply to answers, not to a `user` message"),
        "{text}"
    );
}

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
fn known_template_is_marked_and_renders_as_before() {
    let special = serde_json::Map::from_iter([("eos_token".to_owned(), json!("</s>"))]);
    let parse = |source: &str| Template::new(source, &special, Default::default()).expect("valid");
    let said = [Message::new(Role::User, "1+1?"), Message::new(Role::Assistant, "2")];
    let conversation = Conversation::of(said);
    for (source, expected) in [
        (include_str!("../../../../tests/templates/smollm2.jinja"), vec!["2<|im_end|>"]),
        (include_str!("../../../../tests/templates/phi3.jinja"), vec!["2<|end|>", "</s>"]),
    ] {
        let render = |template: &Template| template.render(&conversation, 2, false).expect("text");
        let template = parse(source);
        assert_eq!(template.marking(), Marking::Known);
        let rendered = render(&template);
        let spans: Vec<&str> = rendered.spans.iter().map(|s| &rendered.text[s.clone()]).collect();
        assert_eq!(spans, expected);
        // This changes the hash, and nothing else.
        let altered = format!("{{##}}{source}");
        let unknown = parse(&altered);
        assert_eq!(unknown.marking(), Marking::Proof);
        assert_eq!(render(&unknown).text, rendered.text);
    }
}

#[test]
fn each_turn_is_a_sample_rendered_as_it_was_given() {
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
    // A turn that is too long is counted, and the other turns stay.
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
fn completion_trains_what_follows_the_prompt() {
    let preparer = preparer(Options::default());
    let (samples, _) = shown(&preparer, r#"{"prompt": "1+1=", "completion": "2"}"#);
    assert_eq!(samples, ["<s>1+1=⟦2</s>⟧"]);
}

#[test]
fn an_empty_thinking_block_that_the_prompt_writes_is_not_trained() {
    let template = include_str!("../../../../tests/templates/thinking.jinja");
    let with = |think| {
        let chat_template = ChatTemplate::Jinja(template.into());
        preparer(Options { chat_template, think, ..Options::default() })
    };
    let line = |thoughts: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "1"}}, {{"role": "assistant", "content": "2"{thoughts}}}]}}"#
        )
    };
    let asked = "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n";
    let (samples, counts) = shown(&with(Think::Prompt), &line(""));
    assert_eq!(samples, [format!("{asked}<think>\n\n</think>\n\n⟦2<|im_end|>⟧\n")]);
    let found = counts.findings[&Reason::EmptyThinking].examples[0].to_string();
    assert!(found.contains("hint: `data.think: train` trains it"), "{found}");
    let (samples, counts) = shown(&with(Think::Train), &line(""));
    assert_eq!(samples, [format!("{asked}⟦<think>\n\n</think>\n\n2<|im_end|>⟧\n")]);
    assert!(counts.findings.is_empty());
    let (samples, counts) = shown(&with(Think::Prompt), &line(r#", "reasoning_content": "t""#));
    assert_eq!(samples, [format!("{asked}⟦<think>\nt\n</think>\n\n2<|im_end|>⟧\n")]);
    assert!(counts.findings.is_empty());
}

#[test]
fn the_template_that_a_tuned_model_ships_has_no_marks() {
    for chat_template in [
        ChatTemplate::Chatml,
        ChatTemplate::Alpaca,
        ChatTemplate::Jinja(include_str!("../../../../tests/templates/marked.jinja").into()),
    ] {
        let marked = preparer(Options { chat_template, ..Options::default() });
        let plain = marked.own_template().expect("it is not the tokenizer's");
        assert!(!plain.contains("generation %}"), "{plain}");
        let conversation = Conversation::of([
            Message::new(Role::User, "a"),
            Message::new(Role::Assistant, "b"),
            Message::new(Role::Assistant, "c"),
        ]);
        let text =
            |template: &Template| template.render(&conversation, 3, false).expect("renders").text;
        let special = folder(None).special_tokens();
        let plain = Template::new(plain, &special, Default::default()).expect("Jinja");
        assert_eq!(plain.marking(), Marking::Proof);
        assert_eq!(text(&plain), text(marked.template().expect("there is one")));
    }
}
