//! Rendered bytes, tokens and masks against `transformers`: its `apply_chat_template` is the judge.
//!
//! Needs a Python with `transformers` (MUSTER_PEER_PYTHON) and a SmolLM2 folder
//! (MUSTER_TEST_MODEL); the test on real data also MUSTER_TEST_DATA. What is missing is said, and
//! the test skipped.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chrono::NaiveDate;
use data::{
    ChatTemplate, Conversation, Folder, Message, Options, Preparer, Role, SourceOptions, Template,
};
use serde_json::{Map, Value, json};

/// What `tests/peer/render.py` answers to each case.
struct Peer {
    python: PathBuf,
    model: PathBuf,
}

impl Peer {
    fn find(test: &str) -> Option<Peer> {
        Some(Peer {
            python: variable("MUSTER_PEER_PYTHON", test)?,
            model: variable("MUSTER_TEST_MODEL", test)?,
        })
    }

    fn answers(&self, cases: &[Value]) -> Result<Vec<Value>> {
        let mut child = Command::new(&self.python)
            .arg(manifest("peer/render.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("MUSTER_PEER_PYTHON does not start")?;
        let request = json!({"model": self.model, "cases": cases}).to_string();
        let mut stdin = child.stdin.take().context("stdin is piped")?;
        // The script reads all of its input before it writes: no deadlock.
        stdin.write_all(request.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "render.py: {}", output.status);
        let lines = std::str::from_utf8(&output.stdout)?.lines();
        let answers: Vec<Value> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(answers.len() == cases.len(), "{} answers", answers.len());
        Ok(answers)
    }
}

fn variable(name: &str, test: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).map(PathBuf::from);
    if value.is_none() {
        println!("{test}: skipped, {name} is not set");
    }
    value
}

fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The repository's templates, and those of MUSTER_TEST_TEMPLATES.
fn templates() -> Result<Vec<(String, String)>> {
    let shipped = manifest("../worker/data/src/templates");
    let more = std::env::var_os("MUSTER_TEST_TEMPLATES").map(PathBuf::from);
    let mut found = Vec::new();
    for folder in [manifest("templates"), shipped].into_iter().chain(more) {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "jinja") {
                found.push((path.display().to_string(), fs::read_to_string(&path)?));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Conversations that templates stumble over.
fn conversations() -> Vec<Value> {
    let turns = |contents: &[&str]| -> Vec<Value> {
        let roles = ["user", "assistant"].into_iter().cycle();
        let said = roles.zip(contents);
        said.map(|(role, content)| json!({"role": role, "content": content})).collect()
    };
    let with_system = |mut rest: Vec<Value>| {
        rest.insert(0, json!({"role": "system", "content": "  Be brief.\n"}));
        rest
    };
    let many: Vec<String> = (0..14).map(|i| format!("turn {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "\u{1f468}\u{200d}\u{1f469} 日本語 \u{202e}עברית\u{202c} \u{200b}\u{feff} \
                e\u{301} \u{1d54f} \u{0}";
    let spaces = "\n\n \t  leading and trailing \u{a0}\u{3000}\u{1f}\u{85} \r\n\n";
    let syntax = "{{ x }} {% if %} {# # #} \\n ' \" </s> <|im_end|> `[INST]` &lt;&amp;";
    [
        turns(&["Hi", "Hello"]),
        turns(&["Hi"]),
        with_system(turns(&["Hi", "Hello"])),
        with_system(turns(&["1", "2", "3", "4", "5"])),
        turns(&many),
        turns(&[long, long, long, long]),
        turns(&[spaces, spaces, spaces, spaces]),
        turns(&["", "", "a", ""]),
        with_system(turns(&[syntax, syntax])),
        turns(&["a", "<think>\nhm\n</think>\n\nb", "c", "<think>\n\n</think>\n\nd"]),
        turns(&["a", "b\nc", "d\n", "\ne"]),
        thinking(),
        tools(),
    ]
    .map(Value::Array)
    .to_vec()
}

fn thinking() -> Vec<Value> {
    let answer = |i: u8| json!({"role": "assistant", "content": i, "reasoning_content": "hm\n"});
    let mut all = vec![json!({"role": "user", "content": "a"}), answer(1)];
    all.extend([json!({"role": "user", "content": "b"}), answer(2)]);
    for message in &mut all {
        message["content"] = json!(message["content"].to_string());
    }
    all
}

/// A call with arguments of every JSON type, its result, and the answer.
fn tools() -> Vec<Value> {
    let arguments = json!({"city": "Zürich \"<&>'\u{1}", "days": 3, "share": 0.5,
                           "big": 1e22, "tiny": 1e-7, "whole": 2.0, "on": true, "off": false,
                           "none": null, "list": [1, [], {}]});
    let call = json!({"id": "call_1", "type": "function",
                      "function": {"name": "weather", "arguments": arguments}});
    vec![
        json!({"role": "user", "content": "Weather?"}),
        json!({"role": "assistant", "content": "", "tool_calls": [call]}),
        json!({"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "rain"}),
        json!({"role": "assistant", "content": "Rain."}),
    ]
}

/// The tools that go with a conversation, if it calls any.
fn tools_of(messages: &Value) -> Value {
    if !messages.to_string().contains("tool_calls") {
        return Value::Null;
    }
    let city = json!({"type": "string", "description": "A \"city\""});
    let parameters = json!({"type": "object", "required": ["city"], "properties": {"city": city}});
    let function =
        json!({"name": "weather", "description": "It's the weather", "parameters": parameters});
    json!([{"type": "function", "function": function}])
}

fn conversation(messages: &Value) -> Result<Conversation> {
    let messages = messages.as_array().context("a list")?;
    let messages = messages.iter().map(|message| {
        let Value::Object(fields) = message.clone() else {
            anyhow::bail!("not an object: {message}");
        };
        let role = fields.get("role").and_then(Value::as_str).and_then(Role::parse);
        let mut message = Message::new(role.context("a known role")?, "");
        message.fields = fields;
        Ok(message)
    });
    Ok(Conversation::of(messages.collect::<Result<Vec<_>>>()?))
}

/// A template's text for a conversation, as ours or theirs; an error's text is each one's own.
fn same(ours: Option<&str>, theirs: &Value) -> bool {
    ours == theirs.get("text").and_then(Value::as_str)
}

#[test]
fn templates_render_to_the_bytes_of_transformers() -> Result<()> {
    let Some(peer) = Peer::find("templates_render_to_the_bytes_of_transformers") else {
        return Ok(());
    };
    let special = Folder::read(&peer.model)?.special_tokens();
    let (templates, conversations) = (templates()?, conversations());
    let mut cases = Vec::new();
    for (_, template) in &templates {
        for messages in &conversations {
            for add_generation_prompt in [false, true] {
                cases.push(json!({"template": template, "messages": messages,
                                  "tools": tools_of(messages),
                                  "add_generation_prompt": add_generation_prompt}));
            }
        }
    }
    let answers = peer.answers(&cases)?;
    let mut differences = Vec::new();
    let mut rendered = 0;
    let per_template = conversations.len() * 2;
    for (i, (case, theirs)) in cases.iter().zip(&answers).enumerate() {
        let (name, source) = &templates[i / per_template];
        let ours = render(source, &special, case);
        rendered += usize::from(ours.is_ok());
        if !same(ours.as_deref().ok(), theirs) {
            differences.push(format!("{name}: {case}\nours   {ours:?}\ntheirs {theirs}\n"));
        }
    }
    println!(
        "{} templates, {} renderings, {rendered} to a text, {} differ",
        templates.len(),
        cases.len(),
        differences.len()
    );
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

/// Our text for a case, or what is wrong.
fn render(source: &str, special: &Map<String, Value>, case: &Value) -> Result<String, String> {
    try_render(source, special, case).map_err(|error| error.to_string())
}

fn try_render(source: &str, special: &Map<String, Value>, case: &Value) -> Result<String> {
    // The day that render.py pins.
    let date = NaiveDate::from_ymd_opt(2024, 7, 26);
    let template = Template::new(source, special, date.context("a date")?)?;
    let mut conversation = conversation(&case["messages"])?;
    conversation.tools = Some(case["tools"].clone()).filter(Value::is_array);
    let prompt = case["add_generation_prompt"] == true;
    let rendered = template.render(&conversation, conversation.messages.len(), prompt);
    Ok(rendered.map_err(|reject| anyhow::anyhow!(reject))?.text)
}

/// What templates rely on Python for. Each is its own template, so that a failure names itself.
#[test]
fn expressions_print_as_python_prints_them() -> Result<()> {
    let Some(peer) = Peer::find("expressions_print_as_python_prints_them") else {
        return Ok(());
    };
    let special = Folder::read(&peer.model)?.special_tokens();
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    let expressions = fs::read_to_string(manifest("peer/expressions.json"))?;
    let expressions: Vec<String> = serde_json::from_str(&expressions)?;
    let case = |template: &String| json!({"template": template, "messages": messages});
    let cases: Vec<Value> = expressions.iter().map(case).collect();
    let mut differences = Vec::new();
    for (case, theirs) in cases.iter().zip(peer.answers(&cases)?) {
        let template = case["template"].as_str().context("written above")?;
        let ours = render(template, &special, case);
        if !same(ours.as_deref().ok(), &theirs) {
            differences.push(format!("{template}\nours   {ours:?}\ntheirs {theirs}\n"));
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

/// A template as our pipeline gets it, and its marked twin for the peer.
struct Twin {
    ours: ChatTemplate,
    marked: String,
    /// Of a model whose stop token the tokenizer may lack: then its conversations are refused.
    is_foreign: bool,
}

/// Tokens and masks on each template: ours of an object, theirs of `all` its conversations.
fn compare_masks(peer: &Peer, twins: &[Twin], all: &[Value], object: (&str, &str)) -> Result<()> {
    // One request for all templates: starting the peer costs more than its work.
    let case = |twin: &Twin, messages| json!({"template": twin.marked, "messages": messages, "mask": true});
    let cases = twins.iter().flat_map(|twin| all.iter().map(move |messages| case(twin, messages)));
    let answers = peer.answers(&cases.collect::<Vec<_>>())?;
    for (twin, answers) in twins.iter().zip(answers.chunks(all.len())) {
        let name = format!("{:.40}", format!("{:?}", twin.ours));
        let equal = compare(peer, twin, object, answers).with_context(|| name.clone())?;
        println!("{name}: {equal} of {} conversations are trained, their masks equal", all.len());
        let enough = equal > all.len() as u64 / 2 || twin.is_foreign;
        ensure!(enough, "{name}: too few conversations");
    }
    Ok(())
}

fn compare(peer: &Peer, twin: &Twin, object: (&str, &str), answers: &[Value]) -> Result<u64> {
    let options =
        Options { chat_template: twin.ours.clone(), max_tokens: 1 << 20, ..Options::default() };
    let preparer = Preparer::new(&Folder::read(&peer.model)?, options)?;
    let (name, text) = object;
    let prepared = preparer.prepare(name, text.as_bytes(), &SourceOptions::default())?;
    let counts = &prepared.counts;
    ensure!(counts.is_balanced() && counts.read == answers.len() as u64, "{counts:?}");
    for sample in &prepared.samples {
        let theirs = &answers[sample.position as usize - 1];
        let mask: Vec<u8> = sample.weights.iter().map(|&w| u8::from(w > 0.0)).collect();
        let at = sample.position;
        ensure!(json!(sample.tokens) == theirs["tokens"], "tokens of record {at}: {theirs}");
        ensure!(json!(mask) == theirs["mask"], "mask of record {at}: {mask:?}\n{theirs}");
    }
    Ok(counts.eligible)
}

fn shipped(name: &str) -> Result<String> {
    Ok(fs::read_to_string(manifest("../worker/data/src/templates").join(name))?)
}

#[test]
fn masks_are_those_of_transformers_on_marked_templates_and_their_twins() -> Result<()> {
    let Some(peer) =
        Peer::find("masks_are_those_of_transformers_on_marked_templates_and_their_twins")
    else {
        return Ok(());
    };
    let own = fs::read_to_string(manifest("templates/marked.jinja"))?;
    let unmarked = fs::read_to_string(manifest("templates/chatml.jinja"))?;
    let twin = |ours, marked| Twin { ours, marked, is_foreign: false };
    let mut twins = vec![
        // The model's own template has no marks: ours are a copy's.
        twin(ChatTemplate::Tokenizer, shipped("smollm2.jinja")?),
        twin(ChatTemplate::Chatml, shipped("chatml.jinja")?),
        twin(ChatTemplate::Alpaca, shipped("alpaca.jinja")?),
        twin(ChatTemplate::Jinja(own.clone()), own),
        // No marks and no copy: proven by prefixes.
        twin(ChatTemplate::Jinja(unmarked), shipped("chatml.jinja")?),
    ];
    let marked = templates()?.into_iter().filter(|(_, text)| text.contains("endgeneration"));
    twins.extend(marked.map(|(_, text)| Twin {
        ours: ChatTemplate::Jinja(text.clone()),
        marked: text,
        is_foreign: true,
    }));
    let conversations = conversations();
    let line = |messages: &Value| json!({"messages": messages}).to_string();
    let lines: Vec<String> = conversations.iter().map(line).collect();
    compare_masks(&peer, &twins, &conversations, ("all.jsonl", &lines.join("\n")))
}

#[test]
fn masks_are_those_of_transformers_on_real_data() -> Result<()> {
    const TEST: &str = "masks_are_those_of_transformers_on_real_data";
    let (Some(peer), Some(data)) = (Peer::find(TEST), variable("MUSTER_TEST_DATA", TEST)) else {
        return Ok(());
    };
    let text = fs::read_to_string(data.join("data/alpaca_en_demo.json"))?;
    let records: Vec<Value> = serde_json::from_str(&text)?;
    let conversations: Vec<Value> = records.iter().map(alpaca).collect();
    let twin = Twin {
        ours: ChatTemplate::Tokenizer,
        marked: shipped("smollm2.jinja")?,
        is_foreign: false,
    };
    compare_masks(&peer, &[twin], &conversations, ("alpaca_en_demo.json", &text))
}

/// A record as the conversation that Alpaca's fields mean.
fn alpaca(record: &Value) -> Value {
    let field = |name: &str| record[name].as_str().unwrap_or_default();
    let question = match field("input") {
        "" => field("instruction").to_owned(),
        input => format!("{}\n{input}", field("instruction")),
    };
    let answer = json!({"role": "assistant", "content": field("output")});
    json!([{"role": "user", "content": question}, answer])
}

/// One command for the figure: `cargo test -p muster-tests --release --test masks -- --ignored
/// --nocapture`.
#[test]
#[ignore = "a measurement"]
fn preparation_speed() -> Result<()> {
    const TEST: &str = "preparation_speed";
    let model = variable("MUSTER_TEST_MODEL", TEST);
    let (Some(model), Some(data)) = (model, variable("MUSTER_TEST_DATA", TEST)) else {
        return Ok(());
    };
    let records: Vec<Value> =
        serde_json::from_slice(&fs::read(data.join("data/alpaca_en_demo.json"))?)?;
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    let bytes = vec![lines.join("\n"); 20].join("\n");
    let start = Instant::now();
    let preparer = Preparer::new(&Folder::read(&model)?, Options::default())?;
    println!("loaded in {:.2?}", start.elapsed());
    for _ in 0..3 {
        let start = Instant::now();
        let prepared = preparer.prepare("d.jsonl", bytes.as_bytes(), &SourceOptions::default())?;
        let seconds = start.elapsed().as_secs_f64();
        let tokens = prepared.counts.tokens as f64;
        println!(
            "{:.2} s, {:.2} M tokens/s, {:.1} MB/s on {} threads",
            seconds,
            tokens / seconds / 1e6,
            bytes.len() as f64 / seconds / 1e6,
            std::thread::available_parallelism()?
        );
    }
    Ok(())
}
