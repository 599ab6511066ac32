//! The tokenizer's files in a Hugging Face model folder, as written by `transformers` 4 and 5.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

/// Why a folder yields no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder has no `tokenizer.json`.
    #[error(
        "{}: no tokenizer.json\n\
         hint: `AutoTokenizer.from_pretrained(..).save_pretrained(..)` writes one, also from a \
         SentencePiece `tokenizer.model`",
        path.display()
    )]
    NoTokenizer {
        /// The folder.
        path: PathBuf,
    },
    /// The file exists but cannot be read.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        #[source]
        source: std::io::Error,
    },
    /// The path is a FIFO, a device or a socket: opening one may block forever.
    #[error("{}: not a regular file", path.display())]
    NotRegular {
        /// The path that was to be read.
        path: PathBuf,
    },
    /// The file is a Git LFS pointer to content that is stored elsewhere.
    #[error(
        "{}: a Git LFS pointer, not the file itself\nhint: `git lfs pull` in its folder fetches the file",
        path.display()
    )]
    GitLfs {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a JSON object.
    #[error("{}: not a JSON object", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
}

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";
const TOOL_TEMPLATE: &str = "additional_chat_templates/tool_use.jinja";
const GENERATION: &str = "generation_config.json";

/// Chat templates by name.
pub(super) type Templates<'a> = BTreeMap<&'a str, &'a str>;

/// The name of the template for all conversations.
pub(super) const DEFAULT: &str = "default";
/// The name of the template for conversations with tools.
pub(super) const TOOL_USE: &str = "tool_use";

/// The files that determine how text becomes tokens, as plain data that is not yet interpreted.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`, merged over `special_tokens_map.json` where that exists too.
    pub config: Map<String, Value>,
    /// `chat_template.jinja`, which takes precedence over the configuration's template.
    pub template: Option<String>,
    /// `additional_chat_templates/tool_use.jinja`, which takes precedence in the same way.
    pub tool_template: Option<String>,
    /// `generation_config.json`.
    pub generation: Map<String, Value>,
}

impl Folder {
    /// Every file that is read; together they determine the tokens.
    pub const FILES: [&str; 6] =
        [TOKENIZER, CONFIG, SPECIAL_TOKENS, TEMPLATE, TOOL_TEMPLATE, GENERATION];

    /// Reads those of the files that exist.
    ///
    /// # Errors
    /// A missing `tokenizer.json`, a file that cannot be read, a configuration that is not a JSON
    /// object.
    pub fn read(path: &Path) -> Result<Folder, FolderError> {
        let missing = || FolderError::NoTokenizer { path: path.to_owned() };
        let tokenizer = read(&path.join(TOKENIZER))?.ok_or_else(missing)?;
        refuse_pointer(&path.join(TOKENIZER), &tokenizer)?;
        let mut config = read_object(&path.join(SPECIAL_TOKENS))?;
        config.extend(read_object(&path.join(CONFIG))?);
        let text = |name: &str| -> Result<Option<String>, FolderError> {
            let bytes = read(&path.join(name))?;
            Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        Ok(Folder {
            tokenizer,
            config,
            template: text(TEMPLATE)?,
            tool_template: text(TOOL_TEMPLATE)?,
            generation: read_object(&path.join(GENERATION))?,
        })
    }

    /// The tokenizer's own chat templates by name: those from files if there are any, else the
    /// configuration's.
    pub fn chat_templates(&self) -> Templates<'_> {
        let files = [(DEFAULT, &self.template), (TOOL_USE, &self.tool_template)];
        let files = files.into_iter().filter_map(|(name, file)| Some((name, file.as_deref()?)));
        let files = Templates::from_iter(files);
        match self.config.get("chat_template") {
            Some(Value::String(template)) if files.is_empty() => [(DEFAULT, &**template)].into(),
            Some(Value::Array(named)) if files.is_empty() => {
                let named = named.iter().filter_map(|entry| {
                    Some((entry.get("name")?.as_str()?, entry.get("template")?.as_str()?))
                });
                named.collect()
            }
            _ => files,
        }
    }

    /// Builds the same from the contents of files, in the order of [`FILES`](Self::FILES). An empty
    /// content stands for a missing file.
    ///
    /// # Errors
    /// A configuration that is not a JSON object.
    pub fn of<B: AsRef<[u8]>>(contents: &[B]) -> Result<Folder, FolderError> {
        let content = |name: &str| {
            let at = Self::FILES.iter().position(|file| *file == name);
            let content = at.and_then(|at| contents.get(at)).map_or(&[][..], AsRef::as_ref);
            (!content.is_empty()).then_some(content)
        };
        let object = |name: &str| match content(name) {
            None => Ok(Map::new()),
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|source| FolderError::NotJson { path: name.into(), source }),
        };
        refuse_pointer(TOKENIZER.as_ref(), content(TOKENIZER).unwrap_or_default())?;
        let mut config = object(SPECIAL_TOKENS)?;
        config.extend(object(CONFIG)?);
        let text = |name| content(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        Ok(Folder {
            tokenizer: content(TOKENIZER).unwrap_or_default().to_vec(),
            config,
            template: text(TEMPLATE),
            tool_template: text(TOOL_TEMPLATE),
            generation: object(GENERATION)?,
        })
    }

    /// The tokens that the configuration names, in the order in which `transformers` adds those that
    /// `tokenizer.json` lacks.
    pub(super) fn added_tokens(&self) -> Vec<AddedToken> {
        let mut tokens = Vec::new();
        if let Some(Value::Object(decoder)) = self.config.get("added_tokens_decoder") {
            let numbered = decoder.iter().filter_map(|(id, token)| {
                Some((id.parse::<u32>().ok()?, added_token(token, false)?))
            });
            let numbered: BTreeMap<u32, AddedToken> = numbered.collect();
            tokens.extend(numbered.into_values());
        }
        let named = NAMES.iter().filter_map(|name| self.config.get(*name));
        tokens.extend(named.filter_map(|token| added_token(token, true)));
        for name in ["additional_special_tokens", "extra_special_tokens"] {
            let more: Vec<&Value> = match self.config.get(name) {
                Some(Value::Array(tokens)) => tokens.iter().collect(),
                Some(Value::Object(tokens)) => tokens.values().collect(),
                _ => Vec::new(),
            };
            tokens.extend(more.into_iter().filter_map(|token| added_token(token, true)));
        }
        tokens
    }

    /// The special tokens that templates use by name: `bos_token`, `eos_token` and the like.
    pub fn special_tokens(&self) -> Map<String, Value> {
        let named = NAMES.iter().filter_map(|name| {
            let content = token_text(self.config.get(*name)?)?;
            Some(((*name).to_owned(), Value::from(content)))
        });
        named.collect()
    }

    /// The ids at which the base stops generating, according to `generation_config.json`.
    pub fn stop_ids(&self) -> Vec<u32> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.generation.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
            Some(value) => id(value).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

/// The names of special tokens in the configuration.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token with its flags, as the configuration writes it.
fn added_token(value: &Value, is_special: bool) -> Option<AddedToken> {
    let content = token_text(value).filter(|content| !content.is_empty())?;
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = is_special || flag("special").unwrap_or(false);
    let token = AddedToken::from(content, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false));
    Some(token.normalized(flag("normalized").unwrap_or(!special)))
}

/// The text of a token, which is written as a string or as an object with a `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, FolderError> {
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(FolderError::NotRegular { path: path.to_owned() });
    }
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FolderError::Io { path: path.to_owned(), source }),
    }
}

fn refuse_pointer(path: &Path, content: &[u8]) -> Result<(), FolderError> {
    match content.starts_with(b"version https://git-lfs") {
        true => Err(FolderError::GitLfs { path: path.to_owned() }),
        false => Ok(()),
    }
}

fn read_object(path: &Path) -> Result<Map<String, Value>, FolderError> {
    let Some(bytes) = read(path)? else {
        return Ok(Map::new());
    };
    serde_json::from_slice(&bytes)
        .map_err(|source| FolderError::NotJson { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_generations_of_folders_are_read() {
        let at = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(at.path().join(name), text);
        let list =
            json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
        let config = json!({"eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null,
                            "chat_template": list});
        for (name, text) in [
            ("tokenizer.json", "{}"),
            ("tokenizer_config.json", &config.to_string()),
            ("special_tokens_map.json", r#"{"bos_token": "<s>", "eos_token": "old"}"#),
            ("generation_config.json", r#"{"eos_token_id": [2, 7]}"#),
        ] {
            write(name, text).expect("writes");
        }
        let folder = Folder::read(at.path()).expect("whole");
        assert_eq!(folder.chat_templates(), [("default", "d"), ("tool_use", "t")].into());
        let special = json!({"bos_token": "<s>", "eos_token": "</s>"});
        assert_eq!(Value::Object(folder.special_tokens()), special);
        assert_eq!(folder.stop_ids(), [2, 7]);
        write("chat_template.jinja", "file").expect("writes");
        let folder = Folder::read(at.path()).expect("whole");
        assert_eq!(folder.chat_templates(), [("default", "file")].into(), "without the list");
        std::fs::create_dir(at.path().join("additional_chat_templates")).expect("a folder");
        write("additional_chat_templates/tool_use.jinja", "tools").expect("writes");
        let folder = Folder::read(at.path()).expect("whole");
        let both = [("default", "file"), ("tool_use", "tools")].into();
        assert_eq!(folder.chat_templates(), both);
        write("tokenizer_config.json", "[").expect("writes");
        let error = Folder::read(at.path()).expect_err("not JSON").to_string();
        assert!(error.ends_with("tokenizer_config.json: not a JSON object"), "{error}");
        std::fs::remove_file(at.path().join("tokenizer.json")).expect("it was written");
        let _socket = std::os::unix::net::UnixListener::bind(at.path().join("tokenizer.json"));
        let error = Folder::read(at.path()).expect_err("a socket").to_string();
        assert!(error.ends_with("tokenizer.json: not a regular file"), "{error}");
    }
}
