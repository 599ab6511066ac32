//! Which bytes of a rendered conversation are trained, and with what weight.
//!
//! The spans come from the template's marks, or from a proof: if the messages before an answer,
//! with the generation prompt, render to a *string* prefix of the whole, then the answer starts
//! where that prefix ends. Where there is neither, the conversation is refused; nothing is guessed.
//! A proven span ends with the stop token, and the white space after it is not trained; a
//! template's own marks are taken at their word.

use std::ops::Range;

use proto::receipt::Reason;

use super::conversation::{Conversation, Message, Role};
use super::options::TrainOn;
use super::record::Reject;
use super::template::{Marking, Template};

/// A text for the tokenizer with what is to be learned of it. Later spans go before earlier ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Marked {
    /// The whole text.
    pub text: String,
    /// Bytes and their weight; what no span covers has weight 0.
    pub spans: Vec<(Range<usize>, f32)>,
}

/// Renders a conversation and finds what is trained of it; `stops` are the texts that can end an
/// answer.
///
/// # Errors
/// Conversations that the template refuses, that prove nothing, or of which nothing or no stop
/// would be trained.
pub(super) fn trained(
    template: &Template,
    conversation: &Conversation,
    train_on: TrainOn,
    stops: &[String],
) -> Result<Marked, Reject> {
    let messages = &conversation.messages;
    refuse_unmarkable(messages, train_on)?;
    let rendered = template.render(conversation, messages.len(), false)?;
    let answers: Vec<usize> =
        (0..messages.len()).filter(|&i| messages[i].role == Role::Assistant).collect();
    let spans = match template.marking() {
        Marking::Own | Marking::Known => rendered.spans,
        Marking::Proof if train_on == TrainOn::All && !is_weighted(messages) => Vec::new(),
        Marking::Proof => {
            let prove = |&i: &usize| proven(template, conversation, &rendered.text, i, stops);
            answers.iter().map(prove).collect::<Result<_, _>>()?
        }
    };
    let weights = weights(messages, &answers, spans.len(), train_on)?;
    let mut marked =
        Marked { text: rendered.text, spans: spans.into_iter().zip(weights).collect() };
    if train_on == TrainOn::All {
        marked.spans.insert(0, (0..marked.text.len(), 1.0));
    }
    refuse_untrained(&marked, stops)?;
    Ok(marked)
}

fn is_weighted(messages: &[Message]) -> bool {
    messages.iter().any(|m| m.train.is_some() || m.weight.is_some())
}

/// Only an answer's place is known, so only an answer can be trained, or left out, by itself.
fn refuse_unmarkable(messages: &[Message], train_on: TrainOn) -> Result<(), Reject> {
    let is_asked = |m: &&Message| match train_on {
        TrainOn::All => m.train == Some(false) || m.weight.is_some_and(|w| w != 1.0),
        TrainOn::Assistant | TrainOn::Last => m.train == Some(true),
    };
    let others = || messages.iter().filter(|m| m.role != Role::Assistant);
    match others().find(is_asked) {
        None => Ok(()),
        Some(message) => {
            let role = message.role.name();
            let detail =
                format!("`train` and `weight` choose among answers, not for a `{role}` message");
            Err(Reject::new(Reason::Malformed, detail))
        }
    }
}

/// The weight of each span.
fn weights(
    messages: &[Message],
    answers: &[usize],
    spans: usize,
    train_on: TrainOn,
) -> Result<Vec<f32>, Reject> {
    if train_on != TrainOn::Last && !is_weighted(messages) {
        return Ok(vec![1.0; spans]);
    }
    if spans != answers.len() {
        let detail = format!(
            "the chat template marks {spans} spans for {} answers, so they cannot be weighted one \
             by one",
            answers.len()
        );
        return Err(Reject::new(Reason::Malformed, detail));
    }
    let last = answers.last().copied();
    let weight = |&i: &usize| {
        let default = train_on != TrainOn::Last || Some(i) == last;
        let message = &messages[i];
        if message.train.unwrap_or(default) { message.weight.unwrap_or(1.0) } else { 0.0 }
    };
    Ok(answers.iter().map(weight).collect())
}

/// The span of answer `i`, proven by rendering what comes before it.
fn proven(
    template: &Template,
    conversation: &Conversation,
    whole: &str,
    i: usize,
    stops: &[String],
) -> Result<Range<usize>, Reject> {
    const HINT: &str = "put `{% generation %}` and `{% endgeneration %}` around what the \
                        assistant says in a copy of the template, and set data.chat_template \
                        to it";
    let unproven = |what: &str| {
        let detail = format!("cannot prove where message {} {what}\nhint: {HINT}", i + 1);
        Reject::new(Reason::Malformed, detail)
    };
    let before = template.render(conversation, i, true).map_err(|_| unproven("starts"))?.text;
    let through = template.render(conversation, i + 1, false).map_err(|_| unproven("ends"))?.text;
    if !whole.starts_with(&before) || !through.starts_with(&before) {
        return Err(unproven("starts: what precedes it is rendered differently later"));
    }
    if !whole.starts_with(&through) {
        return Err(unproven("ends: it is rendered differently later"));
    }
    let answer = through[before.len()..].trim_end();
    if !ends_with_stop(answer, stops) {
        let detail = "the chat template puts no stop token after an answer";
        return Err(Reject::new(Reason::NoStop, detail));
    }
    Ok(before.len()..before.len() + answer.len())
}

fn ends_with_stop(text: &str, stops: &[String]) -> bool {
    let text = text.trim_end();
    stops.iter().any(|stop| text.ends_with(stop.trim_end()))
}

fn refuse_untrained(marked: &Marked, stops: &[String]) -> Result<(), Reject> {
    let mut trained =
        marked.spans.iter().filter(|(span, w)| *w > 0.0 && !span.is_empty()).peekable();
    if trained.peek().is_none() {
        return Err(Reject::new(Reason::Untrained, "no token would be trained"));
    }
    if !trained.any(|(span, _)| ends_with_stop(&marked.text[span.clone()], stops)) {
        let detail = "no trained span ends with a stop token, so the model would not learn to \
                      stop\nhint: end the block with it, as in \
                      `{{ message.content + eos_token }}{% endgeneration %}`";
        return Err(Reject::new(Reason::NoStop, detail));
    }
    Ok(())
}
