//! What a checkpoint, a prepared data set and a plan consist of.
//!
//! All are written after everything that they name. A checkpoint counts once the run's journal names its manifest.

use crate::id::{Lineage, RunId};
use crate::key;
use crate::plan::Summary;
use crate::receipt::Receipt;
use serde::{Deserialize, Serialize};

/// A checkpoint's table of contents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The run that wrote it.
    pub run: RunId,
    /// The lineage that it continues.
    pub lineage: Lineage,
    /// Steps committed: training goes on with step number `step`.
    pub step: u64,
    /// Digest of the plan that the steps belong to.
    pub plan_digest: String,
    /// Of the whole state, as every rank had it; none in a manifest of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_digest: Option<String>,
    /// Hugging Face model files, keys relative to the checkpoint's folder.
    pub model: Vec<File>,
    /// Optimizer state files, likewise.
    pub state: Vec<File>,
    /// What became of every record up to this step, likewise; none before the manifest is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<File>,
}

/// One object of a checkpoint or of a staged model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Relative to its folder.
    pub key: String,
    /// Its exact size.
    pub bytes: u64,
    /// What it is known by.
    #[serde(flatten)]
    pub digests: Digests,
    /// The tensors in a file of weights or of optimizer state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<String>,
}

/// What a file's bytes come to, in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// For the world: any tool can tell that the file is what was written.
    pub sha256: String,
    /// xxh3-128, for whoever reads the file anyway: it costs a tenth of SHA-256, and sees damage as surely. Malice it
    /// does not see; who can change a file here can change its manifest, too.
    pub xxh3: String,
}

impl Digests {
    /// Those of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }
}

/// What a model that was brought from the hub consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Staged {
    /// Keys relative to its folder.
    pub files: Vec<File>,
}

impl Staged {
    /// The table of contents, relative to the model's folder; written last.
    pub const MANIFEST: &'static str = "staged.json";
    /// The folder of a model's further chat templates, likewise.
    pub const TEMPLATES: &'static str = "additional_chat_templates/";

    /// Whether a file at `path` belongs to a model folder: weights, configuration, tokenizer and template, and nothing
    /// of the same in another format.
    pub fn takes(path: &str) -> bool {
        let tokenizer = ["merges.txt", "vocab.txt", "tokenizer.model"];
        let weights = path.starts_with("model") && path.ends_with(".safetensors");
        let described = path.ends_with(".json") || path.ends_with(".jinja");
        if let Some(template) = path.strip_prefix(Self::TEMPLATES) {
            return template.ends_with(".jinja") && !template.contains('/');
        }
        !path.contains('/')
            && path != Self::MANIFEST
            && (weights || described || tokenizer.contains(&path))
    }
}

impl Checkpoint {
    /// The folder of the model files, relative to the checkpoint's folder.
    pub const MODEL: &'static str = "model";
    /// The folder of the optimizer state, likewise.
    pub const STATE: &'static str = "state";
    /// The receipt, likewise.
    pub const RECEIPT: &'static str = "receipt.json";
    /// The index of a model's shards, as `transformers` names it.
    pub const INDEX: &'static str = "model.safetensors.index.json";

    /// Everything that it names.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.model.iter().chain(&self.state).chain(&self.receipt)
    }

    /// The index of the model's shards, as `transformers` reads it.
    pub fn model_index(model: &[File]) -> serde_json::Value {
        let weight_map: serde_json::Map<_, _> = model
            .iter()
            .flat_map(|f| {
                let name = f.key.rsplit('/').next().unwrap_or(&f.key);
                f.tensors.iter().map(move |t| (t.clone(), name.into()))
            })
            .collect();
        let total: u64 = model.iter().filter(|f| !f.tensors.is_empty()).map(|f| f.bytes).sum();
        serde_json::json!({"metadata": {"total_size": total}, "weight_map": weight_map})
    }
}

/// A prepared data set's table of contents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// What it was made of; nothing where an older version made it.
    #[serde(default)]
    pub objects: Vec<Origin>,
    /// The prepared shards, in the order of their indices.
    pub shards: Vec<PreparedShard>,
    /// What became of every record.
    pub receipt: Receipt,
}

/// An object of a source, as it was listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// Its place.
    pub url: String,
    /// Its size.
    pub bytes: u64,
    /// Its identity, where the store has one.
    pub etag: Option<String>,
    /// When it was last changed.
    pub modified_ms: u64,
}

/// A prepared shard, in the order of its object's records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedShard {
    /// The lines or rows of its object that lie before it: its positions count from there.
    pub starts_after: u64,
    /// Samples in each part; a shard without samples has none.
    pub parts: Vec<u64>,
}

/// A part of a prepared shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedPart {
    /// Its object, under the output.
    pub key: String,
    /// As for its shard.
    pub starts_after: u64,
    /// Samples in it.
    pub samples: u64,
}

impl Prepared {
    /// Every part of every shard: sample ids count through them in this order.
    pub fn parts(&self, fingerprint: &str) -> impl Iterator<Item = PreparedPart> {
        (0..).zip(&self.shards).flat_map(move |(index, shard)| {
            (0..).zip(&shard.parts).map(move |(part, samples)| PreparedPart {
                key: key::prepared_part(fingerprint, index, part),
                starts_after: shard.starts_after,
                samples: *samples,
            })
        })
    }
}

/// A stored plan's table of contents; its SHA-256 is the plan's digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The plan in numbers.
    pub summary: Summary,
    /// Chunks in the order of their steps: key relative to the plan's folder, and SHA-256.
    pub chunks: Vec<(String, String)>,
    /// The held-out packs, one step a source, likewise; none where nothing is held out.
    pub held_out: Option<(String, String)>,
}

/// Lower-case hex SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&sha256_bytes(bytes))
}

/// The digests of what comes in pieces.
#[derive(Clone, Default)]
pub struct Hasher {
    sha256: sha2::Sha256,
    checksum: Checksum,
}

impl Hasher {
    /// Adds the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        sha2::Digest::update(&mut self.sha256, piece);
        self.checksum.update(piece);
    }

    /// Those of all pieces.
    pub fn finish(self) -> Digests {
        let sha256 = hex(&sha2::Digest::finalize(self.sha256));
        Digests { sha256, xxh3: self.checksum.finish() }
    }
}

/// [`Digests::xxh3`] alone, of what comes in pieces.
#[derive(Clone, Default)]
pub struct Checksum(xxhash_rust::xxh3::Xxh3Default);

impl Checksum {
    /// Adds the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Lower-case hex.
    pub fn finish(self) -> String {
        format!("{:032x}", self.0.digest128())
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of `bytes`.
pub fn sha256_bytes(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Python's `hashlib.sha256` and `xxhash.xxh3_128` have it.
    #[test]
    fn digests_are_what_other_tools_say() {
        assert_eq!(Digests::of(b"").xxh3, "99aa06d3014798d86001c324468d497f");
        let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        let mut hasher = Hasher::default();
        for piece in bytes.chunks(4096 - 1) {
            hasher.update(piece);
        }
        let Digests { sha256, xxh3 } = hasher.finish();
        assert_eq!(sha256, "cd2df694e424bc7968cc37f47751019e5ca0cd1bdf2e479ea537c3a1c32ee1aa");
        assert_eq!(xxh3, "54182c58bbb1337c42c23aeead96750d");
    }
}
