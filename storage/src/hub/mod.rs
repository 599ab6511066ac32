//! A thin client of the Hugging Face hub: what a revision is, and which files there are.
//!
//! The crate `hf-hub` can do this and far more; it also brings its own store (Xet) and a second TLS library, some 250
//! crates in all. Files themselves are read as from any web server: see `store`.
//!
//! `HF_ENDPOINT` names another hub, `HF_TOKEN` (or the file that `hf auth login` leaves) the user. The token is never
//! sent to another host: not to that of a redirect, which the HTTP client sees to, nor to that of a next page.

pub(crate) mod store;

use crate::client;
use proto::spec::HubName;
use proto::spec::hub::{Commit, Kind};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LINK};
use reqwest::{Response, Url};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// The hub that is meant where no other is named.
const ENDPOINT: &str = "https://huggingface.co";
/// A listing's page comes within this.
const REQUEST: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(5);
/// Attempts at a request that the hub was too busy for, each after twice the time of the one before.
const ATTEMPTS: u32 = 5;
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Pages of a listing, of a thousand files each.
const PAGES: usize = 1000;

/// Why the hub gave nothing.
#[derive(Debug, Error)]
pub enum Error {
    /// `HF_ENDPOINT` or `HF_TOKEN` cannot be used.
    #[error("{variable} is not {wanted}")]
    Environment {
        /// Which.
        variable: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// No such repository, or none that this user may know of.
    #[error("the hub knows no `{repo}`, or it is private\nhint: {}", private_hint(.signed_in))]
    NoRepo {
        /// `owner/name`, with its kind.
        repo: String,
        /// Whether a token was sent.
        signed_in: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("`{repo}` has no revision `{revision}`\nhint: name a branch, a tag or a full commit")]
    NoRevision {
        /// `owner/name`, with its kind.
        repo: String,
        /// As given.
        revision: String,
    },
    /// The repository's owner must let this user in first.
    #[error(
        "`{repo}` is gated\nhint: accept its terms at {url}, and set HF_TOKEN to a token that may read it"
    )]
    Gated {
        /// `owner/name`, with its kind.
        repo: String,
        /// Where to ask.
        url: String,
    },
    /// The token is not let in.
    #[error("the hub refuses to show `{repo}` ({status})\nhint: {}", private_hint(.signed_in))]
    Refused {
        /// `owner/name`, with its kind.
        repo: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        signed_in: bool,
    },
    /// It answered, but not with what was asked for.
    #[error("the hub's answer about `{repo}` cannot be used: {what}")]
    Answer {
        /// `owner/name`, with its kind.
        repo: String,
        /// What is wrong.
        what: String,
    },
    /// It did not answer.
    #[error("the hub at {endpoint} gives no answer\nhint: look at HF_ENDPOINT and the network")]
    Unreachable {
        /// Which hub.
        endpoint: String,
        /// The client's word.
        #[source]
        source: reqwest::Error,
    },
}

fn private_hint(signed_in: &bool) -> &'static str {
    if *signed_in {
        "check the name, and that the token in HF_TOKEN may read it"
    } else {
        "check the name; for a private or gated repository set HF_TOKEN"
    }
}

impl Error {
    /// Whether the name or the user's rights are at fault, rather than the hub or the way to it.
    pub fn is_users(&self) -> bool {
        match self {
            Error::Environment { .. }
            | Error::NoRepo { .. }
            | Error::NoRevision { .. }
            | Error::Gated { .. }
            | Error::Refused { .. } => true,
            Error::Answer { .. } | Error::Unreachable { .. } => false,
        }
    }
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Relative to the repository's root.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Lower-case hex, for what lies in large file storage.
    pub sha256: Option<String>,
}

/// A hub, and who asks.
#[derive(Clone, Debug)]
pub struct Hub {
    endpoint: Url,
    client: reqwest::Client,
    headers: HeaderMap,
}

impl Hub {
    /// The hub and the user that the environment names.
    ///
    /// # Errors
    /// [`Error::Environment`].
    pub fn from_env() -> Result<Self, Error> {
        let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_default();
        let endpoint = if endpoint.is_empty() { ENDPOINT } else { &endpoint };
        Self::new(endpoint, token())
    }

    /// The hub at `endpoint`, with the token of its user.
    ///
    /// # Errors
    /// [`Error::Environment`].
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Self, Error> {
        client::use_ring();
        let environment = |variable, wanted| Error::Environment { variable, wanted };
        let wanted = environment("HF_ENDPOINT", "the address of a hub: https://host");
        let endpoint = match Url::parse(endpoint.trim_end_matches('/')) {
            Ok(url) if matches!(url.scheme(), "https" | "http") && url.has_host() => url,
            Ok(_) | Err(_) => return Err(wanted),
        };
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|_| environment("HF_TOKEN", "a token"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client =
            reqwest::Client::builder()
                .connect_timeout(CONNECT)
                .timeout(REQUEST)
                .build()
                .map_err(|source| Error::Unreachable { endpoint: endpoint.to_string(), source })?;
        Ok(Self { endpoint, client, headers })
    }

    /// The commit that a name stands for now.
    ///
    /// # Errors
    /// As the hub answers.
    pub async fn resolve(&self, name: &HubName) -> Result<Commit, Error> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
        }
        if let Some(commit) = name.pinned() {
            return Ok(commit);
        }
        let revision = name.revision.as_deref().unwrap_or("main");
        let url = self.url(&["api", name.kind.folder()], &name.repo, &["revision", revision]);
        let repo = Repo::of(name.kind, &name.repo, revision);
        let answer = self.ask(url, &repo).await?;
        let info: Info = read(answer, &repo).await?;
        let wrong = || repo.answer(format!("`{}` is no commit", info.sha));
        Commit::parse(&info.sha).ok_or_else(wrong)
    }

    /// Every file of a repository at a commit, under `folder` (empty: all of it).
    ///
    /// # Errors
    /// As the hub answers.
    pub async fn files(
        &self,
        kind: Kind,
        name: &str,
        commit: &Commit,
        folder: &str,
    ) -> Result<Vec<File>, Error> {
        let repo = Repo::of(kind, name, commit.as_str());
        let mut under = vec!["tree", commit.as_str()];
        under.extend(folder.split('/').filter(|p| !p.is_empty()));
        let mut url = self.url(&["api", kind.folder()], name, &under);
        url.query_pairs_mut().append_pair("recursive", "true");
        let mut files = Vec::new();
        let mut next = Some(url);
        for _ in 0..PAGES {
            let Some(url) = next else { return Ok(files) };
            let answer = self.ask(url, &repo).await?;
            next = next_page(answer.headers()).and_then(|link| self.endpoint.join(&link).ok());
            if next.as_ref().is_some_and(|url| url.origin() != self.endpoint.origin()) {
                return Err(repo.answer("its next page is on another host".into()));
            }
            let page: Vec<Entry> = read(answer, &repo).await?;
            files.extend(page.into_iter().filter_map(Entry::into_file));
        }
        Err(repo.answer(format!("more than {PAGES} pages of files")))
    }

    /// The address under which a commit's files are read, without a slash at its end.
    pub(crate) fn resolve_url(&self, kind: Kind, name: &str, commit: &Commit) -> Url {
        let before: Vec<_> = kind.prefix().split('/').filter(|p| !p.is_empty()).collect();
        self.url(&before, name, &["resolve", commit.as_str()])
    }

    /// What every request for this hub carries.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn url(&self, before: &[&str], repo: &str, after: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(before).extend(repo.split('/')).extend(after);
        }
        url
    }

    /// Asks until the hub has an answer, a minute at most when it gives none.
    async fn ask(&self, url: Url, repo: &Repo) -> Result<Response, Error> {
        let mut pause = FIRST_RETRY;
        for attempt in 1.. {
            let request = self.client.get(url.clone()).headers(self.headers.clone());
            let busy = match request.send().await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) if answer.status().is_server_error() || answer.status() == 429 => {
                    repo.answer(format!("status {}", answer.status().as_u16()))
                }
                Ok(answer) => return Err(self.refusal(&answer, repo)),
                Err(e) => Error::Unreachable {
                    endpoint: self.endpoint.to_string(),
                    source: e.without_url(),
                },
            };
            if attempt >= ATTEMPTS {
                return Err(busy);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the last attempt returns")
    }

    /// What a refusal means; the hub names it in a header.
    fn refusal(&self, answer: &Response, repo: &Repo) -> Error {
        let status = answer.status().as_u16();
        let code = answer.headers().get("x-error-code").and_then(|v| v.to_str().ok());
        let (repo_name, signed_in) = (repo.name.clone(), self.headers.contains_key(AUTHORIZATION));
        match (code, status) {
            (Some("GatedRepo"), _) => {
                Error::Gated { url: format!("{}{}", self.endpoint, repo.name), repo: repo_name }
            }
            (Some("RevisionNotFound"), _) => {
                Error::NoRevision { repo: repo_name, revision: repo.revision.clone() }
            }
            (Some("RepoNotFound"), _) | (None, 404) => Error::NoRepo { repo: repo_name, signed_in },
            // To strangers, the hub denies that a private repository is there.
            (_, 401) if !signed_in => Error::NoRepo { repo: repo_name, signed_in },
            (_, 401 | 403) => Error::Refused { repo: repo_name, status, signed_in },
            (code, status) => repo.answer(format!("status {status} {}", code.unwrap_or_default())),
        }
    }
}

/// What a request is about, for its errors.
struct Repo {
    name: String,
    revision: String,
}

impl Repo {
    fn of(kind: Kind, name: &str, revision: &str) -> Self {
        Self { name: format!("{}{name}", kind.prefix()), revision: revision.to_owned() }
    }

    fn answer(&self, what: String) -> Error {
        Error::Answer { repo: self.name.clone(), what }
    }
}

/// An entry of the tree listing, as the hub tells it.
#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    oid: String,
    size: u64,
}

impl Entry {
    fn into_file(self) -> Option<File> {
        let (bytes, sha256) = match self.lfs {
            Some(lfs) => (lfs.size, Some(lfs.oid)),
            None => (self.size, None),
        };
        (self.r#type == "file").then_some(File { path: self.path, bytes, sha256 })
    }
}

async fn read<T: serde::de::DeserializeOwned>(answer: Response, repo: &Repo) -> Result<T, Error> {
    let body = answer.bytes().await.map_err(|e| repo.answer(e.without_url().to_string()))?;
    serde_json::from_slice(&body).map_err(|e| repo.answer(e.to_string()))
}

/// The address that a `Link` header names as `rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get(LINK)?.to_str().ok()?;
    links.split(',').find_map(|link| {
        let (address, relation) = link.split_once(';')?;
        let address = address.trim().strip_prefix('<')?.strip_suffix('>')?;
        relation.contains("rel=\"next\"").then(|| address.to_owned())
    })
}

/// The user's token, from where the hub's own tools look for it.
fn token() -> Option<String> {
    let variable = |name| std::env::var(name).ok().filter(|v: &String| !v.trim().is_empty());
    let file = || {
        let path = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| {
            let home = variable("HF_HOME").map(PathBuf::from);
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")));
            Some(home.or_else(|| Some(cache?.join("huggingface")))?.join("token"))
        })?;
        std::fs::read_to_string(path).ok()
    };
    let token = variable("HF_TOKEN").or_else(file)?;
    Some(token.trim().to_owned()).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        let mut headers = HeaderMap::new();
        assert_eq!(next_page(&headers), None);
        let links = "<https://h/a?cursor=1>; rel=\"prev\", <https://h/a?cursor=3>; rel=\"next\"";
        headers.insert(LINK, HeaderValue::from_static(links));
        assert_eq!(next_page(&headers).as_deref(), Some("https://h/a?cursor=3"));
    }

    #[test]
    fn addresses_are_the_hubs_own() {
        let hub = Hub::new("https://hub.example/mirror/", None).unwrap();
        let commit = Commit::parse(&"a".repeat(40)).unwrap();
        let url = hub.resolve_url(Kind::Dataset, "o/n", &commit).to_string();
        assert_eq!(url, format!("https://hub.example/mirror/datasets/o/n/resolve/{commit}"));
        let url = hub.url(&["api", "models"], "o/n", &["revision", "refs/pr/1"]).to_string();
        assert_eq!(url, "https://hub.example/mirror/api/models/o/n/revision/refs%2Fpr%2F1");
    }

    #[test]
    fn a_token_is_never_shown() {
        let hub = Hub::new("https://hub.example", Some("hf_secret".into())).unwrap();
        assert!(!format!("{hub:?}").contains("hf_secret"));
    }

    #[test]
    fn an_endpoint_that_is_no_address_is_refused() {
        for bad in ["hub", "ftp://hub", "file:///hub"] {
            assert!(matches!(Hub::new(bad, None), Err(Error::Environment { .. })), "{bad}");
        }
    }
}
