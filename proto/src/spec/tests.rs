//! Valid specs: how they are parsed, resolved, written and compared.

mod quality;
mod refused;

use super::*;

const EXAMPLE: &str = include_str!("../../../deploy/specs/smollm2-alpaca.yaml");
const SCRATCH: &str = include_str!("../../../deploy/specs/from-scratch.yaml");
const CLUSTER: &str = include_str!("../../../deploy/specs/cluster-lora.yaml");

/// The smallest valid spec.
const LEAST: &str = "model: {base: ./m}\ndata: {train: [{source: a.jsonl}]}\n";

/// A spec with every key set to something other than its default.
const FULL: &str = r#"
name: full
model:
  base: s3://bucket/models/m
  init: random
  dtype: bf16
  save_dtype: f16
  max_shard_size: 512MiB
  add_tokens: ["<|user|>", "<|end|>"]
  adapter: {kind: lora, rank: 8, alpha: 16.5, targets: [q_proj, v_proj]}
data:
  train:
    - source: a/*.jsonl
      format: alpaca
      repeat: 0.5
      fields: {instruction: prompt}
      system: Be brief.
    - source: "https://host/b.jsonl"
      format: sharegpt
      repeat: 2
      fields: {conversations: dialog, from: speaker, value: utterance}
      roles: {assistant: [bot, agent], user: [customer]}
    - {source: c.jsonl, format: completion}
  eval:
    sources: [{source: e.jsonl, format: messages}]
    every: 25
    at_start: false
  quality:
    duplicates: filter
    near_duplicates: off
    contradictions: filter
    loops: off
    incomplete: filter
    contamination: filter
    similarity: 0.75
    benchmarks: [{source: bench/*.jsonl, format: completion, fields: {prompt: question}}]
  max_tokens: 4096
  too_long: truncate
  max_dropped: 0.5
  train_on: last
  turns: each
  chat_template: ./mine.jinja
  chat_template_kwargs: {enable_thinking: false, depth: {of: [1, null, 2.5]}}
  date: 2026-02-28
train:
  epochs: 2
  max_steps: 20
  global_batch: 32
  micro_batch: 4
  learning_rate: 1e-4
  schedule: {kind: linear, warmup: 100, min_lr: 1.0e-5}
  optimizer: {kind: adamw, betas: [0.8, 0.99], eps: 1.0e-6, weight_decay: 0.1}
  clip_norm: 0.5
  recompute: on
  reduce_dtype: bf16
  seed: 18446744073709551615
workers: {min: 2, max: 16}
checkpoint: {every: 10, keep: 1}
output: gs://bucket/runs
"#;

fn folder() -> Location {
    Location::File(base().to_owned())
}

fn base() -> &'static Path {
    Path::new("/specs")
}

fn valid(yaml: &str) -> Spec {
    parse(yaml, base()).unwrap_or_else(|error| panic!("{error}"))
}

fn problems(yaml: &str) -> Vec<String> {
    match parse(yaml, base()) {
        Ok(_) => panic!("it is valid"),
        Err(error) => error.to_string().lines().map(str::to_owned).collect(),
    }
}

/// The smallest spec with a key of `train` set.
fn train(key: &str) -> String {
    format!("{LEAST}train: {{{key}}}\n")
}

#[test]
fn the_example_is_valid_and_means_what_it_says() {
    let spec = valid(EXAMPLE);
    assert_eq!(spec.name(), "smollm2-alpaca");
    assert_eq!(spec.model().base, Location::File("/specs/smollm2-135m".into()));
    assert_eq!((spec.model().init, spec.model().dtype), (Init::Pretrained, Dtype::F32));
    let data = spec.data();
    assert_eq!(data.train[0].location.to_string(), "/specs/data/alpaca_en_demo.json");
    assert_eq!(data.train[0].amount, Amount::Repeat(1.0));
    assert_eq!(data.eval.on, EvalOn::Holdout(0.02));
    assert_eq!(data.eval.every, EvalEvery::Checkpoint);
    assert_eq!(data.chat_template, ChatTemplate::Tokenizer);
    assert_eq!((data.max_tokens, data.too_long), (1024, TooLong::Drop));
    assert_eq!((spec.train().epochs, spec.train().global_batch), (3, 16));
    assert_eq!(spec.train().learning_rate, 2.0e-5);
    assert_eq!(spec.workers(), Workers { min: 1, max: 8 });
    let storage_patience = std::time::Duration::from_secs(30 * 60);
    assert_eq!(*spec.checkpoint(), Checkpoint { every: 50, keep: 3, storage_patience });
    assert_eq!(*spec.output(), Location::File("/specs/runs".into()));
    assert!(spec.unsupported().is_none());
}

#[test]
fn the_example_with_its_commented_keys_is_valid() {
    // Lines such as `# key: value   # comment` become keys; all other comments stay.
    let keys = [
        "save_dtype",
        "adapter",
        "repeat",
        "fields",
        "system",
        "chat_template_kwargs",
        "date",
        "max_steps",
    ];
    let uncomment = |line: &str| {
        let (indent, rest) = line.split_at(line.find('#').unwrap_or(0));
        let rest = rest.trim_start_matches('#').trim_start();
        match keys.iter().any(|key| rest.starts_with(key)) && indent.trim().is_empty() {
            true => format!("{indent}{rest}\n"),
            false => format!("{line}\n"),
        }
    };
    let spec = valid(&EXAMPLE.lines().map(uncomment).collect::<String>());
    assert_eq!(spec.model().save_dtype, Some(SaveDtype::Bf16));
    let adapter = spec.model().adapter.as_ref().expect("an adapter");
    assert_eq!((adapter.rank, &adapter.targets), (16, &AdapterTargets::AllLinear));
    let source = &spec.data().train[0];
    assert_eq!(source.fields["instruction"], "prompt");
    assert_eq!(source.system.as_deref(), Some("You are a helpful assistant."));
    assert_eq!(spec.data().chat_template_kwargs["enable_thinking"], false);
    assert_eq!(spec.train().max_steps, Some(20));
}

#[test]
fn the_shipped_specs_are_valid() {
    let scratch = valid(SCRATCH);
    assert_eq!(scratch.model().init, Init::Random);
    assert!(scratch.unsupported().is_none());
    let cluster = valid(CLUSTER);
    assert_eq!(cluster.data().train[0].amount, Amount::Share(3.0));
    assert!(cluster.unsupported().is_some());
}

#[test]
fn every_key_is_read() {
    let spec = valid(FULL);
    let base = &spec.model().base;
    assert_eq!(*base, Location::parse("s3://bucket/models/m", Path::new("/")).expect("a URL"));
    let adapter = spec.model().adapter.as_ref().expect("an adapter");
    let named = AdapterTargets::Named(vec!["q_proj".into(), "v_proj".into()]);
    assert_eq!((adapter.rank, adapter.alpha, &adapter.targets), (8, 16.5, &named));
    let data = spec.data();
    assert_eq!(data.train[0].amount, Amount::Repeat(0.5));
    assert_eq!(data.train[1].format, Format::Sharegpt);
    let names: Vec<_> = data.train[1].roles.names().collect();
    let named = |key, name: &'static str| (key, name.to_owned());
    let expected =
        [named("user", "customer"), named("assistant", "bot"), named("assistant", "agent")];
    assert!(names.into_iter().eq(expected.iter().map(|(key, name)| (*key, name))));
    assert_eq!(spec.model().add_tokens, ["<|user|>", "<|end|>"]);
    let EvalOn::Sources(sources) = &data.eval.on else {
        panic!("{:?}", data.eval);
    };
    assert_eq!(sources[0].location.to_string(), "/specs/e.jsonl");
    assert_eq!((data.eval.every, data.eval.at_start), (EvalEvery::Steps(25), false));
    let quality = &data.quality;
    assert_eq!((quality.duplicates, quality.loops), (Check::Filter, Check::Off));
    assert_eq!(quality.similarity, 0.75);
    assert_eq!(quality.benchmarks[0].location.to_string(), "/specs/bench/*.jsonl");
    let listed: Vec<String> =
        data.sources().iter().map(|source| source.location.to_string()).collect();
    assert_eq!(listed[3..], ["/specs/e.jsonl", "/specs/bench/*.jsonl"]);
    let template = Location::File("/specs/mine.jinja".into());
    assert_eq!(data.chat_template, ChatTemplate::File(template));
    let depth = serde_json::json!({"of": [1, null, 2.5]});
    assert_eq!(data.chat_template_kwargs["depth"], depth);
    assert_eq!(data.turns, Turns::Each);
    assert_eq!(data.date, NaiveDate::from_ymd_opt(2026, 2, 28));
    let train = spec.train();
    assert_eq!((train.micro_batch, train.recompute), (MicroBatch::Packs(4), Recompute::On));
    assert_eq!(train.reduce_dtype, ReduceDtype::Bf16);
    assert_eq!((train.optimizer.betas, train.seed), ([0.8, 0.99], u64::MAX));
    assert_eq!(train.schedule().warmup, crate::plan::schedule::Warmup::Steps(100));
}

#[test]
fn the_resolved_spec_reads_back_as_the_same_spec_anywhere() {
    for yaml in [LEAST, EXAMPLE, SCRATCH, CLUSTER, FULL] {
        let spec = valid(yaml);
        let resolved = spec.resolved_yaml();
        let elsewhere = parse(&resolved, Path::new("/elsewhere"));
        assert_eq!(elsewhere.unwrap_or_else(|error| panic!("{error}\n{resolved}")), spec);
    }
}

#[test]
fn the_resolved_spec_writes_every_default_out() {
    let resolved = valid(LEAST).resolved_yaml();
    let lines = [
        "epochs: 3",
        "warmup: 0.03",
        "reduce_dtype: f32",
        "holdout: 0.0",
        "keep: 3",
        "output: /specs/runs",
        "min: 1",
    ];
    for line in lines {
        assert!(resolved.contains(line), "no `{line}` in\n{resolved}");
    }
}

#[test]
fn schema_has_every_key_with_its_description_and_agrees_with_the_defaults() {
    let known = schema::known_keys();
    assert!(known.len() > 50, "{known:?}");
    for yaml in [LEAST, FULL] {
        // The schema has every key of a resolved spec: `check` would refuse an unknown one.
        valid(&valid(yaml).resolved_yaml());
    }
    let node = &schema()["$defs"]["Train"]["properties"]["epochs"];
    assert_eq!(node["default"], 3);
    assert_eq!(node["description"], "Number of passes over the training data.");
    assert_eq!((&node["minimum"], &node["maximum"]), (&1.into(), &1000.into()));
    assert_eq!(schema()["additionalProperties"], false);
    assert!(!schema().to_string().contains(r"\n"), "a description of several lines");
    let undescribed: Vec<&String> = schema()["$defs"]
        .as_object()
        .expect("definitions")
        .values()
        .filter_map(|definition| definition["properties"].as_object())
        .flat_map(|properties| properties.iter().filter(|(_, node)| node["description"].is_null()))
        .map(|(key, _)| key)
        .collect();
    assert!(undescribed.is_empty(), "{undescribed:?}");
}

#[test]
fn the_date_is_the_users_or_that_of_the_submission() {
    let day = NaiveDate::from_ymd_opt(2026, 11, 21);
    assert_eq!(valid(LEAST).data().date, None);
    let submitted = valid(LEAST).dated(day);
    assert!(submitted.resolved_yaml().contains("date: 2026-11-21\n"));
    assert_eq!(submitted.clone().dated(NaiveDate::from_ymd_opt(2026, 11, 22)), submitted);
    for date in ["2026-02-29", "21.11.2026", "'today'", "''"] {
        let yaml = LEAST.replace("]}", &format!("], date: {date}}}"));
        let error = problems(&yaml);
        let expected = format!(
            "`data.date` must be a date such as `2026-11-21`, got `{}`",
            date.trim_matches('\'')
        );
        assert_eq!(error[0], expected);
    }
}

#[test]
fn names_and_locations_are_checked() {
    let error = problems(&format!("{LEAST}name: My Run_1\noutput: hf://a/b\n"));
    assert_eq!(error[1], "hint: write `name: my-run-1`");
    assert_eq!(error[2], "`output` must be writable, got `hf://a/b`");
    let error = problems("model: {base: 'gcs://m'}\ndata: {train: [{source: ~/a}]}\n");
    assert_eq!(error[1], "hint: write `gs://`");
    assert!(error[2].starts_with("`data.train[0].source` cannot be used: `~`"), "{error:?}");
}

#[test]
fn models_and_data_sets_cannot_be_confused() {
    let model = |base: &str| {
        problems(&format!("model: {{base: '{base}'}}\ndata: {{train: [{{source: a}}]}}\n"))
    };
    assert_eq!(
        model("hf://datasets/a/b")[0],
        "`model.base` cannot be `hf://datasets/a/b`: that is a data set"
    );
    assert_eq!(model("hf://a/b/c")[1], "hint: write `hf://owner/name[@revision]`");
    assert_eq!(model("https://h/m")[1], "hint: download it, and write the folder");
    assert!(model("hf://a")[0].contains("`hf://a` is not a valid name on the Hugging Face hub"));
    let data = problems("model: {base: m}\ndata: {train: [{source: 'hf://a/b'}]}\n");
    assert_eq!(data[0], "`data.train[0].source` names a model: `hf://a/b`");
    assert_eq!(data[1], "hint: a data set is `hf://datasets/a/b`");
}

#[test]
fn a_resumed_run_reads_what_it_read_and_a_changed_name_is_refused() {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let typed = "model: {base: 'hf://a/b@v1'}\n\
                 data: {train: [{source: x.jsonl}, {source: 'hf://datasets/c/d'}]}\noutput: /out\n";
    let spec = valid(typed);
    assert_eq!(spec.base().to_string(), "hf://a/b@v1", "nothing is staged of what is not pinned");
    let commit = hub::Commit::parse(COMMIT).expect("a full hash");
    let pins = spec.hub_names().into_iter().map(|(_, n)| (n.clone(), n.at(commit.clone())));
    let began = spec.clone().pinned(&pins.collect());
    assert_eq!(began.model().base.to_string(), format!("hf://a/b@v1#{COMMIT}"));
    assert_eq!(began.base().to_string(), format!("/out/staged/a--b-{COMMIT}"));
    let again = parse(&began.resolved_yaml(), Path::new("/elsewhere")).expect("valid");
    assert_eq!(again, began);

    let resumed = spec.pinned_as(&began);
    assert!(compatible_for_resume(&began, &resumed).is_ok());
    assert_eq!(resumed.hub_names(), began.hub_names());
    let other = valid(&typed.replace("@v1", "@v2")).pinned_as(&began);
    let refused = compatible_for_resume(&began, &other).expect_err("another model").to_string();
    assert!(refused.starts_with("`model.base` cannot change from "), "{refused}");
}

#[test]
fn broken_yaml_names_line_and_column() {
    for yaml in ["name: a\nmodel: {base: b\n", "name: a\n\tmodel: b\n", "a: b: c\n"] {
        let error = parse(yaml, base()).expect_err(yaml).to_string();
        assert!(error.starts_with("run spec is not valid YAML: "), "{error}");
        assert!(error.contains("line") && error.contains("column"), "{yaml:?}: {error}");
    }
    let twice = problems("a: 1\na: 2\n");
    assert!(twice[0].contains("duplicate entry with key \"a\""), "{twice:?}");
    assert!(twice[1].contains("a key may occur only once"), "{twice:?}");
    assert!(problems("a: !include b\n")[0].contains("has the tag `!include`"));
    let huge = "#".repeat(MAX_BYTES + 1);
    assert!(matches!(parse(&huge, base()), Err(Error::TooLarge { .. })));
}

#[test]
fn no_text_panics() {
    // Truncates the text, and replaces single bytes by characters with a meaning in YAML.
    for at in (0..FULL.len()).step_by(3) {
        let _ = parse(&FULL[..at], base());
        for change in ["\n", ":", "{", "]", "- ", "&a ", "*a", "!", "0", "\t", "~", "\"", "é"] {
            let text = format!("{}{change}{}", &FULL[..at], &FULL[at + 1..]);
            let _ = parse(&text, base());
        }
    }
}

#[test]
fn what_is_not_implemented_is_named() {
    let error = valid(FULL).unsupported().expect("much is not").to_string();
    assert!(error.contains("`model.adapter` "), "{error}");
}

#[test]
fn resume_allows_workers_and_refuses_data_model_and_schedule() {
    let spec = valid(EXAMPLE);
    let with = |from: &str, to: &str| {
        assert!(EXAMPLE.contains(from), "{from}");
        compatible_for_resume(&spec, &valid(&EXAMPLE.replace(from, to)))
    };
    for (from, to) in [
        ("max: 8", "max: 2"),
        ("every: 50", "every: 5"),
        ("name: smollm2-alpaca", "name: other"),
        ("micro_batch: auto", "micro_batch: 2"),
        ("at_start: true", "at_start: false"),
    ] {
        assert!(with(from, to).is_ok(), "{to}");
    }
    for (from, to, field) in [
        ("learning_rate: 2.0e-5", "learning_rate: 1.0e-5", "train.learning_rate"),
        ("epochs: 3", "epochs: 4", "train.epochs"),
        ("seed: 42", "seed: 43", "train.seed"),
        ("warmup: 0.03", "warmup: 0.1", "train.schedule.warmup"),
        ("max_tokens: 1024", "max_tokens: 512", "data.max_tokens"),
        ("holdout: 0.02", "holdout: 0.03", "data.eval.holdout"),
        ("./smollm2-135m", "./other", "model.base"),
        ("global_batch: 16", "global_batch: 8", "train.global_batch"),
    ] {
        let error = with(from, to).expect_err(to).to_string();
        assert!(error.starts_with(&format!("`{field}` cannot change from ")), "{error}");
        assert!(error.contains("hint: undo the change, or start a new run"), "{error}");
    }
}

#[test]
fn a_draft_can_be_altered_before_it_is_resolved() {
    let mut draft = Draft::parse(LEAST).expect("valid");
    draft.workers.max = Some(2);
    draft.train.max_steps = Some(5);
    let spec = draft.resolve(&folder()).expect("still valid");
    assert_eq!((spec.workers().max, spec.train().max_steps), (2, Some(5)));
    draft.train.epochs = 0;
    let error = draft.resolve(&folder()).expect_err("out of its limits").to_string();
    assert!(error.starts_with("`train.epochs` must be"), "{error}");
}

#[test]
fn a_spec_without_a_name_is_named_after_its_file() {
    let spec = |place: &str| {
        let place = Location::parse(place, Path::new("/home")).expect("a place");
        parse_at(LEAST, &place).map(|spec| (spec.name().to_owned(), spec.model().base.to_string()))
    };
    let named = |base: &str| ("my-spec".to_owned(), base.to_owned());
    assert_eq!(spec("My Spec.yaml").expect("valid"), named("/home/m"));
    assert_eq!(spec("s3://b/specs/My Spec.yaml").expect("valid"), named("s3://b/specs/m"));
    let refused = spec("s3://bucket").expect_err("no file").to_string();
    assert!(refused.starts_with("`s3://bucket` names no run spec\nhint: "), "{refused}");
}
