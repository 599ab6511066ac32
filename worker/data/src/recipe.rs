//! The fingerprint of a prepared data set: one digest of everything that determines its tokens.
//!
//! Two runs with equal fingerprints share their prepared shards. The digest covers all that a
//! [`Preparer`](super::Preparer) is given, as JSON. So a new option is covered as soon as it
//! exists, and renaming a Rust variant changes nothing as long as its serde name stays the same.

use bytes::Bytes;
use proto::prepared::FORMAT_VERSION;
use proto::protocol::RawShard;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::hex::hex;
use super::options::{ChatTemplate, Options, SourceOptions};

/// Raise this with every change that makes equal input and options give different tokens or
/// weights. All data sets are then prepared again.
const RECIPE_VERSION: u32 = 3;

/// The length of a fingerprint in bytes; as text it has twice as many characters.
const FINGERPRINT: usize = 16;

/// Everything that determines the tokens of a data set.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// All raw shards, in order.
    pub shards: &'a [RawShard],
    /// The contents of the base's [`Folder::FILES`](super::Folder::FILES); a missing file is empty.
    pub tokenizer: &'a [Bytes],
    /// The run's options.
    pub options: &'a Options,
    /// Each source's options; a shard's `source` is an index into them.
    pub sources: &'a [SourceOptions],
}

impl Recipe<'_> {
    /// The data set's name: 32 characters of lower-case hex.
    pub fn fingerprint(&self) -> String {
        let mut options = self.options.clone();
        if !self.asks_for_the_date() {
            // Otherwise every data set would be prepared again every day.
            options.date = Default::default();
        }
        let shard = |s: &RawShard| {
            let RawShard { index: _, source, url, bytes, etag, modified_ms, range } = s;
            serde_json::json!([source, url, bytes, etag, modified_ms, range.start, range.end])
        };
        let shards: Vec<_> = self.shards.iter().map(shard).collect();
        let mut digest = Sha256::new();
        let mut add = |part: &[u8]| {
            // Each part is preceded by its length, so that two different lists never give the same
            // bytes.
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        };
        add(&json(&(RECIPE_VERSION, FORMAT_VERSION)));
        add(&json(&shards));
        self.tokenizer.iter().for_each(|file| add(file));
        add(&json(&options));
        add(&json(&self.sources));
        hex(&digest.finalize()[..FINGERPRINT])
    }

    /// Whether the chat template calls `strftime_now`.
    fn asks_for_the_date(&self) -> bool {
        match &self.options.chat_template {
            ChatTemplate::Tokenizer => self.tokenizer.iter().any(|file| asks(file)),
            ChatTemplate::Jinja(template) => asks(template.as_bytes()),
            ChatTemplate::Chatml | ChatTemplate::Alpaca => false,
        }
    }
}

fn asks(text: &[u8]) -> bool {
    memchr::memmem::find(text, b"strftime_now").is_some()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data is JSON")
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;
    use proto::spec::{
        BrokenEnd, ControlTokens, Format, LeftOut, Media, Think, TooLong, TrainOn, Turns,
    };
    use serde_json::json;

    use super::*;
    use crate::Role;

    const DATED: &[u8] = br#"{"chat_template": "{{ strftime_now('%Y') }}"}"#;

    fn day(day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 11, day).expect("a day of November")
    }

    fn shard() -> RawShard {
        RawShard {
            index: 0,
            source: 0,
            url: "s3://bucket/a.jsonl".into(),
            bytes: 9,
            etag: Some("\"e\"".into()),
            modified_ms: 7,
            range: 0..9,
        }
    }

    fn name(shard: RawShard, tokenizer: &[u8], options: &Options, source: SourceOptions) -> String {
        let tokenizer = [Bytes::copy_from_slice(tokenizer)];
        let recipe =
            Recipe { shards: &[shard], tokenizer: &tokenizer, options, sources: &[source] };
        recipe.fingerprint()
    }

    /// A new value here makes every user prepare their data sets again. It may change with
    /// [`RECIPE_VERSION`] or [`FORMAT_VERSION`], or when an option is added. In all other cases, a
    /// field was renamed or moved by mistake.
    #[test]
    fn the_fingerprint_of_a_known_data_set_stays() {
        let serde_json::Value::Object(template_kwargs) = json!({"enable_thinking": false}) else {
            unreachable!("an object is written above");
        };
        let options = Options {
            max_tokens: 2048,
            too_long: TooLong::Truncate,
            broken_end: BrokenEnd::Keep,
            media: Media::Text,
            left_out: LeftOut::Drop,
            control_tokens: ControlTokens::Escape,
            think: Think::Train,
            train_on: TrainOn::Last,
            turns: Turns::Each,
            chat_template: ChatTemplate::Jinja("{{ strftime_now('%d') }}".into()),
            add_tokens: vec!["<|user|>".into()],
            template_kwargs,
            date: day(21),
        };
        let source = SourceOptions {
            format: Format::Sharegpt,
            fields: [("from".to_owned(), "speaker".to_owned())].into(),
            roles: [("bot".to_owned(), Role::Assistant)].into(),
            system: Some("Be brief.".into()),
        };
        let name = name(shard(), b"{}", &options, source);
        assert_eq!(name, "3b81e2667cba8a45667008d310c44da9");
    }

    #[test]
    fn everything_that_changes_tokens_changes_the_fingerprint() {
        let options = Options::default();
        let plain = |options: &Options| name(shard(), b"{}", options, SourceOptions::default());
        let of_shard = |shard| name(shard, b"{}", &options, SourceOptions::default());
        let of_source = |source| name(shard(), b"{}", &options, source);
        let names = [
            plain(&options),
            plain(&Options { max_tokens: 7, ..options.clone() }),
            plain(&Options { too_long: TooLong::Fail, ..options.clone() }),
            plain(&Options { broken_end: BrokenEnd::Keep, ..options.clone() }),
            plain(&Options { media: Media::Text, ..options.clone() }),
            plain(&Options { think: Think::Train, ..options.clone() }),
            plain(&Options { left_out: LeftOut::Drop, ..options.clone() }),
            plain(&Options { control_tokens: ControlTokens::Escape, ..options.clone() }),
            plain(&Options { train_on: TrainOn::All, ..options.clone() }),
            plain(&Options { turns: Turns::Each, ..options.clone() }),
            plain(&Options { chat_template: ChatTemplate::Chatml, ..options.clone() }),
            plain(&Options { chat_template: ChatTemplate::Jinja("a".into()), ..options.clone() }),
            plain(&Options { chat_template: ChatTemplate::Jinja("b".into()), ..options.clone() }),
            plain(&Options { add_tokens: vec!["<a>".into()], ..options.clone() }),
            name(shard(), b"{ }", &options, SourceOptions::default()),
            of_shard(RawShard { source: 1, ..shard() }),
            of_shard(RawShard { url: "s3://bucket/b.jsonl".into(), ..shard() }),
            of_shard(RawShard { bytes: 10, ..shard() }),
            of_shard(RawShard { etag: None, ..shard() }),
            of_shard(RawShard { modified_ms: 8, ..shard() }),
            of_shard(RawShard { range: 0..8, ..shard() }),
            of_source(SourceOptions { format: Format::Text, ..SourceOptions::default() }),
            of_source(SourceOptions { system: Some("S".into()), ..SourceOptions::default() }),
        ];
        for (i, name) in names.iter().enumerate() {
            assert!(!names[i + 1..].contains(name), "{i}");
        }
        assert_eq!(plain(&options), names[0]);
    }

    #[test]
    fn the_day_counts_where_the_template_asks_for_it() {
        let changes = |tokenizer: &[u8], chat_template: ChatTemplate| {
            let on = |day| {
                let options = Options {
                    chat_template: chat_template.clone(),
                    date: day,
                    ..Options::default()
                };
                name(shard(), tokenizer, &options, SourceOptions::default())
            };
            on(day(21)) != on(day(22))
        };
        assert!(changes(DATED, ChatTemplate::Tokenizer));
        assert!(changes(b"{}", ChatTemplate::Jinja("{{ strftime_now('%d') }}".into())));
        assert!(!changes(b"{}", ChatTemplate::Tokenizer));
        assert!(!changes(DATED, ChatTemplate::Chatml));
        assert!(!changes(DATED, ChatTemplate::Jinja("{{ messages }}".into())));
    }
}
