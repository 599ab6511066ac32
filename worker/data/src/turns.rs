//! Splits a conversation into several: each ends with one trained answer, after what the model sees
//! when it gives that answer.
//!
//! A template may render an earlier turn differently once another follows, for example by dropping
//! old thinking. In the whole conversation, the answer is then trained in its later form; turn by
//! turn, it is trained as it was given.

use proto::spec::TrainOn;

use super::conversation::{Conversation, Role};

/// One conversation for every trained answer; nothing before that answer is trained.
pub(super) fn each(conversation: &Conversation, train_on: TrainOn) -> Vec<Conversation> {
    let messages = &conversation.messages;
    let answers = (0..messages.len()).filter(|&i| messages[i].role == Role::Assistant);
    let last = answers.clone().next_back();
    let trained = answers
        .filter(|&i| messages[i].train.unwrap_or(train_on != TrainOn::Last || Some(i) == last));
    trained.map(|i| ending_with(conversation, i)).collect()
}

fn ending_with(conversation: &Conversation, answer: usize) -> Conversation {
    let mut messages = conversation.messages[..=answer].to_vec();
    for (i, message) in messages.iter_mut().enumerate() {
        if message.role == Role::Assistant {
            message.train = Some(i == answer);
        }
    }
    Conversation { messages, ..conversation.clone() }
}
