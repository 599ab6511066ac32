//! Names on the Hugging Face hub: `[datasets/]owner/name[@revision][/path][#commit]`.
//!
//! A revision may move to another commit, but all of a run must read the same one. So a name is resolved once, when
//! the run is submitted, and the resolved spec contains the commit after a `#`. What the user wrote remains before
//! it, so that it can be compared when the run is resumed.

use std::fmt;

/// The kind of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A model: weights, a config and a tokenizer.
    Model,
    /// A data set: files of data.
    Dataset,
}

impl Kind {
    /// The path segment of this kind in the hub's API.
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }

    /// The prefix before `owner/name` in the hub's own URLs.
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::Model => "",
            Kind::Dataset => "datasets/",
        }
    }
}

/// A full commit hash: forty hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Commit(String);

impl Commit {
    /// Parses a full hash. A shorter one may become ambiguous.
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 40 && text.bytes().all(digit)).then(|| Self(text.to_owned()))
    }

    /// The hash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository on the hub, at a revision, and a path in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubName {
    /// Whether it is a model or a data set.
    pub kind: Kind,
    /// `owner/name`.
    pub repo: String,
    /// A branch, a tag or a commit, as the user wrote it. `None` is the main branch.
    pub revision: Option<String>,
    /// A file, a folder or a glob in the repository. Empty for the whole repository.
    pub path: String,
    /// The commit that the revision referred to when the run was submitted.
    pub commit: Option<Commit>,
}

impl HubName {
    /// Parses the text after `hf://`. Returns `None` if it does not name a repository.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, commit) = match text.rsplit_once('#') {
            Some((rest, commit)) => (rest, Some(Commit::parse(commit)?)),
            None => (text, None),
        };
        let (kind, rest) = match rest.strip_prefix("datasets/") {
            Some(rest) => (Kind::Dataset, rest),
            None => (Kind::Model, rest),
        };
        let mut parts = rest.split('/');
        let mut part = || parts.next().filter(|p| !p.is_empty());
        let (owner, name) = part().zip(part())?;
        let (name, revision) = match name.split_once('@') {
            Some((_, "")) => return None,
            // The hub's own branches have slashes in their names.
            Some((name, "refs")) => {
                let (group, id) = part().zip(part())?;
                (name, Some(format!("refs/{group}/{id}")))
            }
            Some((name, revision)) => (name, Some(revision.to_owned())),
            None => (name, None),
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let valid = |s: &str| s.chars().all(allowed) && !s.chars().all(|c| c == '.');
        if !valid(owner) || !valid(name) || name.is_empty() || owner == "spaces" {
            return None;
        }
        let path: Vec<_> = parts.filter(|p| !p.is_empty()).collect();
        if path.contains(&"..") {
            return None;
        }
        Some(Self { kind, repo: format!("{owner}/{name}"), revision, path: path.join("/"), commit })
    }

    /// The commit to which the name is resolved, or its revision if that is a full commit hash.
    pub fn pinned(&self) -> Option<Commit> {
        self.commit.clone().or_else(|| self.revision.as_deref().and_then(Commit::parse))
    }

    /// The same name, resolved to `commit`.
    pub fn at(&self, commit: Commit) -> Self {
        Self { commit: Some(commit), ..self.clone() }
    }

    /// The name as the user wrote it.
    pub fn unpinned(&self) -> Self {
        Self { commit: None, ..self.clone() }
    }
}

/// Formats the text after `hf://`, which [`HubName::parse`] reads back.
impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.prefix(), self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        match &self.commit {
            Some(commit) => write!(f, "#{}", commit.0),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn names_round_trip() {
        let name = HubName::parse("datasets/a/b.c@v1/data/*.jsonl").unwrap();
        assert_eq!((name.kind, name.repo.as_str()), (Kind::Dataset, "a/b.c"));
        assert_eq!((name.revision.as_deref(), name.path.as_str()), (Some("v1"), "data/*.jsonl"));
        let name = HubName::parse("datasets/a/b@refs/convert/parquet/default/train").unwrap();
        assert_eq!(name.revision.as_deref(), Some("refs/convert/parquet"));
        assert_eq!(name.path, "default/train");
        for text in [
            "a/b",
            "a/b@main",
            "datasets/a/b/x.json",
            "datasets/a/b@refs/pr/7/x.json",
            &format!("a/b@v1#{COMMIT}"),
            &format!("datasets/a/b/x y.json#{COMMIT}"),
        ] {
            assert_eq!(HubName::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_without_a_repository_are_refused() {
        for text in ["a", "a/", "datasets/a", "spaces/a/b", "a/b@", "a/b#main", "a/..", "a/b c"] {
            assert_eq!(HubName::parse(text), None, "{text}");
        }
        assert_eq!(HubName::parse("datasets/a/b/../../etc"), None);
    }

    #[test]
    fn a_name_is_pinned_by_its_commit_or_by_a_revision_that_is_a_commit() {
        let pinned = |text: &str| HubName::parse(text).unwrap().pinned();
        assert_eq!(pinned("a/b@v1"), None);
        assert_eq!(pinned(&format!("a/b@v1#{COMMIT}")), Commit::parse(COMMIT));
        assert_eq!(pinned(&format!("a/b@{COMMIT}")), Commit::parse(COMMIT));
        assert_eq!(Commit::parse(&COMMIT[..39]), None);
    }
}
