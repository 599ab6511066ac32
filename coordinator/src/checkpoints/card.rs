//! The model card of a finished model: its base, its data, its losses and its spec, in the format of the hub.

use anyhow::Context;
use minijinja::{Environment, context};
use proto::receipt::Receipt;
use proto::spec::{Location, Spec};

/// The file name of the card.
pub(super) const NAME: &str = "README.md";

const CARD: &str = include_str!("card.md");

/// Renders the card of the model that was trained by `steps` steps of `spec`. `losses` are held-out losses by steps
/// committed.
pub(super) fn card(
    spec: &Spec,
    receipt: &Receipt,
    steps: u64,
    losses: &[(u64, f64)],
) -> anyhow::Result<String> {
    let base = &spec.model().base;
    let datasets: Vec<_> = spec.data().train.iter().filter_map(|s| on_hub(&s.location)).collect();
    Environment::new()
        .render_str(
            CARD,
            context! {
                base_model => on_hub(base),
                base => base.to_string(),
                datasets,
                name => spec.name(),
                folder => spec.name(),
                version => env!("CARGO_PKG_VERSION"),
                steps,
                losses,
                total => receipt.total(),
                receipt => receipt.to_string(),
                spec => spec.resolved_yaml(),
            },
        )
        .context("the model card")
}

/// The name of a location on the hub; `None` if it is elsewhere.
fn on_hub(location: &Location) -> Option<String> {
    match location {
        Location::Hub(name) => Some(name.repo.clone()),
        Location::File(_) | Location::Url { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::receipt::Counts;
    use std::path::Path;

    #[test]
    fn a_card_has_the_front_matter_that_the_hub_expects() {
        let yaml = "name: tuned\nmodel: {base: hf://a/b}\ndata: {train: [{source: hf://datasets/c/d}, \
                    {source: ./e.jsonl}]}\noutput: ./runs\n";
        let spec = proto::spec::parse(yaml, Path::new("/home")).expect("valid");
        let counts = Counts { read: 9, eligible: 8, ..Counts::default() };
        let receipt = Receipt::of("e.jsonl", counts);
        let card = card(&spec, &receipt, 30, &[(0, 2.5), (30, 1.234_56)]).expect("renders");
        let (_, rest) = card.split_once("---\n").expect("front matter");
        let (front, body) = rest.split_once("---\n").expect("its end");
        let front: serde_json::Value = serde_yaml_ng::from_str(front).expect("YAML");
        let expected = serde_json::json!({
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "base_model": "a/b",
            "datasets": ["c/d"],
            "tags": ["muster", "sft"],
        });
        assert_eq!(front, expected);
        for words in
            ["30 optimizer steps; held-out loss 2.5 → 1.2346.", "| 30 | 1.2346 |", "9 records read"]
        {
            assert!(body.contains(words), "{words} in\n{body}");
        }
        assert!(body.contains("source: hf://datasets/c/d"), "{body}");
    }

    #[test]
    fn a_local_base_without_a_held_out_set_has_a_card_too() {
        let yaml = "name: t\nmodel: {base: ./m}\n\
                    data: {train: [{source: ./e.jsonl}], eval: {holdout: 0}}\noutput: ./r\n";
        let spec = proto::spec::parse(yaml, Path::new("/home")).expect("valid");
        let card = card(&spec, &Receipt::default(), 3, &[]).expect("renders");
        assert!(!card.contains("base_model") && !card.contains("Held-out"), "{card}");
        assert!(card.contains("`/home/m`, tuned to follow instructions with Muster"), "{card}");
    }
}
