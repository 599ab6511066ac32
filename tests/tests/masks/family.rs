//! A template with a tokenizer that has its family's special tokens. Without them there would be no stop token, and
//! the masks could not be compared.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use data::{ChatTemplate, Folder, Template, Think};
use serde_json::{Value, json};

use crate::comparison::{DAY, Pair};
use crate::conversations;
use crate::peer::manifest;

/// First and last token of a text, by a part of the template's name. The longest match counts.
const ENDS: [(&str, Option<&str>, &str); 22] = [
    ("", None, "<|im_end|>"),
    ("cohere", Some("<BOS_TOKEN>"), "<|END_OF_TURN_TOKEN|>"),
    ("deepseek", Some("<｜begin▁of▁sentence｜>"), "<｜end▁of▁sentence｜>"),
    ("diffusion_gemma", Some("<bos>"), "<turn|>"),
    ("firefunction", Some("<|begin_of_text|>"), "<|eot_id|>"),
    ("gemma", Some("<bos>"), "<eos>"),
    ("gemma4", Some("<bos>"), "<turn|>"),
    ("glm4", None, "<|endoftext|>"),
    ("gpt", Some("<|startoftext|>"), "<|return|>"),
    ("granite", None, "<|end_of_text|>"),
    ("hermes", Some("<|begin_of_text|>"), "<|im_end|>"),
    ("idefics3", Some("<|begin_of_text|>"), "<end_of_utterance>"),
    ("lfm2", Some("<|startoftext|>"), "<|im_end|>"),
    ("llama", Some("<|begin_of_text|>"), "<|eot_id|>"),
    ("llama2", Some("<s>"), "</s>"),
    ("llava", Some("<s>"), "</s>"),
    ("mistral", Some("<s>"), "</s>"),
    ("muse", Some("<|begin_of_text|>"), "<|eot|>"),
    ("nemotron", Some("<s>"), "<|im_end|>"),
    ("phi", Some("<s>"), "<|endoftext|>"),
    ("smol", Some("<|im_start|>"), "<|im_end|>"),
    ("zephyr", Some("<s>"), "</s>"),
];

/// Special tokens without bars.
const PLAIN: [&str; 7] = [
    "<start_of_turn>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<image>",
    "<sop>",
    "[INST]",
    "[/INST]",
];

/// A template as a model ships it.
pub(crate) struct Family {
    /// The file's name without `.jinja`.
    pub(crate) name: String,
    /// The template.
    pub(crate) source: String,
    /// A folder with the tokenizer, for us and for the peer.
    pub(crate) folder: PathBuf,
}

impl Family {
    /// All templates of the repository and of MUSTER_TEST_TEMPLATES. Writes their tokenizers under `at`.
    pub(crate) fn all(at: &Path) -> Result<Vec<Family>> {
        let more = std::env::var_os("MUSTER_TEST_TEMPLATES").map(PathBuf::from);
        let shipped = manifest("../worker/data/src/templates");
        let mut families = Vec::new();
        for folder in [manifest("templates"), shipped].into_iter().chain(more) {
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "jinja") {
                    let stem = path.file_stem().context("a file")?.to_string_lossy().into_owned();
                    let source = fs::read_to_string(&path)?;
                    let folder = at.join(families.len().to_string());
                    write_tokenizer(&folder, &stem, &source)?;
                    families.push(Family { name: stem, source, folder });
                }
            }
        }
        families.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(families)
    }

    /// Whether the template has `{% generation %}` marks.
    pub(crate) fn is_marked(&self) -> bool {
        self.source.contains("endgeneration")
    }

    /// Whether it is a vision model's template, which ignores plain text.
    pub(crate) fn wants_parts(&self) -> bool {
        ["idefics3", "llava_next", "smolvlm"].contains(&self.unmarked_name())
    }

    /// The name without TRL's suffix for marked templates.
    pub(crate) fn unmarked_name(&self) -> &str {
        self.name.trim_end_matches("_training")
    }

    /// Pairs this template with the marked template `marked` for the peer.
    pub(crate) fn against(&self, marked: &str) -> Pair {
        Pair {
            name: self.name.clone(),
            folder: self.folder.clone(),
            ours: ChatTemplate::Jinja(self.source.clone()),
            marked: marked.to_owned(),
            wanted: match self.unmarked_name() {
                _ if self.wants_parts() => conversations::in_parts,
                "deepseekv3" if !self.is_marked() => conversations::calls_as_texts,
                _ => conversations::as_it_is,
            },
            think: Think::Train,
        }
    }

    /// The parsed template.
    pub(crate) fn parse(&self) -> Result<Template> {
        let special = self.read()?.special_tokens();
        Ok(Template::new(&self.source, &special, DAY.context("a day")?)?)
    }

    /// Reads the tokenizer's folder.
    pub(crate) fn read(&self) -> Result<Folder> {
        Ok(Folder::read(&self.folder)?)
    }
}

/// The quick start's tokenizer with the special tokens that the template writes.
fn write_tokenizer(folder: &Path, name: &str, template: &str) -> Result<()> {
    let base = manifest("../deploy/quickstart/base/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(base)?)?;
    let (_, bos, eos) = ENDS
        .into_iter()
        .filter(|(part, ..)| name.contains(part))
        .max_by_key(|(part, ..)| part.len())
        .context("the first entry fits all")?;
    let mut tokens: BTreeSet<&str> = special_tokens(template);
    tokens.extend(bos.into_iter().chain([eos]));
    let vocabulary = tokenizer["model"]["vocab"].as_object().context("a vocabulary")?.len();
    let added = tokenizer["added_tokens"].as_array_mut().context("added tokens")?;
    let known: BTreeSet<String> =
        added.iter().filter_map(|token| Some(token["content"].as_str()?.to_owned())).collect();
    for (id, content) in (vocabulary..).zip(tokens.into_iter().filter(|t| !known.contains(*t))) {
        added.push(json!({"id": id, "content": content, "special": true, "single_word": false,
                          "lstrip": false, "rstrip": false, "normalized": false}));
    }
    fs::create_dir_all(folder)?;
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    let config = json!({"bos_token": bos, "eos_token": eos, "model_max_length": 1 << 20,
                        "clean_up_tokenization_spaces": false,
                        "tokenizer_class": "PreTrainedTokenizerFast"});
    fs::write(folder.join("tokenizer_config.json"), config.to_string())?;
    Ok(())
}

/// The special tokens in a template: texts between `<` and `>` with a bar at one end, and those in [`PLAIN`].
fn special_tokens(template: &str) -> BTreeSet<&str> {
    let bar = ['|', '｜'];
    let tag = |(start, _): (usize, &str)| {
        let end = template[start..].find('>')? + start;
        let inner = &template[start + 1..end];
        let is_one_word = !inner.contains(|c: char| c.is_whitespace() || "<'\"{}".contains(c));
        let has_bar = inner.starts_with(bar) || inner.ends_with(bar);
        (inner.len() > 1 && is_one_word && has_bar).then(|| &template[start..=end])
    };
    let tags = template.match_indices('<').filter_map(tag);
    tags.chain(PLAIN.into_iter().filter(|token| template.contains(token))).collect()
}
