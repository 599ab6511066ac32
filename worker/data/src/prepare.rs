//! Turns records into samples and counts, in parallel over records.

mod sample;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use proto::prepared::{Sample, Unit};
use proto::receipt::{Counts, Example, Place, Reason};
use proto::spec::{BrokenEnd, ControlTokens, LeftOut, Media, TooLong};
use rayon::prelude::*;

use self::sample::Made;
use super::chats::Chats;
use super::control::Controls;
use super::detect::Detection;
use super::encode::Encoder;
use super::error::PrepareError;
use super::folder::{DEFAULT, Folder};
use super::options::{ChatTemplate, Options, SourceOptions};
use super::prepared::PreparedRecord;
use super::read::Raw;
use super::record::{Reject, Shape};
use super::template::{ALPACA, CHATML, Template};
use super::tokenize::Tokenizer;
use super::vocabulary::{Grown, NewToken};

/// The outcome of preparing a whole object.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The eligible records, in the order of the object.
    pub records: Vec<PreparedRecord>,
    /// The unit in which samples' positions count.
    pub unit: Unit,
    /// Counts that account for every record.
    pub counts: Counts,
    /// The format and why it was chosen; none if the object has no records.
    pub detection: Option<Detection>,
}

/// A tokenizer and a template, loaded once for all sources of a run.
#[derive(Debug)]
pub struct Preparer {
    encoder: Encoder,
    grown: Option<Grown>,
    chats: Chats,
    controls: Controls,
    /// A tokenizer that does not know the special tokens as such, for conversations in which their
    /// texts must stay text.
    plain: Option<Tokenizer>,
    options: Options,
    stop_ids: Vec<u32>,
}

impl Prepared {
    /// All records' samples.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.records.iter().flat_map(|record| &record.samples)
    }
}

impl Preparer {
    /// Loads the tokenizer and the template.
    ///
    /// # Errors
    /// A tokenizer or a template that cannot be used. A missing template is an error only once a
    /// source needs it.
    pub fn new(folder: &Folder, options: Options) -> Result<Preparer, PrepareError> {
        if options.max_tokens < 2 {
            return Err(PrepareError::MaxTokens(options.max_tokens));
        }
        let mut encoder = Encoder::new(folder).map_err(PrepareError::Tokenizer)?;
        let wanted = options.special_tokens();
        let own = folder.added_tokens();
        let grown = Grown::new(&folder.tokenizer, encoder.tokenizer(), own, &wanted);
        let grown = grown.map_err(PrepareError::AddTokens)?;
        let mut folder = Cow::Borrowed(folder);
        if let Some(grown) = &grown {
            folder.to_mut().tokenizer.clone_from(&grown.file);
            encoder = Encoder::new(&folder).map_err(PrepareError::Tokenizer)?;
        }
        let folder = folder.as_ref();
        let templates = match &options.chat_template {
            ChatTemplate::Tokenizer => folder.chat_templates(),
            ChatTemplate::Chatml => [(DEFAULT, CHATML)].into(),
            ChatTemplate::Alpaca => [(DEFAULT, ALPACA)].into(),
            ChatTemplate::Jinja(source) => [(DEFAULT, source.as_str())].into(),
        };
        let mut globals = folder.special_tokens();
        globals.extend(options.template_kwargs.clone());
        let chats = Chats::new(&templates, &globals, options.date)?;
        let controls = Controls::new(encoder.special_texts());
        let controls = controls.map_err(|error| PrepareError::Tokenizer(error.into()))?;
        let plain = (options.control_tokens == ControlTokens::Escape).then(|| {
            let renamed = controls.renamed(&folder.tokenizer)?;
            Tokenizer::new(&renamed)
        });
        let plain = plain.transpose().map_err(PrepareError::Tokenizer)?;
        let mut preparer = Preparer {
            encoder,
            grown,
            chats,
            controls,
            plain,
            options,
            stop_ids: folder.stop_ids(),
        };
        preparer.stop_ids.extend(preparer.encoder.eos());
        preparer.stop_ids.extend(preparer.template_stop());
        preparer.stop_ids.sort_unstable();
        preparer.stop_ids.dedup();
        Ok(preparer)
    }

    /// The tokenizer, for prompts and for showing samples.
    pub fn tokenizer(&self) -> &tokenizers::Tokenizer {
        self.encoder.tokenizer()
    }

    /// The special tokens that samples need and the base's tokenizer lacks.
    pub fn new_tokens(&self) -> &[NewToken] {
        self.grown.as_ref().map_or(&[], |grown| &grown.tokens)
    }

    /// `tokenizer.json` with the new tokens, if there are any.
    pub fn grown_tokenizer(&self) -> Option<&[u8]> {
        self.grown.as_ref().map(|grown| grown.file.as_slice())
    }

    /// The chat template if it is not the base's own: a tuned model has to ship it.
    pub fn own_template(&self) -> Option<&str> {
        match self.options.chat_template {
            ChatTemplate::Tokenizer => None,
            ChatTemplate::Chatml | ChatTemplate::Alpaca | ChatTemplate::Jinja(_) => {
                self.chats.default().map(Template::plain)
            }
        }
    }

    /// The chat template for conversations without tools, if there is one.
    pub fn template(&self) -> Option<&Template> {
        self.chats.default()
    }

    /// The ids at which generation should stop: the base's stop ids, and the token that ends an
    /// answer in this template.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Prepares a whole object that is in memory.
    ///
    /// # Errors
    /// Objects that cannot be read at all; a bad record is only counted. With `too_long: fail`, the
    /// first record that is too long.
    pub fn prepare(
        &self,
        object: &str,
        bytes: &[u8],
        source: &SourceOptions,
    ) -> Result<Prepared, PrepareError> {
        let size = bytes.len() as u64;
        let bytes = Arc::new(Bytes::copy_from_slice(bytes));
        let mut preparation = self.open(object, bytes, 0..size, source)?;
        let (mut records, mut counts) = (Vec::new(), Counts::default());
        for made in &mut preparation {
            let (of_block, counts_of_block) = made?;
            records.extend(of_block);
            counts.merge(counts_of_block);
        }
        let (unit, detection) = (preparation.unit(), preparation.detection().cloned());
        Ok(Prepared { records, unit, counts, detection })
    }

    pub(super) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    pub(super) fn media(&self) -> Media {
        self.options.media
    }

    pub(super) fn max_tokens(&self) -> usize {
        self.options.max_tokens
    }

    /// Prepares records whose format is known.
    ///
    /// # Errors
    /// A missing template or end token that the format needs; a record that is too long, with
    /// `too_long: fail`.
    pub(super) fn records(
        &self,
        object: &str,
        raws: Vec<Raw<'_>>,
        shape: &Shape,
    ) -> Result<(Vec<PreparedRecord>, Counts), PrepareError> {
        if raws.is_empty() {
            return Ok(Default::default());
        }
        if shape.needs_template() && self.chats.any().is_none() {
            return Err(self.chats.missing());
        }
        let make = |raw: Raw<'_>| {
            let Raw { place, body, swallowed } = raw;
            let made = shape.parse(body);
            let made = made.and_then(|parsed| self.sample(parsed, place.position()));
            (place, swallowed, made)
        };
        let made: Vec<(Place, u64, Result<Made, Reject>)> =
            raws.into_par_iter().map(make).collect();
        let mut records = Vec::with_capacity(made.len());
        let mut counts = Counts::default();
        for (place, swallowed, made) in made {
            let example = |reason: &str| Example {
                object: object.to_owned(),
                place,
                reason: reason.to_owned(),
            };
            match made {
                Err(reject) => {
                    self.may_drop(&reject, object, place)?;
                    counts.drop_record(reject.reason, example(&reject.detail), reject.tokens_lost);
                }
                Ok(made) => {
                    counts.read += 1;
                    counts.eligible += 1;
                    if made.tokens_cut > 0 {
                        let cut = format!("{} tokens cut off", made.tokens_cut);
                        counts.truncated.count(example(&cut), made.tokens_cut);
                    }
                    if swallowed > 0 {
                        let found = format!(
                            "a quoted cell holds {swallowed} lines that look like rows: is a quote \
                             missing, or one too many?"
                        );
                        counts.find(Reason::SwallowedRows, example(&found));
                    }
                    for (reason, note) in &made.notes {
                        counts.find(*reason, example(note));
                    }
                    made.unread.iter().for_each(|name| counts.unread.add(name));
                    counts.add_samples(&made.record.samples);
                    records.push(made.record);
                }
            }
        }
        Ok((records, counts))
    }

    fn must_fail(&self, reject: &Reject) -> bool {
        match reject.reason {
            Reason::TooLong => self.options.too_long == TooLong::Fail,
            Reason::BrokenEnd => self.options.broken_end == BrokenEnd::Fail,
            Reason::LeftOut => self.options.left_out == LeftOut::Fail,
            _ => false,
        }
    }

    /// Checks that the run may continue without a record.
    ///
    /// # Errors
    /// The spec says that it must not.
    pub(super) fn may_drop(
        &self,
        reject: &Reject,
        object: &str,
        place: Place,
    ) -> Result<(), PrepareError> {
        if !self.must_fail(reject) {
            return Ok(());
        }
        let object = object.to_owned();
        Err(match reject.reason {
            Reason::BrokenEnd => {
                PrepareError::BrokenEnd { object, place, reason: reject.detail.clone() }
            }
            Reason::LeftOut => {
                PrepareError::LeftOut { object, place, reason: reject.detail.clone() }
            }
            _ => PrepareError::TooLong {
                object,
                place,
                tokens: reject.tokens_lost,
                max_tokens: self.options.max_tokens,
            },
        })
    }
}
