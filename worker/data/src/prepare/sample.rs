//! Turns one record into its samples, or into the reason why there are none.

use std::collections::BTreeSet;

use proto::prepared::Sample;
use proto::receipt::{OF_MESSAGES, Reason};
use proto::spec::{ControlTokens, LeftOut, Think, TooLong, TrainOn, Turns};

use super::super::conversation::{Conversation, Message, Role};
use super::super::document::chunks;
use super::super::encode::Encoded;
use super::super::error::PrepareError;
use super::super::left_out::left_out;
use super::super::nulls;
use super::super::prepared::PreparedRecord;
use super::super::quality::features;
use super::super::record::{Parsed, Record, Reject, says_something};
use super::super::spans::{Marked, trained};
use super::super::template::Template;
use super::super::tokenize::Tokenizer;
use super::super::turns;
use super::Preparer;

/// A prepared record, how many tokens were cut off it, and what was noticed in it.
pub(super) struct Made {
    pub(super) record: PreparedRecord,
    pub(super) tokens_cut: u64,
    pub(super) unread: Vec<String>,
    pub(super) notes: Vec<(Reason, String)>,
}

/// A conversation with all that is needed to turn it into samples.
struct Shown<'a> {
    conversation: &'a Conversation,
    template: &'a Template,
    /// The tokenizer for texts of special tokens that must stay text, if the conversation has any.
    plain: Option<&'a Tokenizer>,
    hash: u64,
    position: u64,
}

impl Preparer {
    pub(super) fn sample(&self, parsed: Parsed, position: u64) -> Result<Made, Reject> {
        let Parsed { record, mut unread, mut notes } = parsed;
        let missing = |error: PrepareError| Reject::new(Reason::Malformed, error.to_string());
        let hash = record.hash();
        let features = features(&record, hash);
        let (tokens, weights) = match record {
            Record::Conversation(conversation) => {
                // All turns have the hash of the whole conversation: they are held out, or trained,
                // together.
                let chat = self.chats.of(&conversation)?;
                unread.extend(unread_fields(&conversation, &chat.template));
                notes.extend(nulls::found(&conversation).map(|found| (Reason::Nulls, found)));
                let (conversation, plain) = self.control_tokens(conversation, &mut notes)?;
                let conversation = &chat.calls.fit(conversation)?;
                let template = &chat.template;
                let shown = Shown { conversation, template, plain, hash, position };
                let (samples, tokens_cut) = self.conversation(&shown, &mut notes)?;
                let record = PreparedRecord { features, samples };
                return Ok(Made { record, tokens_cut, unread, notes });
            }
            Record::Completion { prompt, completion } => {
                self.encoder.eos().ok_or_else(|| missing(PrepareError::NoEndToken))?;
                let (encoded, shared) = self.encoder.completion(&prompt, &completion)?;
                if let Some(token) = shared.filter(|_| !prompt.is_empty()) {
                    let found = format!(
                        "the token `{token}` begins in the prompt and ends in the completion, so a \
                         prompt on its own ends in a different token\n\
                         hint: move the white space at the prompt's end to the completion's start"
                    );
                    notes.push((Reason::SharedToken, found));
                }
                encoded
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

    /// Looks for the texts of special tokens in messages. If they must stay text, hides them and
    /// also returns the tokenizer for the rendered conversation.
    fn control_tokens(
        &self,
        conversation: Conversation,
        notes: &mut Vec<(Reason, String)>,
    ) -> Result<(Conversation, Option<&Tokenizer>), Reject> {
        let wanted = self.options.control_tokens;
        if wanted == ControlTokens::Off {
            return Ok((conversation, None));
        }
        let Some(found) = self.controls.found(&conversation) else {
            return Ok((conversation, None));
        };
        let reason = Reason::ControlTokens;
        let as_token = format!(
            "{found}, which becomes the special token\n\
             hint: `data.control_tokens: escape` keeps it as text, `filter` leaves the record out"
        );
        match wanted {
            ControlTokens::Off | ControlTokens::Report => notes.push((reason, as_token)),
            ControlTokens::Filter => return Err(Reject::new(reason, found)),
            ControlTokens::Escape => {
                notes.push((reason, format!("{found}, which is kept as text")));
                return Ok((self.controls.hide(conversation)?, self.plain.as_ref()));
            }
        }
        Ok((conversation, None))
    }

    /// Tokenizes a rendered conversation.
    fn encode(&self, marked: &Marked, plain: Option<&Tokenizer>) -> Result<Encoded, Reject> {
        match plain {
            Some(plain) => self.encoder.conversation_by(plain, &self.controls.plain(marked)?),
            None => self.encoder.conversation(marked),
        }
    }

    /// Turns a conversation into samples, and counts the tokens that were cut off them.
    fn conversation(
        &self,
        shown: &Shown<'_>,
        notes: &mut Vec<(Reason, String)>,
    ) -> Result<(Vec<Sample>, u64), Reject> {
        let Shown { conversation, template, plain, hash, position } = *shown;
        let (train_on, turns) = match (self.options.turns, self.options.train_on) {
            (Turns::Each, on @ (TrainOn::Assistant | TrainOn::Last)) => {
                (TrainOn::Assistant, Some(turns::each(conversation, on)))
            }
            (Turns::Each, TrainOn::All) | (Turns::Whole, _) => (self.options.train_on, None),
        };
        let turns = turns.as_deref().unwrap_or(std::slice::from_ref(conversation));
        let (mut samples, mut tokens_cut) = (Vec::with_capacity(turns.len()), 0);
        let mut too_long: Option<Reject> = None;
        let mut supplied = false;
        let mut texts = Vec::with_capacity(turns.len());
        for turn in turns {
            let think = self.options.think;
            let marked = trained(template, turn, train_on, think, self.encoder.stops())?;
            supplied |= marked.supplied;
            let (tokens, weights) = self.encode(&marked, plain)?;
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
            && let Some(found) = left_out(conversation, &texts)
        {
            match self.options.left_out {
                LeftOut::Report => notes.push((Reason::LeftOut, found)),
                LeftOut::Drop | LeftOut::Fail => return Err(Reject::new(Reason::LeftOut, found)),
            }
        }
        if supplied {
            let found = "an answer begins with text that the prompt writes, which is not trained\n\
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

    /// Applies `max_tokens` and returns how many tokens were cut off.
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
    pub(super) fn template_stop(&self) -> Option<u32> {
        let probe =
            Conversation::of([Message::new(Role::User, "a"), Message::new(Role::Assistant, "b")]);
        let stops = self.encoder.stops();
        let marked =
            trained(self.chats.any()?, &probe, TrainOn::Assistant, Think::Train, stops).ok()?;
        let (span, _) = marked.spans.last()?;
        let answer = marked.text[span.clone()].trim_end();
        let ends = stops.iter().filter(|stop| answer.ends_with(stop.trim_end()));
        let longest = ends.max_by_key(|stop| stop.len())?;
        self.encoder.tokenizer().token_to_id(longest)
    }
}

/// The names of the messages' fields that the chat template does not use.
fn unread_fields(conversation: &Conversation, template: &Template) -> BTreeSet<String> {
    let fields = conversation.messages.iter().flat_map(|message| &message.fields);
    let unread = fields.filter(|(name, value)| says_something(value) && !template.asks_for(name));
    unread.map(|(name, _)| format!("{OF_MESSAGES}{name}")).collect()
}
