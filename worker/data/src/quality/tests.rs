//! Which parts of a record determine which feature.

use serde_json::json;

use super::*;

fn chat(turns: &[(Role, &str)]) -> Features {
    let messages = turns.iter().map(|(role, text)| Message::new(*role, *text));
    let record = Record::Conversation(Conversation::of(messages));
    features(&record, record.hash())
}

fn exchange(turns: &[(Role, &str)]) -> Exchange {
    chat(turns).exchange.expect("a question and an answer")
}

const QUESTION: (Role, &str) = (Role::User, "What is the capital of France?");

#[test]
fn exchange_ignores_case_space_and_punctuation() {
    let plain = exchange(&[QUESTION, (Role::Assistant, "Paris.")]);
    let shouted =
        exchange(&[(Role::User, "what is  the CAPITAL of france"), (Role::Assistant, "\nPARIS")]);
    assert_eq!(plain, shouted);
}

#[test]
fn system_message_and_tools_are_the_setting() {
    let bare = chat(&[QUESTION, (Role::Assistant, "Paris.")]);
    let system = chat(&[(Role::System, "Be brief."), QUESTION, (Role::Assistant, "Paris.")]);
    let (without, with) = (bare.exchange.expect("one"), system.exchange.expect("one"));
    assert_ne!(without.setting, with.setting);
    assert_eq!((without.instruction, without.answer), (with.instruction, with.answer));
    assert_eq!(bare.signature, system.signature);
    assert_ne!(bare.content, system.content);
    let mut tools = Conversation::of([
        Message::new(Role::User, QUESTION.1),
        Message::new(Role::Assistant, "Paris."),
    ]);
    tools.tools = Some(json!([{"name": "look_up"}]));
    let tools = features(&Record::Conversation(tools), 0);
    assert_ne!(tools.exchange.expect("one").setting, without.setting);
}

#[test]
fn exchange_covers_the_last_answer_and_all_before_it() {
    let one = exchange(&[QUESTION, (Role::Assistant, "Paris.")]);
    let more = [QUESTION, (Role::Assistant, "Paris."), (Role::User, "And its river?")];
    let two = exchange(&[&more[..], &[(Role::Assistant, "The Seine.")]].concat());
    assert_ne!(one.instruction, two.instruction);
    let other = exchange(&[&more[..], &[(Role::Assistant, "The Thames.")]].concat());
    assert_eq!(two.instruction, other.instruction);
    assert_ne!(two.answer, other.answer);
    // The speaker counts, and so does the border between messages.
    let tool = exchange(&[(Role::Tool, QUESTION.1), (Role::Assistant, "Paris.")]);
    assert_ne!(tool.instruction, one.instruction);
    let split = exchange(&[
        (Role::User, "What is the capital"),
        (Role::User, "of France?"),
        (Role::Assistant, "Paris."),
    ]);
    assert_ne!(split.instruction, one.instruction);
}

#[test]
fn a_record_without_a_question_has_no_exchange() {
    assert_eq!(chat(&[(Role::Assistant, "Hello.")]).exchange, None);
    assert_eq!(chat(&[(Role::User, " "), (Role::Assistant, "Hello.")]).exchange, None);
    let text = Record::Text("Once upon a time".into());
    assert_eq!(features(&text, text.hash()).exchange, None);
}

#[test]
fn completion_has_the_features_of_the_same_conversation() {
    let record = Record::Completion {
        prompt: "What is the capital of France?".into(),
        completion: "Paris.".into(),
    };
    let (completion, chat) =
        (features(&record, record.hash()), chat(&[QUESTION, (Role::Assistant, "Paris.")]));
    assert_eq!(completion.exchange, chat.exchange);
    assert_eq!(completion.signature, chat.signature);
}

#[test]
fn a_call_is_an_answer() {
    let call = |city: &str| {
        let mut message = Message::new(Role::Assistant, "");
        let calls = json!([{"function": {"name": "weather", "arguments": {"city": city}}}]);
        message.fields.insert("tool_calls".into(), calls);
        let messages = [Message::new(Role::User, "The weather?"), message];
        features(&Record::Conversation(Conversation::of(messages)), 0)
    };
    let (paris, rome) = (call("Paris"), call("Rome"));
    let answer = |features: &Features| features.exchange.expect("a call").answer;
    assert_ne!(answer(&paris), answer(&rome));
    assert_eq!(paris.flaws, Flaws::default());
}

#[test]
fn flaws_are_those_of_the_last_answer() {
    let open = "You can use any of these tools (for example a hammer";
    let flawed = chat(&[QUESTION, (Role::Assistant, open)]);
    assert_eq!(flawed.flaws, Flaws { looping: false, incomplete: true });
    let looping = chat(&[QUESTION, (Role::Assistant, &"I do not know. ".repeat(20))]);
    assert_eq!(looping.flaws, Flaws { looping: true, incomplete: false });
    let mended = chat(&[
        QUESTION,
        (Role::Assistant, open),
        (Role::User, "Go on."),
        (Role::Assistant, "Sorry: Paris."),
    ]);
    assert_eq!(mended.flaws, Flaws::default());
}

#[test]
fn texts_without_words_are_similar_only_to_themselves() {
    let of = |text: &str| {
        let record = Record::Text(text.into());
        features(&record, record.hash()).signature
    };
    assert_eq!(of("?!"), of("?!"));
    assert_ne!(of("?!"), of("..."));
}
