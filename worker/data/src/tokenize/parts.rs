//! The contents of a `tokenizer.json`, as far as they are known here. Anything that is not in these
//! types is an error, and `tokenizers` then does the work.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use serde::Deserialize;

use super::Unknown;
use super::bpe::Bpe;
use super::split::Splitter;

/// Everything that determines ids and offsets, except for the added tokens.
pub(super) struct Parts {
    /// Whether text is first brought into normalization form C.
    pub(super) nfc: bool,
    /// How text is cut into words.
    pub(super) splitters: Vec<Splitter>,
    /// How a word becomes tokens.
    pub(super) bpe: Bpe,
    /// Whether offsets leave out white space at a token's edges.
    pub(super) trim_offsets: bool,
}

#[derive(Deserialize)]
struct File {
    normalizer: Option<Normalizer>,
    pre_tokenizer: PreTokenizer,
    post_processor: Option<PostProcessor>,
    model: Vocabulary,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Normalizer {
    #[serde(rename = "NFC")]
    Nfc,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    Sequence { pretokenizers: Vec<PreTokenizer> },
    Digits { individual_digits: bool },
    Split { pattern: Pattern, behavior: Behavior, invert: bool },
    ByteLevel { add_prefix_space: bool, use_regex: Option<bool> },
}

#[derive(Deserialize)]
enum Pattern {
    Regex(String),
}

#[derive(Deserialize)]
enum Behavior {
    Isolated,
    Removed,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostProcessor {
    Sequence { processors: Vec<PostProcessor> },
    ByteLevel { add_prefix_space: bool, trim_offsets: bool },
    TemplateProcessing {},
}

#[derive(Deserialize)]
enum Algorithm {
    #[serde(rename = "BPE")]
    Bpe,
}

#[derive(Deserialize)]
struct Vocabulary {
    #[serde(rename = "type")]
    _algorithm: Algorithm,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32, RandomState>,
    merges: Vec<Pair>,
}

/// A pair of tokens: separate, or in older files joined into one text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Pair {
    Apart(String, String),
    Joined(String),
}

impl Parts {
    /// # Errors
    /// A tokenizer with a part that is not known here.
    pub(super) fn read(json: &[u8]) -> Result<Parts, Unknown> {
        let file: File = serde_json::from_slice(json)?;
        Ok(Parts {
            nfc: file.normalizer.is_some_and(|Normalizer::Nfc| true),
            splitters: splitters(file.pre_tokenizer)?,
            bpe: bpe(&file.model)?,
            trim_offsets: match file.post_processor {
                Some(processor) => trims_offsets(&processor)?,
                None => false,
            },
        })
    }
}

/// The splitters before the final `ByteLevel`.
fn splitters(pre_tokenizer: PreTokenizer) -> Result<Vec<Splitter>, Unknown> {
    let mut stages = match pre_tokenizer {
        PreTokenizer::Sequence { pretokenizers } => pretokenizers,
        single => vec![single],
    };
    let Some(PreTokenizer::ByteLevel { add_prefix_space: false, use_regex }) = stages.pop() else {
        return Err(Unknown::Part("a pre-tokenizer that does not end with ByteLevel"));
    };
    let mut splitters: Vec<Splitter> =
        stages.into_iter().map(splitter).collect::<Result<_, _>>()?;
    if use_regex.unwrap_or(true) {
        splitters.push(Splitter::Gpt2);
    }
    Ok(splitters)
}

fn splitter(stage: PreTokenizer) -> Result<Splitter, Unknown> {
    match stage {
        PreTokenizer::Digits { individual_digits: individual } => {
            Ok(Splitter::Digits { individual })
        }
        // The known regexes leave no gaps, so removing what does not match is the same as isolating
        // what does.
        PreTokenizer::Split { pattern: Pattern::Regex(regex), behavior, invert } => {
            match (behavior, invert) {
                (Behavior::Isolated, _) | (Behavior::Removed, true) => {
                    Splitter::of_regex(&regex).ok_or(Unknown::Part("an unknown regex"))
                }
                (Behavior::Removed, false) => Err(Unknown::Part("words that are removed")),
            }
        }
        PreTokenizer::Sequence { .. } | PreTokenizer::ByteLevel { .. } => {
            Err(Unknown::Part("pre-tokenizers in an unexpected order"))
        }
    }
}

fn trims_offsets(processor: &PostProcessor) -> Result<bool, Unknown> {
    match processor {
        PostProcessor::Sequence { processors } => {
            let trims: Vec<bool> =
                processors.iter().map(trims_offsets).collect::<Result<_, _>>()?;
            if trims.iter().filter(|trims| **trims).count() > 1 {
                return Err(Unknown::Part("offsets that are trimmed twice"));
            }
            Ok(trims.contains(&true))
        }
        PostProcessor::ByteLevel { trim_offsets: false, .. }
        | PostProcessor::TemplateProcessing {} => Ok(false),
        PostProcessor::ByteLevel { add_prefix_space: false, .. } => Ok(true),
        PostProcessor::ByteLevel { .. } => Err(Unknown::Part("offsets of a space put in front")),
    }
}

fn bpe(vocabulary: &Vocabulary) -> Result<Bpe, Unknown> {
    let is_set = |affix: &Option<String>| affix.as_ref().is_some_and(|affix| !affix.is_empty());
    if vocabulary.dropout.is_some_and(|dropout| dropout > 0.0) {
        return Err(Unknown::Part("merges that are dropped at random"));
    }
    if is_set(&vocabulary.continuing_subword_prefix) || is_set(&vocabulary.end_of_word_suffix) {
        return Err(Unknown::Part("marks at the edges of words"));
    }
    let id = |token: &str| {
        let id = vocabulary.vocab.get(token).copied();
        id.ok_or(Unknown::Part("a merge outside of the vocabulary"))
    };
    let merge = |pair: &Pair| {
        let (left, right) = match pair {
            Pair::Apart(left, right) => (left.as_str(), right.as_str()),
            Pair::Joined(pair) => {
                pair.split_once(' ').ok_or(Unknown::Part("a merge that is not a pair"))?
            }
        };
        Ok((id(left)?, id(right)?, id(&[left, right].concat())?))
    };
    let merges: Vec<_> = vocabulary.merges.iter().map(merge).collect::<Result<_, Unknown>>()?;
    let mut bytes = [None; 256];
    let mut whole = HashMap::default();
    for (token, &id) in &vocabulary.vocab {
        let spelled: Option<Vec<u8>> = token.chars().map(byte).collect();
        match spelled.as_deref() {
            Some([byte]) => bytes[usize::from(*byte)] = Some(id),
            Some(word) if vocabulary.ignore_merges => {
                whole.insert(word.to_vec(), id);
            }
            _ => {}
        }
    }
    Ok(Bpe::new(bytes, merges, whole))
}

/// The byte that a character of a byte-level vocabulary stands for. A printable byte is spelled as
/// itself, the others by the characters from U+0100 on, in order (`openai/gpt-2`,
/// `src/encoder.py`).
fn byte(letter: char) -> Option<u8> {
    match letter {
        '!'..='~' | '¡'..='¬' | '®'..='ÿ' => u8::try_from(letter).ok(),
        'Ā'..='Ġ' => u8::try_from(letter as u32 - 0x100).ok(),
        'ġ'..='ł' => u8::try_from(letter as u32 - 0x121 + 0x7f).ok(),
        'Ń' => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn alphabet_spells_every_byte_once() {
        let spelled: BTreeSet<Option<u8>> = ByteLevel::alphabet().into_iter().map(byte).collect();
        assert_eq!(spelled, (0..=255).map(Some).collect());
        assert_eq!(
            [' ', 'Ġ', 'Ċ', 'a', 'Ń', '\u{144}'].map(byte),
            [None, Some(b' '), Some(b'\n'), Some(b'a'), Some(0xad), None]
        );
    }
}
