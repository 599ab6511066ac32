//! A name on the Hugging Face hub: `[datasets/]owner/name[@revision][/path][#commit]`.
//!
//! A revision may move; what a run reads must not. So a name is resolved once, when the run is submitted, and the
//! commit is kept behind `#` in the resolved spec: the user's own words stay readable before it, and a resumed run
//! compares them.

use std::fmt;

/// What kind of repository a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Weights, a config, a tokenizer.
    Model,
    /// Data files.
    Dataset,
}

impl Kind {
    /// The kind's folder in the hub's interface.
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }

    /// What stands before `owner/name` in the hub's own URLs.
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
    /// Reads a full hash; nothing shorter names a commit for good.
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

/// A repository on the hub, at a revision, and what is meant in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubName {
    /// A model or a data set.
    pub kind: Kind,
    /// `owner/name`.
    pub repo: String,
    /// A branch, a tag or a commit, as the user wrote it; none: the main branch.
    pub revision: Option<String>,
    /// A file, a folder or a glob in the repository; empty: all of it.
    pub path: String,
    /// What the revision was when the run was submitted.
    pub commit: Option<Commit>,
}

impl HubName {
    /// Reads what stands behind `hf://`; none for what names no repository.
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

    /// The commit, where the name is pinned to one or is one itself.
    pub fn pinned(&self) -> Option<Commit> {
        self.commit.clone().or_else(|| self.revision.as_deref().and_then(Commit::parse))
    }

    /// The same name, resolved.
    pub fn at(&self, commit: Commit) -> Self {
        Self { commit: Some(commit), ..self.clone() }
    }

    /// The name as the user wrote it.
    pub fn unpinned(&self) -> Self {
        Self { commit: None, ..self.clone() }
    }
}

/// What stands behind `hf://`; [`HubName::parse`] reads it back.
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
    fn names_are_read_part_by_part_and_written_back() {
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
    fn what_names_no_repository_is_refused() {
        for text in ["a", "a/", "datasets/a", "spaces/a/b", "a/b@", "a/b#main", "a/..", "a/b c"] {
            assert_eq!(HubName::parse(text), None, "{text}");
        }
        assert_eq!(HubName::parse("datasets/a/b/../../etc"), None);
    }

    #[test]
    fn a_name_is_pinned_by_its_commit_whatever_its_revision() {
        let pinned = |text: &str| HubName::parse(text).unwrap().pinned();
        assert_eq!(pinned("a/b@v1"), None);
        assert_eq!(pinned(&format!("a/b@v1#{COMMIT}")), Commit::parse(COMMIT));
        assert_eq!(pinned(&format!("a/b@{COMMIT}")), Commit::parse(COMMIT));
        assert_eq!(Commit::parse(&COMMIT[..39]), None);
    }
}
