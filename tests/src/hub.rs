//! A test hub: the part of the Hugging Face hub's interface that reading needs.
//!
//! ```text
//! GET  /api/{models,datasets}/O/N/revision/R      the commit of a revision
//! GET  /api/{models,datasets}/O/N/tree/C[/P]      files, in pages of two, with a Link header
//! HEAD, GET /[datasets/]O/N/resolve/C/P           a small file, or a redirect to the content network
//! ```
//!
//! The content network is another port and thereby another host, so a client that sends the token there has leaked it.

use crate::http::{Answer, Request, content, serve};
use proto::manifest::sha256;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The token that grants access to private repositories.
pub const TOKEN: &str = "hf_not_to_be_shown";
/// Larger files are in large file storage.
const SMALL: usize = 4096;
/// Names of every repository's only commit.
const REVISIONS: [&str; 2] = ["main", "v1"];
/// Number of files on a page of a listing.
const PAGE: usize = 2;

/// Who may read a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every client.
    Public,
    /// Clients that send the token.
    Private,
    /// No client, since the terms have not been accepted.
    Gated,
}

#[derive(Debug)]
struct Repository {
    /// `models/owner/name` or `datasets/owner/name`.
    id: String,
    access: Access,
    files: BTreeMap<String, Vec<u8>>,
}

/// The served repositories, and counts of requests.
#[derive(Debug, Default)]
struct State {
    repositories: Vec<Repository>,
    leaks: AtomicUsize,
    downloads: AtomicUsize,
}

/// Repositories that a hub will serve.
#[derive(Debug, Default)]
pub struct Repositories(Vec<Repository>);

/// A hub that answers for as long as the test's process runs.
#[derive(Clone, Copy, Debug)]
pub struct TestHub {
    state: &'static State,
    port: u16,
}

impl Repositories {
    /// Adds a repository, whose `id` is `models/owner/name` or `datasets/owner/name`.
    pub fn with(mut self, id: &str, access: Access, files: BTreeMap<String, Vec<u8>>) -> Self {
        self.0.push(Repository { id: id.into(), access, files });
        self
    }

    /// Starts the hub.
    pub fn serve(self) -> TestHub {
        let state: &'static State =
            Box::leak(Box::new(State { repositories: self.0, ..State::default() }));
        let network = serve(move |request| state.large_file(request));
        let port = serve(move |request| state.answer(request, network)).port();
        TestHub { state, port }
    }
}

impl TestHub {
    /// The environment in which Muster and the hub's Python client use this hub.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("HF_ENDPOINT", self.endpoint()), ("HF_TOKEN", TOKEN.into())]
    }

    /// URL of the hub.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Number of times that the token was sent to the content network.
    pub fn leaks(&self) -> usize {
        self.state.leaks.load(Ordering::SeqCst)
    }

    /// Number of reads of large files, whole or in part.
    pub fn downloads(&self) -> usize {
        self.state.downloads.load(Ordering::SeqCst)
    }
}

/// Reads the files of a folder, by name.
pub fn folder(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: &String| std::fs::read(path.join(name)).expect("it was listed");
    let names = crate::fixture::files(path);
    assert!(!names.is_empty(), "{} is empty", path.display());
    names
        .into_iter()
        .map(|name| {
            let body = read(&name);
            (name, body)
        })
        .collect()
}

/// The commit of a repository.
pub fn commit(id: &str) -> String {
    sha256(id.as_bytes())[..40].to_owned()
}

impl State {
    fn answer(&self, request: &Request, network: SocketAddr) -> Answer {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let parts: Vec<_> = path.split('/').filter(|p| !p.is_empty()).collect();
        let (api, parts) = match &parts[..] {
            ["api", rest @ ..] => (true, rest.to_vec()),
            ["datasets", ..] => (false, parts),
            _ => (false, [vec!["models"], parts].concat()),
        };
        let [kind, owner, name, action, revision, path @ ..] = &parts[..] else {
            return refusal(404, "EntryNotFound");
        };
        let id = format!("{kind}/{owner}/{name}");
        let Some(repository) = self.repositories.iter().find(|r| r.id == id) else {
            return refusal(404, "RepoNotFound");
        };
        let wanted = format!("Bearer {TOKEN}");
        let known = request.headers.get("authorization") == Some(&wanted);
        match repository.access {
            Access::Public => {}
            Access::Private if known => {}
            Access::Private => return refusal(401, "RepoNotFound"),
            Access::Gated => return refusal(403, "GatedRepo"),
        }
        let revision = revision.replace("%2F", "/");
        let commit = commit(&id);
        if revision != commit && !REVISIONS.contains(&&*revision) {
            return refusal(404, "RevisionNotFound");
        }
        let path = path.join("/");
        match (api, *action) {
            (true, "revision") => document(repository.info()),
            (true, "tree") => repository.tree(request, &path, query),
            (false, "resolve") => repository.resolve(request, &path, network),
            _ => refusal(404, "EntryNotFound"),
        }
    }

    fn large_file(&self, request: &Request) -> Answer {
        if request.headers.contains_key("authorization") {
            self.leaks.fetch_add(1, Ordering::SeqCst);
        }
        if request.method == "GET" {
            self.downloads.fetch_add(1, Ordering::SeqCst);
        }
        let digest = request.target.trim_start_matches('/');
        let all = self.repositories.iter().flat_map(|r| r.files.values());
        match all.into_iter().find(|body| sha256(body) == digest) {
            Some(body) => content(request, body),
            None => refusal(404, "EntryNotFound"),
        }
    }
}

impl Repository {
    fn info(&self) -> Value {
        let (_, name) = self.id.split_once('/').expect("a kind and a name");
        let siblings: Vec<_> = self.files.keys().map(|f| json!({"rfilename": f})).collect();
        json!({"id": name, "sha": commit(&self.id), "private": false, "siblings": siblings})
    }

    fn tree(&self, request: &Request, under: &str, query: &str) -> Answer {
        let cursor = query.split('&').find_map(|pair| pair.strip_prefix("cursor="));
        let start: usize = cursor.map_or(0, |c| c.parse().expect("made by this hub"));
        let inside = |path: &&String| {
            under.is_empty() || path.strip_prefix(under).is_some_and(|rest| rest.starts_with('/'))
        };
        let paths: Vec<_> = self.files.keys().filter(inside).collect();
        if paths.is_empty() {
            return refusal(404, "EntryNotFound");
        }
        let page = paths.iter().skip(start).take(PAGE).map(|path| self.entry(path));
        let mut answer = document(page.collect());
        if paths.len() > start + PAGE {
            let (path, _) = request.target.split_once('?').unwrap_or((&request.target, ""));
            let host = &request.headers["host"];
            let next = format!("http://{host}{path}?recursive=true&cursor={}", start + PAGE);
            answer.headers.push(("Link", format!("<{next}>; rel=\"next\"")));
        }
        answer
    }

    fn entry(&self, path: &str) -> Value {
        let body = &self.files[path];
        let oid = &sha256(body)[..40];
        let mut entry = json!({"type": "file", "path": path, "size": body.len(), "oid": oid});
        if body.len() > SMALL {
            entry["lfs"] = json!({"oid": sha256(body), "size": body.len(), "pointerSize": 134});
        }
        entry
    }

    fn resolve(&self, request: &Request, path: &str, network: SocketAddr) -> Answer {
        let Some(body) = self.files.get(path) else { return refusal(404, "EntryNotFound") };
        let digest = sha256(body);
        let commit = ("X-Repo-Commit", commit(&self.id));
        if body.len() <= SMALL {
            let mut answer = content(request, body);
            answer.headers.extend([commit, ("ETag", format!("\"{}\"", &digest[..40]))]);
            return answer;
        }
        let headers = vec![
            commit,
            ("Location", format!("http://{network}/{digest}")),
            ("X-Linked-ETag", format!("\"{digest}\"")),
            ("X-Linked-Size", body.len().to_string()),
        ];
        Answer { status: 302, headers, body: Vec::new() }
    }
}

fn document(value: Value) -> Answer {
    let headers = vec![("Content-Type", "application/json".into())];
    Answer { status: 200, headers, body: value.to_string().into_bytes() }
}

fn refusal(status: u16, code: &str) -> Answer {
    Answer { status, headers: vec![("X-Error-Code", code.into())], body: b"{}".to_vec() }
}
