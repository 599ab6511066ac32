//! Invalid specs, and the errors and hints that they get.

use super::*;

#[test]
fn a_misspelt_key_names_the_nearest() {
    let error = problems(&train("learning_rat: 1.0e-4"));
    let expected = ["unknown key `train.learning_rat`", "hint: did you mean `learning_rate`?"];
    assert_eq!(error, expected);
    let error = problems(&format!("{LEAST}chekpoint: {{every: 3}}\n"));
    assert_eq!(error[1], "hint: did you mean `checkpoint`?");
}

#[test]
fn a_key_in_the_wrong_place_names_the_right_one() {
    let error = problems(&format!("{LEAST}epochs: 2\nmax_tokens: 8\nevery: 5\n"));
    assert_eq!(error[1], "hint: write it as `train.epochs`");
    assert_eq!(error[3], "hint: write it as `data.max_tokens`");
    assert_eq!(error[5], "hint: write it as `data.eval.every` or `checkpoint.every`");
}

#[test]
fn keys_of_other_tools_are_refused_by_name_at_any_level() {
    let keys = [
        ("packing", "always packed"),
        ("gradient_accumulation_steps", "`train.global_batch`"),
        ("per_device_train_batch_size", "`train.micro_batch`"),
        ("load_in_4bit", "quantized training is not implemented"),
        ("num_train_epochs", "`train.epochs`"),
        ("max_seq_length", "`data.max_tokens`"),
        ("lr_scheduler_type", "`train.schedule"),
        ("warmup_ratio", "`train.schedule: {warmup: 0.03}`"),
        ("bf16", "`model.dtype: bf16`"),
        ("communication_data_type", "`train.reduce_dtype: bf16`"),
        ("deepspeed", "every worker holds the whole model"),
        ("datasets", "`data.train"),
        ("base_model", "`model.base"),
        ("sequence-len", "`data.max_tokens`"),
        ("lora_r", "`model.adapter"),
        ("val_set_size", "`data.eval"),
        ("output_dir", "`output`"),
        ("dataset_exact_deduplication", "`data.quality: {duplicates: filter}`"),
        ("decontaminate", "`data.quality: {contamination: filter"),
    ];
    for (key, hint) in keys {
        let places = [
            format!("{LEAST}{key}: 1\n"),
            train(&format!("{key}: 1")),
            format!("model: {{base: m}}\ndata: {{train: [{{source: a, {key}: 1}}]}}\n"),
        ];
        for yaml in places {
            let error = problems(&yaml);
            assert!(error[0].starts_with("unknown key") && error[0].contains(key), "{error:?}");
            assert!(error[1].starts_with("hint: ") && error[1].contains(hint), "{error:?}");
            assert_eq!(error.len(), 2, "{error:?}");
        }
    }
}

#[test]
fn values_out_of_their_limits_are_named_with_what_is_wanted() {
    let cases = [
        ("epochs: 0", "`train.epochs` must be a whole number from 1 to 1000, got 0"),
        ("epochs: 1.5", "`train.epochs` must be a whole number from 1 to 1000, got 1.5"),
        ("epochs: three", "`train.epochs` must be a whole number from 1 to 1000, got `three`"),
        ("learning_rate: 0", "`train.learning_rate` must be a number above 0, at most 1, got 0"),
        ("learning_rate: .inf", "`train.learning_rate` must be a finite number, got `.inf`"),
        ("seed: -1", "`train.seed` must be a whole number of 0 or more, got -1"),
        (
            "micro_batch: many",
            "`train.micro_batch` must be `auto` or a whole number from 1 to 65536, got `many`",
        ),
        (
            "micro_batch: 17",
            "`train.micro_batch` must not be above `train.global_batch` (16), got 17",
        ),
        (
            "schedule: {warmup: 1.5}",
            "`train.schedule.warmup` must be a share below 1 or a whole number of steps, got 1.5",
        ),
        (
            "schedule: {min_lr: 0.1}",
            "`train.schedule.min_lr` must not be above `train.learning_rate` (0.00002), got 0.1",
        ),
        (
            "schedule: cosine",
            "`train.schedule` must be a map with `kind`, `warmup`, `min_lr`, got `cosine`",
        ),
        (
            "optimizer: {betas: [0.9]}",
            "`train.optimizer.betas` must be a list of 2 numbers, got a list of 1",
        ),
    ];
    for (key, expected) in cases {
        assert_eq!(problems(&train(key))[0], expected, "{key}");
    }
}

#[test]
fn an_unknown_word_names_the_known_ones_and_the_nearest() {
    let error = problems(&train("schedule: {kind: cosin}"));
    let expected = [
        "`train.schedule.kind` must be `cosine`, `linear` or `constant`, got `cosin`",
        "hint: did you mean `cosine`?",
    ];
    assert_eq!(error, expected);
    let error = problems(&train("reduce_dtype: fp8"));
    assert_eq!(error[0], "`train.reduce_dtype` must be `f32` or `bf16`, got `fp8`");
}

#[test]
fn everything_that_the_schema_refuses_is_reported_at_once() {
    let yaml =
        "model: {bas: m}\ndata: {train: [], max_tokens: 1}\ntrain: {epochs: no, packing: true}\n";
    let error = parse(yaml, base()).expect_err("many problems");
    let Error::Invalid(problems) = error else {
        panic!("{error}");
    };
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    let expected = [
        "model.bas",
        "model.base",
        "data.train",
        "data.max_tokens",
        "train.packing",
        "train.epochs",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn missing_parts_are_named() {
    assert_eq!(
        problems("")[0],
        "the run spec must be a map with `name`, `model`, `data`, `train`, `workers`, `ring`, \
         `checkpoint`, `output`, got nothing"
    );
    let error = problems("name: a\n");
    assert_eq!(error[0], "`model` is missing");
    assert_eq!(error[2], "`data` is missing");
    assert_eq!(problems("model: {}\ndata: {train: [{source: a}]}\n")[0], "`model.base` is missing");
}

#[test]
fn a_key_without_a_value_counts_as_left_out() {
    assert_eq!(valid(&format!("{LEAST}train:\n  epochs:\nworkers:\n")), valid(LEAST));
}

#[test]
fn contradictions_are_refused() {
    let data = |sources: &str, rest: &str| {
        problems(&format!("model: {{base: m}}\ndata: {{train: [{sources}]{rest}}}\n"))[0].clone()
    };
    assert_eq!(
        data("{source: a, repeat: 2, share: 1}", ""),
        "`data.train[0]` has both `repeat` (2) and `share` (1)"
    );
    assert_eq!(
        data("{source: a, share: 2}, {source: b}", ""),
        "`data.train[1].share` is missing, although another source has one"
    );
    assert_eq!(
        data("{source: a}", ", eval: {holdout: 0.1, sources: [{source: b}]}"),
        "`data.eval` has both `holdout` (0.1) and `sources`"
    );
    assert_eq!(
        data("{source: a, format: text, fields: {txt: body}}", ""),
        "unknown key `data.train[0].fields.txt`"
    );
    assert_eq!(
        data("{source: a, format: text, system: Hello}", ""),
        "`data.train[0].system` cannot be used with `format: text`, which has no messages"
    );
    assert_eq!(
        data("{source: a, format: alpaca, roles: {user: [x]}}", ""),
        "`data.train[0].roles` cannot be used with a format that has no messages"
    );
    assert_eq!(
        data("{source: a, roles: {user: [x], assistant: [y, x]}}", ""),
        "`data.train[0].roles` has `x` under `user` and under `assistant`"
    );
    assert_eq!(
        data("{source: a, roles: {asistant: [x]}}", ""),
        "unknown key `data.train[0].roles.asistant`"
    );
    assert_eq!(
        data("{source: a, format: messages, fields: {value: x}}", ""),
        "unknown key `data.train[0].fields.value`"
    );
    let model = |model: &str| {
        problems(&format!("model: {{base: m, {model}}}\ndata: {{train: [{{source: a}}]}}\n"))
    };
    assert_eq!(model("add_tokens: [a, b, a]")[0], "`model.add_tokens[2]` repeats `a`");
    assert_eq!(
        model("add_tokens: ['<a> ']")[0],
        "`model.add_tokens[0]` must be a text without white space at either end, got `<a> `"
    );
    let hint = "hint: write `model.add_tokens: [\"<|user|>\"]` for tokens that the tokenizer lacks";
    assert_eq!(model("special_tokens: [a]")[1], hint);
    assert_eq!(
        data("{source: a}", ", eval: {every: 50}"),
        "`data.eval` says when to evaluate, but not on what"
    );
    assert_eq!(
        data("{source: a}", ", train_on: all, turns: each"),
        "`data.turns` must be `whole` with `train_on: all`, which would train each turn again \
         with every later one, got `each`"
    );
    assert_eq!(
        data("{source: a}", ", chat_template: chatlm"),
        "`data.chat_template` must be `tokenizer`, `chatml`, `alpaca` or a `.jinja` file, \
         got `chatlm`"
    );
    assert_eq!(
        problems(&format!("{LEAST}workers: {{min: 9, max: 2}}\n"))[0],
        "`workers.min` must not be above `workers.max` (2), got 9"
    );
}
