//! A small client for the Hugging Face hub: resolves revisions and lists files.
//!
//! The crate `hf-hub` can do this and much more, but it depends on its own store (Xet) and a second TLS library,
//! about 250 crates in all. Files themselves are read like those of any web server; see `store`.
//!
//! `HF_ENDPOINT` selects another hub, and `HF_TOKEN` (or the file written by `hf auth login`) the user. The token is
//! never sent to another host: the HTTP client removes it on redirects, and a next page on another host is refused.

pub(crate) mod store;

use crate::client::{self, Redirects};
use proto::spec::HubName;
use proto::spec::hub::{Commit, Kind};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LINK};
use reqwest::{Response, Url};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// The default hub.
const ENDPOINT: &str = "https://huggingface.co";
/// The timeout of a request, such as one for a page of a listing.
const REQUEST: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(5);
/// The number of attempts at a request if the hub is busy. Pauses double after each.
const ATTEMPTS: u32 = 5;
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The maximum number of pages of a listing, of a thousand files each.
const PAGES: usize = 1000;

/// An error of the hub.
#[derive(Debug, Error)]
pub enum Error {
    /// `HF_ENDPOINT` or `HF_TOKEN` cannot be used.
    #[error("{variable} is not {wanted}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// The repository does not exist, or this user may not see it.
    #[error("the hub has no `{repo}`, or it is private\nhint: {}", private_hint(.signed_in))]
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
        /// The revision as given.
        revision: String,
    },
    /// The repository's owner must grant this user access first.
    #[error(
        "`{repo}` is gated\nhint: accept its terms at {url}, and set HF_TOKEN to a token that may read it"
    )]
    Gated {
        /// `owner/name`, with its kind.
        repo: String,
        /// Where to ask for access.
        url: String,
    },
    /// The token does not allow access.
    #[error("the hub refuses access to `{repo}` ({status})\nhint: {}", private_hint(.signed_in))]
    Refused {
        /// `owner/name`, with its kind.
        repo: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        signed_in: bool,
    },
    /// The hub's reply is not the expected one.
    #[error("the hub's answer about `{repo}` cannot be used: {what}")]
    Answer {
        /// `owner/name`, with its kind.
        repo: String,
        /// What is wrong.
        what: String,
    },
    /// The hub did not reply.
    #[error("the hub at {endpoint} does not answer\nhint: check HF_ENDPOINT and the network")]
    Unreachable {
        /// The URL of the hub.
        endpoint: String,
        /// The client's error.
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
    /// Whether the cause is the name or the user's permissions, and not the hub or the network.
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
    /// Its path, relative to the root of the repository.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in lower-case hex, if it is in large file storage.
    pub sha256: Option<String>,
}

/// A hub and the token of its user.
#[derive(Clone, Debug)]
pub struct Hub {
    endpoint: Url,
    client: reqwest::Client,
    headers: HeaderMap,
}

impl Hub {
    /// The hub and the user in the environment.
    ///
    /// # Errors
    /// [`Error::Environment`] if they are invalid.
    pub fn from_env() -> Result<Self, Error> {
        let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_default();
        let endpoint = if endpoint.is_empty() { ENDPOINT } else { &endpoint };
        Self::new(endpoint, token())
    }

    /// The hub at `endpoint`, with the token of its user.
    ///
    /// # Errors
    /// [`Error::Environment`] if they are invalid.
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Self, Error> {
        let environment = |variable, wanted| Error::Environment { variable, wanted };
        let wanted = environment("HF_ENDPOINT", "the URL of a hub: https://host");
        let endpoint = match Url::parse(endpoint.trim_end_matches('/')) {
            Ok(url) if matches!(url.scheme(), "https" | "http") && url.has_host() => url,
            Ok(_) | Err(_) => return Err(wanted),
        };
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|_| environment("HF_TOKEN", "a valid token"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = client::guarded((CONNECT, REQUEST), Redirects::Anywhere)
            .build()
            .map_err(|source| Error::Unreachable { endpoint: endpoint.to_string(), source })?;
        Ok(Self { endpoint, client, headers })
    }

    /// Resolves a name to the current commit of its revision.
    ///
    /// # Errors
    /// See [`enum@Error`].
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
        let wrong = || repo.answer(format!("`{}` is not a commit", info.sha));
        Commit::parse(&info.sha).ok_or_else(wrong)
    }

    /// Lists the files under `folder` of a repository at a commit. An empty `folder` is the whole repository.
    ///
    /// # Errors
    /// See [`enum@Error`].
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

    /// The URL under which the files of a commit are read, without a trailing slash.
    pub(crate) fn resolve_url(&self, kind: Kind, name: &str, commit: &Commit) -> Url {
        let before: Vec<_> = kind.prefix().split('/').filter(|p| !p.is_empty()).collect();
        self.url(&before, name, &["resolve", commit.as_str()])
    }

    /// The headers of every request to this hub.
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

    /// Sends a request and retries it while the hub is busy or unreachable.
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

    /// The error for a refused request, based on the error code in the hub's header.
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
            // Without a token, the hub does not reveal whether a private repository exists.
            (_, 401) if !signed_in => Error::NoRepo { repo: repo_name, signed_in },
            (_, 401 | 403) => Error::Refused { repo: repo_name, status, signed_in },
            (code, status) => repo.answer(format!("status {status} {}", code.unwrap_or_default())),
        }
    }
}

/// The repository and revision of a request, for error messages.
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

/// An entry of the hub's tree listing.
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

/// The URL with `rel="next"` in a `Link` header.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get(LINK)?.to_str().ok()?;
    links.split(',').find_map(|link| {
        let (address, relation) = link.split_once(';')?;
        let address = address.trim().strip_prefix('<')?.strip_suffix('>')?;
        relation.contains("rel=\"next\"").then(|| address.to_owned())
    })
}

/// The user's token, from the places where the hub's own tools look for it.
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
    fn urls_follow_the_hubs_api() {
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
    fn an_endpoint_that_is_not_a_url_is_refused() {
        for bad in ["hub", "ftp://hub", "file:///hub"] {
            assert!(matches!(Hub::new(bad, None), Err(Error::Environment { .. })), "{bad}");
        }
    }
}
