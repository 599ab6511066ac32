//! Records -> samples and counts: the whole way, in parallel over records.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use proto::prepared::{Features, Sample, Unit};
use proto::receipt::{Counts, Example, OF_MESSAGES, Place, Reason};
use proto::spec::{BrokenEnd, LeftOut, Media, Think, TooLong, TrainOn, Turns};
use rayon::prelude::*;

use super::calls::Calls;
use super::conversation::{Conversation, Message, Role};
use super::detect::Detection;
use super::document::chunks;
use super::encode::Encoder;
use super::error::PrepareError;
use super::folder::Folder;
use super::left_out::left_out;
use super::options::{ChatTemplate, Options, SourceOptions};
use super::quality::features;
use super::read::Raw;
use super::record::{Parsed, Record, Reject, Shape, says_something};
use super::spans::trained;
use super::template::{ALPACA, CHATML, Template};
use super::turns;
use super::vocabulary::{Grown, NewToken};

/// An eligible record, prepared.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedRecord {
    /// What the quality checks know of it.
    pub features: Features,
    /// One of a conversation, one of each chunk of a text; at least one.
    pub samples: Vec<Sample>,
}

/// What became of an object.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// In the order of the object.
    pub records: Vec<PreparedRecord>,
    /// What the samples' positions count.
    pub unit: Unit,
    /// Every record, accounted for.
    pub counts: Counts,
    /// The format and why; none where the object has no records.
    pub detection: Option<Detection>,
}

/// A tokenizer and a template, loaded once, for all sources of a run.
#[derive(Debug)]
pub struct Preparer {
    encoder: Encoder,
    grown: Option<Grown>,
    template: Option<Template>,
    calls: Calls,
    options: Options,
    stop_ids: Vec<u32>,
}

impl Prepared {
    /// All records' samples.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.records.iter().flat_map(|record| &record.samples)
    }
}

/// A record, how many tokens were cut off it, and what was seen of it.
struct Made {
    record: PreparedRecord,
    tokens_cut: u64,
    unread: Vec<String>,
    notes: Vec<(Reason, String)>,
}

impl Preparer {
    /// Loads tokenizer and template.
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
        let source = match &options.chat_template {
            ChatTemplate::Tokenizer => folder.chat_template(),
            ChatTemplate::Chatml => Some(CHATML),
            ChatTemplate::Alpaca => Some(ALPACA),
            ChatTemplate::Jinja(source) => Some(source.as_str()),
        };
        let mut globals = folder.special_tokens();
        globals.extend(options.template_kwargs.clone());
        let template = source.map(|source| Template::new(source, &globals, options.date));
        let template = template.transpose()?;
        let mut preparer = Preparer {
            calls: template.as_ref().map_or(Calls::Objects, Calls::of),
            encoder,
            grown,
            template,
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

    /// The special tokens that the base's tokenizer lacks, and that samples are made with.
    pub fn new_tokens(&self) -> &[NewToken] {
        self.grown.as_ref().map_or(&[], |grown| &grown.tokens)
    }

    /// `tokenizer.json` with them, where there are any.
    pub fn grown_tokenizer(&self) -> Option<&[u8]> {
        self.grown.as_ref().map(|grown| grown.file.as_slice())
    }

    /// The chat template where it is another than the base's: what a tuned model has to bring.
    pub fn own_template(&self) -> Option<&str> {
        match self.options.chat_template {
            ChatTemplate::Tokenizer => None,
            ChatTemplate::Chatml | ChatTemplate::Alpaca | ChatTemplate::Jinja(_) => {
                self.template.as_ref().map(Template::plain)
            }
        }
    }

    /// The chat template, if there is one.
    pub fn template(&self) -> Option<&Template> {
        self.template.as_ref()
    }

    /// Where generation should stop: the base's stop ids, and the token that ends an answer in this
    /// template.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Prepares an object that is in memory, as a whole.
    ///
    /// # Errors
    /// Objects that cannot be read at all; one bad record is only counted. `too_long: fail` stops
    /// at the first.
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

    /// Prepares records whose format is settled.
    ///
    /// # Errors
    /// A template or an end token that the format needs and that is not there; `too_long: fail`.
    pub(super) fn records(
        &self,
        object: &str,
        raws: Vec<Raw<'_>>,
        shape: &Shape,
    ) -> Result<(Vec<PreparedRecord>, Counts), PrepareError> {
        if raws.is_empty() {
            return Ok(Default::default());
        }
        if shape.needs_template() && self.template.is_none() {
            return Err(PrepareError::NoTemplate);
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

    /// Whether the run goes on without a record.
    ///
    /// # Errors
    /// Where the spec says that it must not.
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

    fn sample(&self, parsed: Parsed, position: u64) -> Result<Made, Reject> {
        let Parsed { record, mut unread, mut notes } = parsed;
        let missing = |error: PrepareError| Reject::new(Reason::Malformed, error.to_string());
        let hash = record.hash();
        let features = features(&record, hash);
        let (tokens, weights) = match record {
            Record::Conversation(conversation) => {
                // Its turns have the hash of the whole: they are held out, or trained, together.
                unread.extend(self.unread(&conversation));
                let place = (hash, position);
                let (samples, tokens_cut) = self.conversation(conversation, place, &mut notes)?;
                let record = PreparedRecord { features, samples };
                return Ok(Made { record, tokens_cut, unread, notes });
            }
            Record::Completion { prompt, completion } => {
                self.encoder.eos().ok_or_else(|| missing(PrepareError::NoEndToken))?;
                self.encoder.completion(&prompt, &completion)?
            }
            Record::Text(text) => {
                self.encoder.eos().ok_or_else(|| missing(PrepareError::NoEndToken))?;
                let tokens = self.encoder.text(&text)?;
                let samples = chunks(&tokens, self.options.max_tokens, position);
                let record = PreparedRecord { features, samples };
                return Ok(Made { record, tokens_cut: 0, unread, notes });
            }
        };
        let (sample, tokens_cut) = self.limit(Sample { tokens, weights, hash, position })?;
        let record = PreparedRecord { features, samples: vec![sample] };
        Ok(Made { record, tokens_cut, unread, notes })
    }

    /// The fields of its messages that the chat template does not ask for.
    fn unread(&self, conversation: &Conversation) -> BTreeSet<String> {
        let asks = |name: &str| self.template.as_ref().is_some_and(|t| t.asks_for(name));
        let fields = conversation.messages.iter().flat_map(|message| &message.fields);
        let unread = fields.filter(|(name, value)| says_something(value) && !asks(name));
        unread.map(|(name, _)| format!("{OF_MESSAGES}{name}")).collect()
    }

    /// A conversation's samples, and how many tokens were cut off them.
    fn conversation(
        &self,
        conversation: Conversation,
        (hash, position): (u64, u64),
        notes: &mut Vec<(Reason, String)>,
    ) -> Result<(Vec<Sample>, u64), Reject> {
        let missing = || Reject::new(Reason::Malformed, PrepareError::NoTemplate.to_string());
        let template = self.template.as_ref().ok_or_else(missing)?;
        let conversation = self.calls.fit(conversation)?;
        let (train_on, turns) = match (self.options.turns, self.options.train_on) {
            (Turns::Each, on @ (TrainOn::Assistant | TrainOn::Last)) => {
                (TrainOn::Assistant, Some(turns::each(&conversation, on)))
            }
            (Turns::Each, TrainOn::All) | (Turns::Whole, _) => (self.options.train_on, None),
        };
        let turns = turns.as_deref().unwrap_or(std::slice::from_ref(&conversation));
        let (mut samples, mut tokens_cut) = (Vec::with_capacity(turns.len()), 0);
        let mut too_long: Option<Reject> = None;
        let mut supplied = false;
        let mut texts = Vec::with_capacity(turns.len());
        for turn in turns {
            let think = self.options.think;
            let marked = trained(template, turn, train_on, think, self.encoder.stops())?;
            supplied |= marked.supplied;
            let (tokens, weights) = self.encoder.conversation(&marked)?;
            texts.push(marked.text);
            match self.limit(Sample { tokens, weights, hash, position }) {
                Ok((sample, cut)) => {
                    samples.push(sample);
                    tokens_cut += cut;
                }
                Err(reject) if reject.reason == Reason::TooLong && !self.must_fail(&reject) => {
                    let lost = too_long.as_ref().map_or(0, |before| before.tokens_lost);
                    let tokens_lost = lost + reject.tokens_lost;
                    too_long = Some(Reject { tokens_lost, ..reject });
                }
                Err(reject) => return Err(reject),
            }
        }
        if !samples.is_empty()
            && let Some(found) = left_out(&conversation, &texts)
        {
            match self.options.left_out {
                LeftOut::Report => notes.push((Reason::LeftOut, found)),
                LeftOut::Drop | LeftOut::Fail => return Err(Reject::new(Reason::LeftOut, found)),
            }
        }
        if supplied {
            let found = "an answer begins with what the prompt writes, which is not trained\n\
                         hint: `data.think: train` trains it";
            notes.push((Reason::EmptyThinking, found.to_owned()));
        }
        match (samples.is_empty(), too_long) {
            (true, Some(reject)) => Err(reject),
            (true, None) => Err(Reject::new(Reason::Untrained, "no answer would be trained")),
            (false, too_long) => {
                tokens_cut += too_long.map_or(0, |reject| reject.tokens_lost);
                Ok((samples, tokens_cut))
            }
        }
    }

    /// Applies `max_tokens`, and tells how many tokens were cut off.
    fn limit(&self, mut sample: Sample) -> Result<(Sample, u64), Reject> {
        let (length, max_tokens) = (sample.tokens.len(), self.options.max_tokens);
        if length > max_tokens {
            let too_long =
                |detail| Reject { reason: Reason::TooLong, detail, tokens_lost: length as u64 };
            if self.options.too_long != TooLong::Truncate {
                let detail = format!("{length} tokens, max_tokens is {max_tokens}");
                return Err(too_long(detail));
            }
            sample.tokens.truncate(max_tokens);
            sample.weights.truncate(max_tokens);
            if sample.weights.iter().all(|&weight| weight == 0.0) {
                let detail = format!("{length} tokens, none of the first {max_tokens} is trained");
                return Err(too_long(detail));
            }
        }
        if sample.weights.iter().all(|&weight| weight == 0.0) {
            return Err(Reject::new(Reason::Untrained, "no token would be trained"));
        }
        let tokens_cut = (length - sample.tokens.len()) as u64;
        Ok((sample, tokens_cut))
    }

    /// The last token of an answer, found by rendering one.
    fn template_stop(&self) -> Option<u32> {
        let probe =
            Conversation::of([Message::new(Role::User, "a"), Message::new(Role::Assistant, "b")]);
        let stops = self.encoder.stops();
        let marked =
            trained(self.template.as_ref()?, &probe, TrainOn::Assistant, Think::Train, stops)
                .ok()?;
        let (span, _) = marked.spans.last()?;
        let answer = marked.text[span.clone()].trim_end();
        let ends = stops.iter().filter(|stop| answer.ends_with(stop.trim_end()));
        let longest = ends.max_by_key(|stop| stop.len())?;
        self.encoder.tokenizer().token_to_id(longest)
    }
}
