//! The list of the tokens that a coordinator accepts.
//!
//! A token is `muster-SCOPE-` and 64 hexadecimal digits, drawn from the operating system's random numbers. The list
//! has one JSON object per line, with the SHA-256 of a token instead of the token, so that the list is no secret. A
//! token with 256 random bits needs no salt and no slow hash: nobody can try that many.

use super::grants::{Grants, Scope};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use thiserror::Error;
use wire::credentials::Error;

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// SHA-256 of the token, in lower-case hexadecimal digits.
    pub(crate) sha256: String,
    pub(crate) scope: Scope,
    /// Who has the token. It is recorded with what they do.
    pub(crate) name: String,
    /// With the scope `join`: the beginning of the names of the workers that may use it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) prefix: String,
    /// When it stops being accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<DateTime<Utc>>,
    /// With the scope `join`: whether only a number may follow the prefix, as in the names of a pod's ranks. The list
    /// has no such entries.
    #[serde(skip)]
    pub(crate) of_pod: bool,
}

/// Why a token is not accepted.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum Refusal {
    #[error("the coordinator does not know this token")]
    Unknown,
    #[error(
        "the token of `{name}` has expired at {at}\nhint: `coordinator token` makes another one"
    )]
    Expired { name: String, at: DateTime<Utc> },
}

/// The accepted tokens, by their hashes.
#[derive(Debug, Default)]
pub(crate) struct Tokens(BTreeMap<String, Entry>);

impl Entry {
    /// What the token allows.
    pub(crate) fn grants(&self) -> Grants {
        self.scope.grants(&self.prefix)
    }
}

impl Tokens {
    /// Reads the list at `path`.
    ///
    /// # Errors
    /// [`Error`], which names the line that is not an entry.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
        let mut tokens = BTreeMap::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let malformed = |reason: String| {
                let reason = format!("has a line {} that is no token's: {reason}", index + 1);
                Error::Malformed { path: path.to_owned(), reason }
            };
            let entry: Entry = serde_json::from_str(line).map_err(|e| malformed(e.to_string()))?;
            if entry.sha256.len() != 64 || entry.sha256.bytes().any(|b| !is_digit(b)) {
                return Err(malformed("`sha256` must be 64 lower-case hexadecimal digits".into()));
            }
            tokens.insert(entry.sha256.clone(), entry);
        }
        Ok(Self(tokens))
    }

    /// The entry of a token.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn find(&self, token: &str, now: DateTime<Utc>) -> Result<&Entry, Refusal> {
        let entry = self.0.get(&hash(token)).ok_or(Refusal::Unknown)?;
        match entry.expires {
            Some(at) if at <= now => Err(Refusal::Expired { name: entry.name.clone(), at }),
            Some(_) | None => Ok(entry),
        }
    }
}

/// A new token.
pub(crate) fn fresh(scope: Scope) -> Result<String, rustls::Error> {
    let mut random = [0; 32];
    wire::credentials::provider().secure_random.fill(&mut random)?;
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("muster-{}-{digits}", scope.name()))
}

/// The hash of a token in the list.
pub(crate) fn hash(token: &str) -> String {
    proto::manifest::sha256(token.as_bytes())
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::grants::Runs;
    use chrono::TimeDelta;

    fn listed(lines: &[&str]) -> Result<Tokens, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        Tokens::read(file.path())
    }

    #[test]
    fn a_listed_token_is_accepted_until_it_expires_and_no_other() {
        let token = fresh(Scope::Join).unwrap();
        assert!(token.starts_with("muster-join-") && token.len() == 12 + 64, "{token}");
        assert_ne!(token, fresh(Scope::Join).unwrap());
        let now = Utc::now();
        let entry = Entry {
            sha256: hash(&token),
            scope: Scope::Join,
            name: "node pool".into(),
            prefix: "gpu-".into(),
            expires: Some(now + TimeDelta::hours(1)),
            of_pod: false,
        };
        let line = serde_json::to_string(&entry).unwrap();
        assert!(!line.contains(&token[12..]));
        let tokens = listed(&["", &line]).unwrap();
        assert_eq!(tokens.find(&token, now), Ok(&entry));
        assert_eq!(entry.grants(), Grants { join: Some("gpu-".into()), runs: Runs::None });
        let late = now + TimeDelta::hours(1);
        let expired = Refusal::Expired { name: "node pool".into(), at: late };
        assert_eq!(tokens.find(&token, late), Err(expired));
        assert_eq!(tokens.find(&format!("{token}0"), now), Err(Refusal::Unknown));
        assert_eq!(tokens.find("", now), Err(Refusal::Unknown));
    }

    #[test]
    fn a_line_that_is_no_entry_is_refused_by_its_number() {
        let good = format!(r#"{{"sha256":"{}","scope":"admin","name":"a"}}"#, "0".repeat(64));
        for bad in [
            r#"{"sha256":"00","scope":"admin","name":"a"}"#.to_owned(),
            good.replace("admin", "root"),
            good.replace("\"name\"", "\"nam\""),
            good.replace("000000", "ABCDEF"),
            "muster-admin-0".to_owned(),
        ] {
            let error = listed(&[&good, &bad]).unwrap_err().to_string();
            assert!(error.contains("has a line 2 that is no token's"), "{error}");
        }
        assert!(listed(&[&good]).is_ok() && listed(&[]).unwrap().0.is_empty());
    }
}
