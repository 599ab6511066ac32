//! Converts a spec back to a draft in which every value is written out.

use super::draft::{self, Draft};
use super::{Amount, ChatTemplate, EvalOn, Source, Spec, bytes};

impl From<&Spec> for Draft {
    fn from(spec: &Spec) -> Draft {
        let Spec { model, data, workers, .. } = spec;
        let (holdout, sources) = match &data.eval.on {
            EvalOn::Nothing => (Some(0.0), None),
            EvalOn::Holdout(share) => (Some(*share), None),
            EvalOn::Sources(sources) => (None, Some(sources.iter().map(source).collect())),
        };
        Draft {
            name: Some(spec.name.clone()),
            model: draft::Model {
                base: model.base.to_string(),
                init: model.init,
                dtype: model.dtype,
                save_dtype: model.save_dtype,
                max_shard_size: bytes::write(model.max_shard_bytes),
                add_tokens: model.add_tokens.clone(),
                adapter: model.adapter.clone(),
            },
            data: draft::Data {
                train: data.train.iter().map(source).collect(),
                eval: draft::Eval {
                    holdout,
                    sources,
                    every: data.eval.every,
                    at_start: data.eval.at_start,
                },
                quality: data
                    .quality
                    .with_benchmarks(data.quality.benchmarks.iter().map(source).collect()),
                max_tokens: data.max_tokens,
                too_long: data.too_long,
                broken_end: data.broken_end,
                media: data.media,
                left_out: data.left_out,
                control_tokens: data.control_tokens,
                think: data.think,
                max_dropped: data.max_dropped,
                train_on: data.train_on,
                turns: data.turns,
                chat_template: match &data.chat_template {
                    ChatTemplate::Tokenizer => "tokenizer".into(),
                    ChatTemplate::Chatml => "chatml".into(),
                    ChatTemplate::Alpaca => "alpaca".into(),
                    ChatTemplate::File(location) => location.to_string(),
                },
                chat_template_kwargs: data.chat_template_kwargs.clone(),
                date: data.date.map(|day| day.to_string()),
            },
            train: spec.train.clone(),
            workers: draft::Workers { min: Some(workers.min), max: Some(workers.max) },
            ring: spec.ring.clone(),
            checkpoint: spec.checkpoint.clone(),
            output: spec.output.to_string(),
        }
    }
}

fn source(source: &Source) -> draft::Source {
    let (repeat, share) = match source.amount {
        Amount::Repeat(repeat) => (Some(repeat), None),
        Amount::Share(share) => (None, Some(share)),
    };
    draft::Source {
        source: source.location.to_string(),
        format: source.format,
        repeat,
        share,
        fields: source.fields.clone(),
        roles: source.roles.clone(),
        system: source.system.clone(),
    }
}
