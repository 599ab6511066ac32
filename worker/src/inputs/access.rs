//! Checks that this host can reach a run's sources, base and output before others depend on it. A node on which a
//! folder is not mounted, or hangs, is found while other nodes can still take over its work.

use super::{storage_trouble, trouble};
use crate::session::Trouble;
use futures::{StreamExt, TryStreamExt};
use proto::error::chain;
use proto::protocol::Cause;
use proto::spec::{ChatTemplate, HubName, Location, Scheme, Spec};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;
use storage::allow::Allowed;
use storage::{Patience, Storage};

/// How long a location may take to answer. A mount whose server is gone never answers.
const PATIENCE: Duration = Duration::from_secs(20);
/// Number of sources that are checked at the same time.
const AT_ONCE: usize = 8;

/// Checks that every source of the spec can be reached, without reading it.
///
/// # Errors
/// [`Cause::Data`] for a source that does not exist or that this host cannot read, [`Cause::Storage`] for one that
/// does not answer.
pub(crate) async fn check_sources(spec: &Spec) -> Result<(), Trouble> {
    check_allowed(spec)?;
    let sources = spec.data().sources();
    let locations: Vec<_> = sources.into_iter().map(|source| source.location.clone()).collect();
    futures::stream::iter(locations)
        .map(|location| check(location, PATIENCE))
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

/// Checks that specs may name what this one names. The coordinator has checked this, too, but perhaps for other hosts.
fn check_allowed(spec: &Spec) -> Result<(), Trouble> {
    let allowed = Allowed::here().map_err(|e| trouble(Cause::Internal)(e.to_string()))?;
    allowed.check_spec(spec).map_err(|(field, refused)| {
        let cause = if field == "model.base" { Cause::Model } else { Cause::Data };
        trouble(cause)(format!("{field}: {refused}"))
    })
}

/// Opens the output of the spec.
///
/// # Errors
/// [`Cause::Storage`].
pub(crate) async fn open_output(spec: &Spec) -> Result<Storage, Trouble> {
    let output = spec.output().to_string();
    let opened = on_disk(PATIENCE, {
        let output = output.clone();
        move || Storage::open_existing(&output)
    });
    match opened.await {
        Ok(opened) => opened.map_err(storage_trouble),
        Err((cause, what)) => Err(trouble(cause)(format!("output `{output}`: {what}"))),
    }
}

/// Checks a local base and a local chat template. Remote ones need no check: fetching them has deadlines.
///
/// # Errors
/// [`Cause::Model`] for one that does not exist or that this host cannot read, [`Cause::Storage`] for one that does
/// not answer.
pub(crate) async fn check_base(spec: &Spec) -> Result<(), Trouble> {
    check_allowed(spec)?;
    let base = spec.base();
    let template = match &spec.data().chat_template {
        ChatTemplate::File(location) => Some(("data.chat_template", location)),
        _ => None,
    };
    for (field, location) in [("model.base", &base)].into_iter().chain(template) {
        let Location::File(path) = location else { continue };
        let checked = async {
            check_path(path.clone(), PATIENCE).await?;
            check_links(path.clone()).await
        };
        checked.await.map_err(|(cause, what)| {
            let cause = if cause == Cause::Data { Cause::Model } else { cause };
            trouble(cause)(format!("{field} `{location}`: {what}"))
        })?;
    }
    Ok(())
}

async fn check(location: Location, patience: Duration) -> Result<(), Trouble> {
    let checked = match &location {
        Location::File(path) => check_path(path.clone(), patience).await,
        Location::Url { .. } | Location::Hub(_) => {
            let answer = tokio::time::timeout(patience, check_remote(&location, patience)).await;
            answer.unwrap_or_else(|_| Err(no_answer(patience)))
        }
    };
    checked.map_err(|(cause, what)| trouble(cause)(format!("data source `{location}`: {what}")))
}

fn no_answer(patience: Duration) -> (Cause, String) {
    (Cause::Storage, format!("no answer within {} s", patience.as_secs_f64()))
}

/// Asks the host's file system on a blocking thread. If it does not answer in time, that thread is abandoned.
async fn on_disk<T: Send + 'static>(
    patience: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Result<T, (Cause, String)> {
    let asked = tokio::task::spawn_blocking(ask);
    let answer = tokio::time::timeout(patience, asked).await.map_err(|_| no_answer(patience))?;
    answer.map_err(|e| (Cause::Internal, e.to_string()))
}

async fn check_path(path: PathBuf, patience: Duration) -> Result<(), (Cause, String)> {
    let found = on_disk(patience, move || probe(&path)).await?;
    found.map_err(|error| {
        let why = match error.kind() {
            ErrorKind::NotFound => "it does not exist on this host".to_owned(),
            _ => format!("this host cannot read it: {error}"),
        };
        let hint = "mount it on every node, or name a location that every node can read";
        (Cause::Data, format!("{why}\nhint: {hint}"))
    })
}

/// Checks that no link in a folder leads to a file that may not be read.
async fn check_links(folder: PathBuf) -> Result<(), (Cause, String)> {
    let data = |what: String| (Cause::Data, what);
    let allowed = Allowed::here().map_err(|e| data(e.to_string()))?;
    let check = move || -> Result<(), String> {
        let Ok(files) = folder.read_dir() else { return Ok(()) };
        for real in files.flatten().filter_map(|file| file.path().canonicalize().ok()) {
            allowed.check_file(&real).map_err(|refused| refused.to_string())?;
        }
        Ok(())
    };
    on_disk(PATIENCE, check).await?.map_err(data)
}

/// Succeeds for a file that can be opened, a folder that can be listed, or a pattern that matches something.
fn probe(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => fs::read_dir(path).map(drop),
        Ok(found) if found.is_file() => File::open(path).map(drop),
        // Opening a pipe would block until it has a writer.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let matched = glob::glob(&path.to_string_lossy()).into_iter().flatten().next();
            matched.map_or(Err(error), |_| Ok(()))
        }
        Err(error) => Err(error),
    }
}

async fn check_remote(location: &Location, patience: Duration) -> Result<(), (Cause, String)> {
    let unread = |e: storage::Error| {
        let cause = if e.is_users() { Cause::Data } else { Cause::Storage };
        (cause, chain(&e))
    };
    if exists(location, patience).await.map_err(unread)? {
        Ok(())
    } else {
        Err((Cause::Data, "there is no such object".into()))
    }
}

async fn exists(location: &Location, patience: Duration) -> Result<bool, storage::Error> {
    let (root, key) = match location {
        Location::Url { scheme: Scheme::S3 | Scheme::Gs | Scheme::Az, path }
            if !path.contains('/') =>
        {
            (location.to_string(), String::new())
        }
        Location::Hub(name) => {
            let root = HubName { path: String::new(), ..name.clone() };
            (Location::Hub(root).to_string(), name.path.clone())
        }
        Location::Url { .. } | Location::File(_) => storage::split(&location.to_string())?,
    };
    let storage = Storage::open_existing(&root)?.patient(Patience::Within(patience))?;
    let storage = storage.confined()?;
    let is_listed = match location {
        Location::Url { scheme, .. } => scheme.is_listed(),
        Location::Hub(_) | Location::File(_) => true,
    };
    if !is_listed {
        return Ok(storage.head(&key).await?.is_some());
    }
    let is_pattern = |part: &&str| part.contains(['*', '?', '[']);
    let plain: Vec<_> = key.split('/').take_while(|part| !is_pattern(part)).collect();
    let plain = plain.join("/");
    let is_object = plain == key && !key.is_empty() && storage.head(&key).await?.is_some();
    Ok(is_object || storage.holds(&plain).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check_url(url: &str, patience: Duration) -> Result<(), Trouble> {
        check(Location::parse(url, Path::new("/")).unwrap(), patience).await
    }

    #[tokio::test]
    async fn existing_files_folders_and_patterns_pass_and_others_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        fs::create_dir(folder.path().join("x")).unwrap();
        fs::write(folder.path().join("x/a.jsonl"), "{}").unwrap();
        fs::write(folder.path().join("[b].jsonl"), "{}").unwrap();
        for there in ["", "x", "x/a.jsonl", "x/*.jsonl", "**/a.*", "[b].jsonl"] {
            check_url(&at(there), PATIENCE).await.unwrap();
        }
        for missing in ["y", "x/b.jsonl", "x/*.csv", "y/*.jsonl", "x/[.jsonl"] {
            let trouble = check_url(&at(missing), PATIENCE).await.unwrap_err();
            assert_eq!(trouble.cause, Cause::Data);
            let expected =
                format!("data source `{}`: it does not exist on this host\nhint: ", at(missing));
            assert!(trouble.message.starts_with(&expected), "{}", trouble.message);
        }
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_not_a_fault_of_the_data() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/a.jsonl", socket.local_addr().unwrap());
        drop(socket);
        let trouble = check_url(&url, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(trouble.cause, Cause::Storage, "{}", trouble.message);
        assert!(trouble.message.starts_with(&format!("data source `{url}`: ")));
    }

    #[tokio::test]
    async fn a_file_system_that_never_answers_is_reported_and_not_waited_for() {
        let (answer, never) = std::sync::mpsc::channel::<()>();
        let patience = Duration::from_millis(50);
        let (cause, what) = on_disk(patience, move || never.recv()).await.unwrap_err();
        assert_eq!((cause, what.as_str()), (Cause::Storage, "no answer within 0.05 s"));
        drop(answer);
    }
}
