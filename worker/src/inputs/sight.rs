//! Proof that this host sees what a run lies in and reads, before anybody relies on it: a node on which a folder is not
//! mounted, or hangs, is found out while others can still do its work.

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
use storage::{Patience, Storage};

/// How long one place may take to answer. A mount whose server is gone never does.
const PATIENCE: Duration = Duration::from_secs(20);
/// Sources that are looked at together.
const AT_ONCE: usize = 8;

/// Looks at every source of the spec; reads none.
///
/// # Errors
/// [`Cause::Data`] for one that is not there, or not for this host; [`Cause::Storage`] where nobody answers.
pub(crate) async fn of_sources(spec: &Spec) -> Result<(), Trouble> {
    let sources = spec.data().sources();
    let locations: Vec<_> = sources.into_iter().map(|source| source.location.clone()).collect();
    futures::stream::iter(locations)
        .map(|location| see(location, PATIENCE))
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

/// Opens the output of the spec.
///
/// # Errors
/// [`Cause::Storage`].
pub(crate) async fn of_output(spec: &Spec) -> Result<Storage, Trouble> {
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

/// Looks at a local base and a local chat template. Those that lie elsewhere are fetched, which has deadlines.
///
/// # Errors
/// [`Cause::Model`] for one that is not there, or not for this host; [`Cause::Storage`] where it does not answer.
pub(crate) async fn of_base(spec: &Spec) -> Result<(), Trouble> {
    let base = spec.base();
    let template = match &spec.data().chat_template {
        ChatTemplate::File(location) => Some(("data.chat_template", location)),
        _ => None,
    };
    for (field, location) in [("model.base", &base)].into_iter().chain(template) {
        let Location::File(path) = location else { continue };
        seen(path.clone(), PATIENCE).await.map_err(|(cause, what)| {
            let cause = if cause == Cause::Data { Cause::Model } else { cause };
            trouble(cause)(format!("{field} `{location}`: {what}"))
        })?;
    }
    Ok(())
}

async fn see(location: Location, patience: Duration) -> Result<(), Trouble> {
    let looked = match &location {
        Location::File(path) => seen(path.clone(), patience).await,
        Location::Url { .. } | Location::Hub(_) => {
            let answer = tokio::time::timeout(patience, remote(&location, patience)).await;
            answer.unwrap_or_else(|_| Err(silent(patience)))
        }
    };
    looked.map_err(|(cause, what)| trouble(cause)(format!("data source `{location}`: {what}")))
}

fn silent(patience: Duration) -> (Cause, String) {
    (Cause::Storage, format!("nothing answers within {} s", patience.as_secs_f64()))
}

/// What the host's file system answers. A thread that waits for it in vain is left behind.
async fn on_disk<T: Send + 'static>(
    patience: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Result<T, (Cause, String)> {
    let asked = tokio::task::spawn_blocking(ask);
    let answer = tokio::time::timeout(patience, asked).await.map_err(|_| silent(patience))?;
    answer.map_err(|e| (Cause::Internal, e.to_string()))
}

async fn seen(path: PathBuf, patience: Duration) -> Result<(), (Cause, String)> {
    let found = on_disk(patience, move || look(&path)).await?;
    found.map_err(|error| {
        let why = match error.kind() {
            ErrorKind::NotFound => "this host does not see it".to_owned(),
            _ => format!("this host cannot read it: {error}"),
        };
        let hint = "mount it on every node, or name a place that all of them reach";
        (Cause::Data, format!("{why}\nhint: {hint}"))
    })
}

/// A file that can be opened, a folder that can be listed, or a pattern that matches something.
fn look(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => fs::read_dir(path).map(drop),
        Ok(found) if found.is_file() => File::open(path).map(drop),
        // To open a pipe would wait for its writer.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let matched = glob::glob(&path.to_string_lossy()).into_iter().flatten().next();
            matched.map_or(Err(error), |_| Ok(()))
        }
        Err(error) => Err(error),
    }
}

async fn remote(location: &Location, patience: Duration) -> Result<(), (Cause, String)> {
    let unread = |e: storage::Error| {
        let cause = if e.is_users() { Cause::Data } else { Cause::Storage };
        (cause, chain(&e))
    };
    if is_there(location, patience).await.map_err(unread)? {
        Ok(())
    } else {
        Err((Cause::Data, "this host does not see it: there is no such object".into()))
    }
}

async fn is_there(location: &Location, patience: Duration) -> Result<bool, storage::Error> {
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

    async fn sees(url: &str, patience: Duration) -> Result<(), Trouble> {
        see(Location::parse(url, Path::new("/")).unwrap(), patience).await
    }

    #[tokio::test]
    async fn a_host_sees_files_folders_and_patterns_that_are_there_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        fs::create_dir(folder.path().join("x")).unwrap();
        fs::write(folder.path().join("x/a.jsonl"), "{}").unwrap();
        fs::write(folder.path().join("[b].jsonl"), "{}").unwrap();
        for there in ["", "x", "x/a.jsonl", "x/*.jsonl", "**/a.*", "[b].jsonl"] {
            sees(&at(there), PATIENCE).await.unwrap();
        }
        for missing in ["y", "x/b.jsonl", "x/*.csv", "y/*.jsonl", "x/[.jsonl"] {
            let trouble = sees(&at(missing), PATIENCE).await.unwrap_err();
            assert_eq!(trouble.cause, Cause::Data);
            let said = format!("data source `{}`: this host does not see it\nhint: ", at(missing));
            assert!(trouble.message.starts_with(&said), "{}", trouble.message);
        }
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_no_fault_of_the_data() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/a.jsonl", socket.local_addr().unwrap());
        drop(socket);
        let trouble = sees(&url, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(trouble.cause, Cause::Storage, "{}", trouble.message);
        assert!(trouble.message.starts_with(&format!("data source `{url}`: ")));
    }

    #[tokio::test]
    async fn a_file_system_that_never_answers_is_told_and_not_waited_for() {
        let (answer, never) = std::sync::mpsc::channel::<()>();
        let patience = Duration::from_millis(50);
        let (cause, what) = on_disk(patience, move || never.recv()).await.unwrap_err();
        assert_eq!((cause, what.as_str()), (Cause::Storage, "nothing answers within 0.05 s"));
        drop(answer);
    }
}
