//! Parses drafts and resolves them to specs: makes paths absolute and refuses contradictions.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use chrono::NaiveDate;

use super::draft::{self, Draft};
use super::error::{Error, Problem};
use super::hub::{HubName, Kind};
use super::location::Location;
use super::quality::{Check, Quality};
use super::value::{EvalEvery, Format, MicroBatch, Train, TrainOn, Turns};
use super::{
    Amount, ChatTemplate, Data, Eval, EvalOn, Model, Source, Spec, Workers, bytes, check, keys,
    yaml,
};

/// The name of a run without a name, if its spec was not read from a file.
const DEFAULT_NAME: &str = "run";
const MAX_NAME: usize = 52;
const DEFAULT_MAX_WORKERS: u32 = 8;
/// The finished model is copied, and S3 copies at most 5 GB in one request.
const SHARD_BYTES: RangeInclusive<u64> = 1_000..=5_000_000_000;

impl Draft {
    /// Derives a missing run name from the name of the spec file.
    pub(super) fn named_after(mut self, file: &str) -> Draft {
        let stem = Path::new(file).file_stem().map(|stem| slug(&stem.to_string_lossy()));
        self.name = self.name.or(stem.filter(|stem| !stem.is_empty()));
        self
    }

    /// Parses YAML and validates it against the schema.
    ///
    /// # Errors
    /// Invalid YAML, or the list of all unknown keys, missing keys, and values of the wrong type or size.
    pub fn parse(text: &str) -> Result<Draft, Error> {
        let mut problems = Vec::new();
        let mut value = yaml::read(text, &mut problems)?;
        check::check(&mut value, &mut problems);
        if !problems.is_empty() {
            return Err(Error::Invalid(problems));
        }
        serde_path_to_error::deserialize(value).map_err(|error| {
            let field = error.path().to_string();
            Error::invalid(Problem::new(field, format!("is invalid: {}", error.inner())))
        })
    }

    /// Converts the draft to a valid spec. Relative paths start at `folder`, the folder of the spec.
    ///
    /// # Errors
    /// The list of all values that are outside their limits or contradict another value.
    pub fn resolve(&self, folder: &Location) -> Result<Spec, Error> {
        let mut resolver = Resolver { folder, problems: Vec::new() };
        // The draft may have been changed since it was parsed.
        let mut value = serde_json::to_value(self).expect("a draft is plain JSON");
        check::check(&mut value, &mut resolver.problems);
        let spec = resolver.spec(self);
        match spec {
            Some(spec) if resolver.problems.is_empty() => Ok(spec),
            _ => Err(Error::Invalid(resolver.problems)),
        }
    }
}

/// Resolves each part of a draft and collects the problems. A part with a problem may resolve to `None`.
struct Resolver<'a> {
    folder: &'a Location,
    problems: Vec<Problem>,
}

impl Resolver<'_> {
    fn spec(&mut self, draft: &Draft) -> Option<Spec> {
        let name = draft.name.as_deref().unwrap_or(DEFAULT_NAME);
        if name != slug(name) {
            let wanted = "must be lower-case letters, digits and single `-`";
            let hint = match slug(name).as_str() {
                "" => "write `name: my-run`".into(),
                slug => format!("write `name: {slug}`"),
            };
            self.refuse(Problem::new("name", format!("{wanted}, got `{name}`")).hint(hint));
        }
        let model = self.model(&draft.model);
        let data = self.data(&draft.data);
        self.train(&draft.train);
        let workers = self.workers(&draft.workers);
        let output = self.location("output", &draft.output);
        let writable = match &output {
            Some(Location::Url { scheme, .. }) => scheme.is_writable(),
            Some(Location::Hub(_)) => false,
            Some(Location::File(_)) | None => true,
        };
        if !writable {
            let what = format!("must be writable, got `{}`", draft.output);
            self.refuse(
                Problem::new("output", what).hint("write a folder or `s3://bucket/prefix`"),
            );
        }
        Some(Spec {
            name: name.to_owned(),
            model: model?,
            data: data?,
            train: draft.train.clone(),
            workers,
            ring: draft.ring.clone(),
            checkpoint: draft.checkpoint.clone(),
            output: output?,
        })
    }

    fn model(&mut self, draft: &draft::Model) -> Option<Model> {
        let base = self.location("model.base", &draft.base)?;
        self.check_base(&base);
        Some(Model {
            base,
            init: draft.init,
            dtype: draft.dtype,
            save_dtype: draft.save_dtype,
            max_shard_bytes: self.max_shard_bytes(&draft.max_shard_size)?,
            add_tokens: self.add_tokens(&draft.add_tokens),
            adapter: draft.adapter.clone(),
        })
    }

    fn max_shard_bytes(&mut self, text: &str) -> Option<u64> {
        let bytes = bytes::parse(text).filter(|b| SHARD_BYTES.contains(b));
        if bytes.is_none() {
            let what = format!("must be a size from 1KB to 5GB, got `{text}`");
            let hint = "write a number and a unit: `2GB`, `512MiB`";
            self.refuse(Problem::new("model.max_shard_size", what).hint(hint));
        }
        bytes
    }

    fn add_tokens(&mut self, tokens: &[String]) -> Vec<String> {
        for (index, token) in tokens.iter().enumerate() {
            let field = format!("model.add_tokens[{index}]");
            if token.trim() != token || token.is_empty() {
                let what =
                    format!("must be a text without white space at either end, got `{token}`");
                self.refuse(Problem::new(field, what));
            } else if tokens[..index].contains(token) {
                self.refuse(Problem::new(field, format!("repeats `{token}`")));
            }
        }
        tokens.to_vec()
    }

    /// Refuses a base that is not a folder or cannot be listed like one.
    fn check_base(&mut self, base: &Location) {
        let (what, hint) = match base {
            Location::File(_) => return,
            Location::Url { scheme, .. } if scheme.is_listed() => return,
            Location::Hub(HubName { kind: Kind::Model, path, .. }) if path.is_empty() => return,
            Location::Url { .. } => {
                ("a web server's files cannot be listed", "download it, and write the folder")
            }
            Location::Hub(HubName { kind: Kind::Dataset, .. }) => {
                ("that is a data set", "a model is `hf://owner/name`")
            }
            Location::Hub(HubName { kind: Kind::Model, .. }) => {
                ("a model is a whole repository", "write `hf://owner/name[@revision]`")
            }
        };
        let problem = Problem::new("model.base", format!("cannot be `{base}`: {what}"));
        self.refuse(problem.hint(hint));
    }

    fn data(&mut self, draft: &draft::Data) -> Option<Data> {
        let train = self.sources("data.train", &draft.train);
        if let Some(without) = draft.train.iter().position(|s| s.share.is_none())
            && draft.train.iter().any(|s| s.share.is_some())
        {
            let field = format!("data.train[{without}].share");
            let what = "is missing, although another source has one";
            self.refuse(Problem::new(field, what).hint("give every source a `share`, or none"));
        }
        let eval = self.eval(&draft.eval);
        let quality = self.quality(&draft.quality);
        let chat_template = self.chat_template(&draft.chat_template);
        if draft.turns == Turns::Each && draft.train_on == TrainOn::All {
            let what = "must be `whole` with `train_on: all`, which would train each turn again \
                        with every later one, got `each`";
            self.refuse(Problem::new("data.turns", what).hint("write `train_on: assistant`"));
        }
        let date = draft.date.as_deref().and_then(|text| self.date(text));
        Some(Data {
            train: train?,
            eval: eval?,
            quality: quality?,
            max_tokens: draft.max_tokens,
            too_long: draft.too_long,
            broken_end: draft.broken_end,
            media: draft.media,
            left_out: draft.left_out,
            control_tokens: draft.control_tokens,
            think: draft.think,
            max_dropped: draft.max_dropped,
            train_on: draft.train_on,
            turns: draft.turns,
            chat_template: chat_template?,
            chat_template_kwargs: draft.chat_template_kwargs.clone(),
            date,
        })
    }

    fn sources(&mut self, field: &str, drafts: &[draft::Source]) -> Option<Vec<Source>> {
        let sources: Vec<Option<Source>> = drafts
            .iter()
            .enumerate()
            .map(|(index, draft)| self.source(&format!("{field}[{index}]"), draft))
            .collect();
        sources.into_iter().collect()
    }

    fn source(&mut self, field: &str, draft: &draft::Source) -> Option<Source> {
        let amount = match (draft.repeat, draft.share) {
            (repeat, None) => Amount::Repeat(repeat.unwrap_or(1.0)),
            (None, Some(share)) => Amount::Share(share),
            (Some(repeat), Some(share)) => {
                let what = format!("has both `repeat` ({repeat}) and `share` ({share})");
                self.refuse(Problem::new(field, what).hint("keep one of them"));
                return None;
            }
        };
        if draft.format == Format::Text && draft.system.is_some() {
            let what = "cannot be used with `format: text`, which has no messages";
            let problem = Problem::new(format!("{field}.system"), what);
            self.refuse(problem.hint("leave it out"));
        }
        let known = draft.format.fields();
        for name in draft.fields.keys().filter(|n| !known.contains(&n.as_str())) {
            let hint = match keys::nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("this format has {}", quoted(&known)),
            };
            self.refuse(Problem::unknown_key(format!("{field}.fields.{name}"), hint));
        }
        self.roles(field, draft);
        let location = self.location(&format!("{field}.source"), &draft.source)?;
        if let Location::Hub(name @ HubName { kind: Kind::Model, .. }) = &location {
            let what = format!("names a model: `{location}`");
            let problem = Problem::new(format!("{field}.source"), what);
            self.refuse(problem.hint(format!("a data set is `hf://datasets/{name}`")));
        }
        Some(Source {
            location,
            format: draft.format,
            amount,
            fields: draft.fields.clone(),
            roles: draft.roles.clone(),
            system: draft.system.clone(),
        })
    }

    fn roles(&mut self, field: &str, draft: &draft::Source) {
        if !draft.roles.is_empty() && !draft.format.has_roles() {
            let what = "cannot be used with a format that has no messages";
            self.refuse(Problem::new(format!("{field}.roles"), what).hint("leave it out"));
        }
        let mut keys = BTreeMap::new();
        for (key, name) in draft.roles.names() {
            if let Some(other) = keys.insert(name, key) {
                let what = format!("has `{name}` under `{other}` and under `{key}`");
                self.refuse(Problem::new(format!("{field}.roles"), what).hint("keep one of them"));
            }
        }
    }

    fn eval(&mut self, draft: &draft::Eval) -> Option<Eval> {
        let on = match (draft.holdout, &draft.sources) {
            (Some(holdout), Some(_)) if holdout > 0.0 => {
                let what = format!("has both `holdout` ({holdout}) and `sources`");
                self.refuse(Problem::new("data.eval", what).hint("keep one of them"));
                return None;
            }
            (_, Some(sources)) => {
                self.refuse_amounts("data.eval.sources", sources, "is evaluated exactly once");
                EvalOn::Sources(self.sources("data.eval.sources", sources)?)
            }
            (Some(share), None) if share > 0.0 => EvalOn::Holdout(share),
            (None, None) if draft.every != EvalEvery::Checkpoint || !draft.at_start => {
                let what = "says when to evaluate, but not on what";
                let hint = "add `holdout: 0.02`, or `sources: [{source: ./file.jsonl}]`";
                self.refuse(Problem::new("data.eval", what).hint(hint));
                return None;
            }
            (_, None) => EvalOn::Nothing,
        };
        Some(Eval { on, every: draft.every, at_start: draft.at_start })
    }

    fn quality(&mut self, draft: &Quality<draft::Source>) -> Option<Quality<Source>> {
        let field = "data.quality.benchmarks";
        self.refuse_amounts(field, &draft.benchmarks, "is never trained");
        if draft.contamination == Check::Off && !draft.benchmarks.is_empty() {
            let what = "has no effect, because `contamination` is `off`";
            let hint = "write `contamination: report` or `filter`, or leave `benchmarks` out";
            self.refuse(Problem::new(field, what).hint(hint));
        }
        let benchmarks = self.sources(field, &draft.benchmarks)?;
        Some(draft.with_benchmarks(benchmarks))
    }

    /// Refuses `repeat` and `share` of sources that are not trained.
    fn refuse_amounts(&mut self, field: &str, sources: &[draft::Source], but: &str) {
        for (index, source) in sources.iter().enumerate() {
            if source.share.is_some() || source.repeat.is_some_and(|repeat| repeat != 1.0) {
                let what = format!("has a `repeat` or `share`, but {but}");
                let problem = Problem::new(format!("{field}[{index}]"), what);
                self.refuse(problem.hint("leave it out"));
            }
        }
    }

    fn chat_template(&mut self, text: &str) -> Option<ChatTemplate> {
        let names = ["tokenizer", "chatml", "alpaca"];
        match text {
            "tokenizer" => Some(ChatTemplate::Tokenizer),
            "chatml" => Some(ChatTemplate::Chatml),
            "alpaca" => Some(ChatTemplate::Alpaca),
            file if file.ends_with(".jinja") => {
                let location = self.location("data.chat_template", file)?;
                Some(ChatTemplate::File(location))
            }
            other => {
                let what = format!("must be {} or a `.jinja` file, got `{other}`", quoted(&names));
                let problem = Problem::new("data.chat_template", what);
                let near = keys::nearest(other, names.into_iter());
                self.refuse(match near {
                    Some(near) => problem.hint(format!("did you mean `{near}`?")),
                    None => problem.hint("write the template to a file that ends in `.jinja`"),
                });
                None
            }
        }
    }

    fn date(&mut self, text: &str) -> Option<NaiveDate> {
        let date = text.parse().ok();
        if date.is_none() {
            let what = format!("must be a date such as `2026-11-21`, got `{text}`");
            let hint = "leave it out to use the day on which the run is submitted";
            self.refuse(Problem::new("data.date", what).hint(hint));
        }
        date
    }

    fn train(&mut self, train: &Train) {
        let schedule = &train.schedule;
        if schedule.warmup >= 1.0 && schedule.warmup.fract() != 0.0 {
            let what = format!(
                "must be a share below 1 or a whole number of steps, got {}",
                schedule.warmup
            );
            self.refuse(Problem::new("train.schedule.warmup", what));
        }
        if schedule.min_lr > train.learning_rate {
            let what = format!(
                "must not be above `train.learning_rate` ({}), got {}",
                train.learning_rate, schedule.min_lr
            );
            self.refuse(Problem::new("train.schedule.min_lr", what));
        }
        if let MicroBatch::Packs(packs) = train.micro_batch
            && packs > train.global_batch
        {
            let what = format!(
                "must not be above `train.global_batch` ({}), got {packs}",
                train.global_batch
            );
            self.refuse(Problem::new("train.micro_batch", what).hint("write `micro_batch: auto`"));
        }
    }

    fn workers(&mut self, draft: &draft::Workers) -> Workers {
        let min = draft.min.unwrap_or(1);
        let max = draft.max.unwrap_or(DEFAULT_MAX_WORKERS.max(min));
        if min > max {
            let what = format!("must not be above `workers.max` ({max}), got {min}");
            self.refuse(Problem::new("workers.min", what));
        }
        Workers { min, max }
    }

    fn location(&mut self, field: &str, text: &str) -> Option<Location> {
        match Location::parse_in(text, self.folder) {
            Ok(location) => Some(location),
            Err(error) => {
                let problem = Problem::new(field, format!("cannot be used: {error}"));
                self.refuse(problem.hint(error.hint()));
                None
            }
        }
    }

    fn refuse(&mut self, problem: Problem) {
        // The schema check may have reported this field already, for example as empty.
        if !self.problems.iter().any(|known| known.field == problem.field) {
            self.problems.push(problem);
        }
    }
}

/// The text as a run name: lower-case letters and digits, with single `-` between them.
fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.to_lowercase().chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(MAX_NAME);
    slug.trim_end_matches('-').to_owned()
}

fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}
