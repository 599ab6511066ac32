//! Finds which bytes of a rendered conversation are trained, and with what weight.
//!
//! The spans come from the template's marks, or from a proof: if the messages before an answer,
//! with the generation prompt, render to a *string* prefix of the whole, then the answer starts
//! where that prefix ends. Without marks or a proof, the conversation is refused; nothing is
//! guessed. A proven span ends with the stop token, and the white space after it is not trained. A
//! template's own marks are used as they are.

use std::ops::Range;

use proto::receipt::Reason;
use proto::spec::{Think, TrainOn};

use super::conversation::{Conversation, Message, Role};
use super::record::Reject;
use super::template::{Marking, Template};

/// A text for the tokenizer, and the spans of it that are trained. Later spans override earlier
/// ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Marked {
    /// The whole text.
    pub text: String,
    /// Byte ranges and their weights; bytes that no span covers have weight 0.
    pub spans: Vec<(Range<usize>, f32)>,
    /// Whether any answer began with text that the prompt writes, which its span then excludes.
    pub supplied: bool,
}

/// Renders a conversation and finds what is trained in it. `stops` are the texts that can end an
/// answer.
///
/// # Errors
/// Conversations that the template refuses, whose answers cannot be proven, or in which no token or
/// no stop token would be trained.
pub(super) fn trained(
    template: &Template,
    conversation: &Conversation,
    train_on: TrainOn,
    think: Think,
    stops: &[String],
) -> Result<Marked, Reject> {
    let messages = &conversation.messages;
    refuse_unmarkable(messages, train_on)?;
    let rendered = template.render(conversation, messages.len(), false)?;
    let answers = answers(messages, train_on);
    let is_chosen = train_on == TrainOn::Last || is_weighted(messages);
    let mut spans = match template.marking() {
        Marking::Own | Marking::Known if is_chosen => {
            of_answers(template, conversation, rendered.spans, &answers)?
        }
        Marking::Own | Marking::Known => {
            rendered.spans.into_iter().map(|span| (span, 1.0)).collect()
        }
        Marking::Proof => {
            // An answer whose weight is that of the rest needs no proof.
            let rest = if train_on == TrainOn::All { 1.0 } else { 0.0 };
            let prove = |answer: &Answer| {
                let whole = &rendered.text;
                let span = proven(template, conversation, whole, answer.message, stops)?;
                Ok((span, answer.weight))
            };
            let changed = answers.iter().filter(|answer| answer.weight != rest);
            changed.map(prove).collect::<Result<Vec<_>, Reject>>()?
        }
    };
    let mut supplied = false;
    if train_on == TrainOn::All {
        spans.insert(0, (0..rendered.text.len(), 1.0));
    } else if think == Think::Prompt {
        for (span, _) in spans.iter_mut().filter(|(_, weight)| *weight > 0.0) {
            let said = &rendered.text[span.clone()];
            let tail = template.supplied().iter().find(|tail| said.starts_with(tail.as_str()));
            supplied |= tail.is_some();
            span.start += tail.map_or(0, String::len);
        }
    }
    let marked = Marked { text: rendered.text, spans, supplied };
    refuse_untrained(&marked, stops)?;
    Ok(marked)
}

/// A message of the assistant, and its weight.
struct Answer {
    /// The message's index.
    message: usize,
    weight: f32,
}

fn answers(messages: &[Message], train_on: TrainOn) -> Vec<Answer> {
    let all = (0..messages.len()).filter(|&i| messages[i].role == Role::Assistant);
    let last = all.clone().next_back();
    let answer = |i: usize| {
        let default = train_on != TrainOn::Last || Some(i) == last;
        let is_trained = messages[i].train.unwrap_or(default);
        let weight = if is_trained { messages[i].weight.unwrap_or(1.0) } else { 0.0 };
        Answer { message: i, weight }
    };
    all.map(answer).collect()
}

fn is_weighted(messages: &[Message]) -> bool {
    messages.iter().any(|m| m.train.is_some() || m.weight.is_some())
}

/// Only the places of answers are known, so only answers can be trained, or left out, individually.
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
                format!("`train` and `weight` apply to answers, not to a `{role}` message");
            Err(Reject::new(Reason::Malformed, detail))
        }
    }
}

/// Gives each marked span its answer's weight. If answers have several spans, the first span of
/// each answer is found by counting the marks in what precedes it.
fn of_answers(
    template: &Template,
    conversation: &Conversation,
    spans: Vec<Range<usize>>,
    answers: &[Answer],
) -> Result<Vec<(Range<usize>, f32)>, Reject> {
    let before = |answer: &Answer| {
        let rendered = template.render(conversation, answer.message, true)?;
        Ok(rendered.spans.len())
    };
    let firsts: Vec<usize> = match spans.len() == answers.len() {
        true => (0..answers.len()).collect(),
        false => answers.iter().map(before).collect::<Result<_, Reject>>()?,
    };
    let ends = firsts.iter().skip(1).copied().chain([spans.len()]);
    if firsts.first().is_some_and(|&first| first > 0)
        || firsts.iter().zip(ends).any(|(a, b)| *a >= b)
    {
        let detail = format!(
            "the chat template marks {} spans for {} answers, so they cannot be weighted one by one",
            spans.len(),
            answers.len()
        );
        return Err(Reject::new(Reason::Malformed, detail));
    }
    let weight = |i: usize| answers[firsts.partition_point(|&first| first <= i) - 1].weight;
    Ok(spans.into_iter().enumerate().map(|(i, span)| (span, weight(i))).collect())
}

/// The span of answer `i`, proven by rendering what comes before it.
fn proven(
    template: &Template,
    conversation: &Conversation,
    whole: &str,
    i: usize,
    stops: &[String],
) -> Result<Range<usize>, Reject> {
    const MARKS: &str = "put `{% generation %}` and `{% endgeneration %}` around what the \
                         assistant says in a copy of the template, and set data.chat_template \
                         to it";
    const TURNS: &str = "set data.turns to each, which makes a sample of every turn as it was \
                         given; or set data.chat_template to a copy of the template with \
                         `{% generation %}` and `{% endgeneration %}` around what the assistant says";
    let unproven = |what: &str, hint: &str| {
        let detail = format!("cannot prove where message {} {what}\nhint: {hint}", i + 1);
        Reject::new(Reason::Malformed, detail)
    };
    let before = template.render(conversation, i, true);
    let before = before.map_err(|_| unproven("starts", MARKS))?.text;
    let through = template.render(conversation, i + 1, false);
    let through = through.map_err(|_| unproven("ends", MARKS))?.text;
    if !through.starts_with(&before) {
        return Err(unproven("starts: what precedes it is rendered differently with it", MARKS));
    }
    if !whole.starts_with(&before) {
        return Err(unproven("starts: what precedes it is rendered differently later", TURNS));
    }
    if !whole.starts_with(&through) {
        return Err(unproven("ends: it is rendered differently later", TURNS));
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
