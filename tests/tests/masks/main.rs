//! Compares rendered bytes, tokens and masks with those of `apply_chat_template` in `transformers`.
//!
//! Needs a Python with `transformers` (MUSTER_PEER_PYTHON). The tests on real data also need a SmolLM2 folder
//! (MUSTER_TEST_MODEL) and MUSTER_TEST_DATA. If one is missing, a test says that it is skipped. MUSTER_TEST_TEMPLATES
//! may name a folder with more `.jinja` files. There, `NAME_training.jinja` is the marked twin of `NAME.jinja`.

mod comparison;
mod control;
mod conversations;
mod family;
mod named;
mod peer;
mod rendering;
mod vocabulary;

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use comparison::{Comparison, DAY, Pair, compare, prepare};
use data::{ChatTemplate, Folder, Marking, Template, Think};
use family::Family;
use peer::{Peer, variable};
use serde_json::{Value, json};

#[test]
fn masks_of_marked_templates_are_those_of_transformers() -> Result<()> {
    let Some(peer) = Peer::find("masks_of_marked_templates_are_those_of_transformers") else {
        return Ok(());
    };
    let at = tempfile::tempdir()?;
    let mut families = Family::all(at.path())?;
    families.retain(Family::is_marked);
    let pairs: Vec<Pair> = families.iter().map(|family| family.against(&family.source)).collect();
    for found in print(&pairs, compare(&peer, &pairs, &conversations::all())?)? {
        ensure!(
            found.equal == found.trained() && found.other_text == 0,
            "a template's own marks are used unchanged"
        );
        ensure!(found.equal > 0, "nothing was compared");
    }
    Ok(())
}

#[test]
fn masks_of_unmarked_templates_are_those_of_their_marked_twins() -> Result<()> {
    let Some(peer) = Peer::find("masks_of_unmarked_templates_are_those_of_their_marked_twins")
    else {
        return Ok(());
    };
    let at = tempfile::tempdir()?;
    let families = Family::all(at.path())?;
    let pair = |marked: &Family| {
        let is_twin = |other: &&Family| other.name == marked.unmarked_name() && !other.is_marked();
        Some(families.iter().find(is_twin)?.against(&marked.source))
    };
    let pairs: Vec<Pair> = families.iter().filter(|f| f.is_marked()).filter_map(pair).collect();
    print(&pairs, compare(&peer, &pairs, &conversations::all())?)?;
    Ok(())
}

/// Compares the marks that we ship for known templates.
#[test]
fn shipped_marks_change_no_byte_and_give_the_masks_of_transformers() -> Result<()> {
    const TEST: &str = "shipped_marks_change_no_byte_and_give_the_masks_of_transformers";
    let Some(peer) = Peer::find(TEST) else {
        return Ok(());
    };
    let at = tempfile::tempdir()?;
    let families = Family::all(at.path())?;
    let mut pairs = Vec::new();
    for family in &families {
        pairs.extend(family.parse()?.with_known_marks().map(|marked| family.against(marked)));
    }
    for found in print(&pairs, compare(&peer, &pairs, &conversations::all())?)? {
        ensure!(
            found.equal == found.trained() && found.other_text == 0,
            "the marks are used unchanged"
        );
        ensure!(found.equal > 0, "nothing was compared");
    }
    Ok(())
}

/// An empty thinking block, or the tag that opens one, is not trained if a generation prompt writes it. The prompts
/// are those of `transformers`, with thinking left alone and switched off.
#[test]
fn what_prompts_write_is_not_trained() -> Result<()> {
    let Some(peer) = Peer::find("what_prompts_write_is_not_trained") else {
        return Ok(());
    };
    let at = tempfile::tempdir()?;
    let (mut pairs, mut supplied) = (Vec::new(), Vec::new());
    for family in &Family::all(at.path())? {
        let marked = match family.parse()?.with_known_marks() {
            Some(marked) => marked.to_owned(),
            None if family.is_marked() => family.source.clone(),
            None => continue,
        };
        pairs.push(Pair { think: Think::Prompt, ..family.against(&marked) });
    }
    let records = conversations::all();
    for (pair, found) in pairs.iter().zip(print(&pairs, compare(&peer, &pairs, &records)?)?) {
        ensure!(found.equal == found.trained() && found.other_text == 0, "{}", pair.name);
        let trained = |think| -> Result<Vec<_>> {
            let (_, outcomes) = prepare(&Pair { think, ..pair.clone() }, &records)?;
            Ok(outcomes.into_iter().map(|o| o.ok().map(|sample| sample.weights)).collect())
        };
        let changed = trained(Think::Prompt)? != trained(Think::Train)?;
        supplied.extend(changed.then(|| pair.name.clone()));
    }
    for name in ["thinking", "thoughtful"] {
        ensure!(supplied.iter().any(|found| found == name), "{name} is not among {supplied:?}");
    }
    Ok(())
}

/// Prints which of the four ways to find masks each template takes, and how many records it can train on.
#[test]
fn every_template_is_marked_known_proven_or_refused() -> Result<()> {
    let at = tempfile::tempdir()?;
    let records = conversations::all();
    let families = Family::all(at.path())?;
    ensure!(!families.is_empty() && !records.is_empty());
    for family in families {
        let marking = family.parse()?.marking();
        let (_, outcomes) = prepare(&family.against(&family.source), &records)?;
        let trained = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let mut refusals = BTreeMap::<&str, usize>::new();
        for why in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            *refusals.entry(why).or_default() += 1;
        }
        println!("{:40} {marking:?}: {trained} of {} {refusals:?}", family.name, records.len());
        ensure!(trained > 0 || marking == Marking::Proof, "{refusals:?}");
    }
    Ok(())
}

/// Prints one line per template, and checks that no record differs.
fn print(pairs: &[Pair], found: Vec<Comparison>) -> Result<Vec<Comparison>> {
    ensure!(!found.is_empty() && found.len() == pairs.len(), "nothing was compared");
    let mut different = Vec::new();
    for (pair, found) in pairs.iter().zip(&found) {
        println!("{:30} {found}", pair.name);
        different.extend(found.different.iter().map(|what| format!("{}: {what}", pair.name)));
    }
    ensure!(different.is_empty(), "{}", different.join("\n"));
    Ok(found)
}

#[test]
fn masks_are_those_of_transformers_on_real_data() -> Result<()> {
    const TEST: &str = "masks_are_those_of_transformers_on_real_data";
    let (Some(peer), Some(model), Some(data)) =
        (Peer::find(TEST), variable("MUSTER_TEST_MODEL", TEST), variable("MUSTER_TEST_DATA", TEST))
    else {
        return Ok(());
    };
    let text = fs::read_to_string(data.join("data/alpaca_en_demo.json"))?;
    let records: Vec<Value> = serde_json::from_str(&text)?;
    let records: Vec<Value> = records.iter().map(alpaca).collect();
    let folder = Folder::read(&model)?;
    let templates = folder.chat_templates();
    let source = *templates.get("default").context("SmolLM2 has a template")?;
    let template = Template::new(source, &folder.special_tokens(), DAY.context("a day")?)?;
    let pair = Pair {
        name: "SmolLM2, alpaca_en_demo".into(),
        folder: model,
        ours: ChatTemplate::Tokenizer,
        marked: template.with_known_marks().context("SmolLM2 is known")?.to_owned(),
        wanted: conversations::as_it_is,
        think: Think::Prompt,
    };
    let pairs = [pair];
    for found in print(&pairs, compare(&peer, &pairs, &records)?)? {
        ensure!(found.equal > 0 && found.equal == found.trained());
    }
    Ok(())
}

/// Converts a record of Alpaca's fields to a conversation.
fn alpaca(record: &Value) -> Value {
    let field = |name: &str| record[name].as_str().unwrap_or_default();
    let question = match field("input") {
        "" => field("instruction").to_owned(),
        input => format!("{}\n{input}", field("instruction")),
    };
    let answer = json!({"role": "assistant", "content": field("output")});
    json!({"messages": [{"role": "user", "content": question}, answer]})
}
