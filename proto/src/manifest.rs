//! Manifests: the tables of contents of checkpoints, prepared data sets, staged models and plans.
//!
//! A manifest is written after everything that it names. A checkpoint exists once the run's journal names its
//! manifest.

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
    /// The lineage in which it was written.
    pub lineage: Lineage,
    /// Number of steps committed: training continues with step `step`, counted from 0.
    pub step: u64,
    /// Digest of the plan that the steps belong to.
    pub plan_digest: String,
    /// Digest of the whole state, equal on every rank. `None` in manifests of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_digest: Option<String>,
    /// Model files in Hugging Face format. Their keys are relative to the checkpoint's folder.
    pub model: Vec<File>,
    /// Optimizer state files. Their keys are relative to the checkpoint's folder.
    pub state: Vec<File>,
    /// The receipt up to this step, in the checkpoint's folder. `None` until it has been written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<File>,
}

/// One object of a checkpoint or of a staged model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Its key, relative to the folder of the checkpoint or model.
    pub key: String,
    /// Its exact size.
    pub bytes: u64,
    /// Digests of its content.
    #[serde(flatten)]
    pub digests: Digests,
    /// Names of the tensors in a file of weights or optimizer state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<String>,
}

/// Digests of a file's bytes, in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// SHA-256, which users can verify with other tools.
    pub sha256: String,
    /// xxh3-128, which workers verify when they read the file. It costs a tenth of SHA-256 and detects accidental
    /// damage as reliably. It does not detect malicious changes, but anyone who can change a file can also change
    /// its manifest.
    pub xxh3: String,
}

impl Digests {
    /// Computes the digests of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }
}

/// The manifest of a model that was staged from the Hugging Face hub.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Staged {
    /// The model's files. Their keys are relative to its folder.
    pub files: Vec<File>,
}

impl Staged {
    /// The key of this manifest, relative to the model's folder. It is written last.
    pub const MANIFEST: &'static str = "staged.json";
    /// The folder of additional chat templates, relative to the model's folder.
    pub const TEMPLATES: &'static str = "additional_chat_templates/";

    /// Whether the file at `path` in a repository is staged: weights as safetensors, configuration, tokenizer and
    /// templates, but not the same in other formats.
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
    /// The folder of the optimizer state, relative to the checkpoint's folder.
    pub const STATE: &'static str = "state";
    /// The receipt, relative to the checkpoint's folder.
    pub const RECEIPT: &'static str = "receipt.json";
    /// The file name of the index of a model's shards in `transformers`.
    pub const INDEX: &'static str = "model.safetensors.index.json";

    /// All files that the manifest names.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.model.iter().chain(&self.state).chain(&self.receipt)
    }

    /// The index of the model's shards in the format of `transformers`.
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

/// The manifest of a prepared data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// The objects that it was made from. Empty in manifests of older versions.
    #[serde(default)]
    pub objects: Vec<Origin>,
    /// The prepared shards, in the order of their indices.
    pub shards: Vec<PreparedShard>,
    /// The receipt of the whole data set.
    pub receipt: Receipt,
}

/// An object of a source, as it was listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// Its URL or path.
    pub url: String,
    /// Its size.
    pub bytes: u64,
    /// Its ETag, if the store has one.
    pub etag: Option<String>,
    /// The time of its last change, in milliseconds since 1970.
    pub modified_ms: u64,
}

/// A prepared shard. Its samples are in the order of the object's records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedShard {
    /// The number of lines or rows of the object before the shard, from which its positions count.
    pub starts_after: u64,
    /// The number of samples in each part. A shard without samples has no parts.
    pub parts: Vec<u64>,
}

/// A part of a prepared shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedPart {
    /// Its key under the output.
    pub key: String,
    /// See [`PreparedShard::starts_after`].
    pub starts_after: u64,
    /// The number of samples in it.
    pub samples: u64,
}

impl Prepared {
    /// The parts of all shards. Sample ids number the samples of these parts in this order.
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

/// The manifest of a stored plan. Its SHA-256 is the plan's digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The plan's totals.
    pub summary: Summary,
    /// Key, relative to the plan's folder, and SHA-256 of each chunk, in the order of their steps.
    pub chunks: Vec<(String, String)>,
    /// Key and SHA-256 of the held-out packs, which have one step per source. `None` if nothing is held out.
    pub held_out: Option<(String, String)>,
}

/// Lower-case hex SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&sha256_bytes(bytes))
}

/// Computes the digests of bytes that arrive in pieces.
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

    /// The digests of all pieces.
    pub fn finish(self) -> Digests {
        let sha256 = hex(&sha2::Digest::finalize(self.sha256));
        Digests { sha256, xxh3: self.checksum.finish() }
    }
}

/// Computes only [`Digests::xxh3`] of bytes that arrive in pieces.
#[derive(Clone, Default)]
pub struct Checksum(xxhash_rust::xxh3::Xxh3Default);

impl Checksum {
    /// Adds the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest in lower-case hex.
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

    /// The expected values were computed with Python's `hashlib.sha256` and `xxhash.xxh3_128`.
    #[test]
    fn digests_agree_with_other_implementations() {
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
