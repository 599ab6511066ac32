//! Resolves the names of data and models in a spec to objects, each pinned to its current content.
//!
//! ```text
//! pin    hf://datasets/a/b            -> hf://datasets/a/b#<commit>, once, when a run is submitted
//! list   ./f.jsonl, s3://b/p/*.zst    -> the objects, sorted, with size and ETag
//! ```
//!
//! A folder, a prefix or a repository stands for the data files in it, which are recognized by their endings.

use super::progress::Progress;
use crate::core::Fault;
use proto::error::chain;
use proto::event::Failure;
use proto::spec::hub::{Commit, Kind};
use proto::spec::{HubName, Location, Scheme, Source, Spec};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use storage::allow::Allowed;
use storage::hub::{self, Hub};
use storage::{Object, Patience, Storage};

/// The endings of data files. One of [`COMPRESSED`] may follow.
const DATA_FILES: [&str; 8] = ["json", "jsonl", "ndjson", "csv", "tsv", "parquet", "txt", "md"];
const COMPRESSED: [&str; 2] = ["gz", "zst"];
/// Files beside data that are no data themselves: those that `datasets` ignores (in its `data_files.py`), and licences.
const NO_DATA: [&str; 8] = [
    "README.md",
    "LICENSE.txt",
    "LICENSE.md",
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
];
/// The revision with the hub's own conversion of a data set.
const CONVERTED: &str = "refs/convert/parquet";
/// Splits of data sets on the hub, with the words that name them in a path. The training split is the first.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Resolves every name on the hub in the spec to its current commit. Everything that the spec names must be allowed.
///
/// # Errors
/// A user fault for a location that is not allowed, or a name that does not exist on the hub or is not accessible, an
/// infrastructure fault if the hub does not answer.
pub(crate) async fn pin(spec: Spec) -> Result<Spec, Fault> {
    check_allowed(&spec)?;
    let names = spec.hub_names();
    if names.iter().all(|(_, name)| name.pinned().is_some()) {
        return Ok(spec);
    }
    let hub = Hub::from_env().map_err(|e| refused("HF_ENDPOINT, HF_TOKEN", &e))?;
    let mut pins = BTreeMap::new();
    for (field, name) in names {
        let commit = resolve(&hub, &name).await.map_err(|e| refused(&field, &e))?;
        pins.insert(name.clone(), name.at(commit));
    }
    Ok(spec.pinned(&pins))
}

/// Checks that specs may name what this one names.
fn check_allowed(spec: &Spec) -> Result<(), Fault> {
    let user = |message: String| Fault { kind: Failure::User, message };
    let allowed = Allowed::here().map_err(|e| user(e.to_string()))?;
    allowed.check_spec(spec).map_err(|(field, refused)| user(format!("{field}: {refused}")))
}

/// The commit of a name. For a data set without data files that Muster reads, the commit of the hub's own conversion.
async fn resolve(hub: &Hub, name: &HubName) -> Result<Commit, hub::Error> {
    let commit = hub.resolve(name).await?;
    if name.kind == Kind::Model || name.revision.is_some() || !name.path.is_empty() {
        return Ok(commit);
    }
    let files = hub.files(name.kind, &name.repo, &commit, "").await?;
    if files.iter().any(|f| is_data(&f.path)) {
        return Ok(commit);
    }
    let converted = HubName { revision: Some(CONVERTED.into()), ..name.clone() };
    match hub.resolve(&converted).await {
        // Without a conversion, listing the data set itself gives the clearer error.
        Err(hub::Error::NoRevision { .. }) => Ok(commit),
        resolved => resolved,
    }
}

/// Lists the objects that a source names, sorted, each with its URL.
///
/// # Errors
/// A user fault if there is no object or it may not be read, an infrastructure fault if the store does not answer.
pub(crate) async fn list(
    source: &Source,
    progress: &Progress,
) -> Result<Vec<(String, Object)>, Fault> {
    list_within(source, Patience::Listing, progress).await
}

async fn list_within(
    source: &Source,
    patience: Patience,
    progress: &Progress,
) -> Result<Vec<(String, Object)>, Fault> {
    let location = &source.location;
    progress.begin(format!("data source `{location}`"));
    let unread = |e: storage::Error| Fault {
        kind: if e.is_users() { Failure::User } else { Failure::Infrastructure },
        message: format!("data source `{location}`: {}", chain(&e)),
    };
    let opened = tokio::task::spawn_blocking({
        // A network file system without a server blocks the calling thread.
        let location = location.clone();
        move || {
            Place::of(&location).map(|place| {
                let storage = Storage::open_with_patience(&place.root, patience);
                (storage.and_then(Storage::confined), place)
            })
        }
    });
    let opened = opened.await.expect("looking at a path does not panic");
    let (storage, place) = opened.map_err(|what| missing(location, &what))?;
    let storage = storage.map_err(unread)?;
    let listed = async |folder: &str| {
        let mut found = storage.list_noting(folder, || progress.note()).await?;
        // A listing omits these files, and the user would not notice that their records are missing.
        let irregular = storage.irregular(folder).await?.into_iter();
        found.extend(irregular.map(|key| Object { key, bytes: 0, etag: None, modified_ms: 0 }));
        Ok(found)
    };
    let found: Vec<_> = match &place.pattern {
        Pattern::File(key) => storage.head(key).await.map_err(unread)?.into_iter().collect(),
        Pattern::FileOrFolder(key) => match storage.head(key).await.map_err(unread)? {
            Some(object) => vec![object],
            None => data_files(listed(key).await.map_err(unread)?),
        },
        Pattern::Glob { folder, glob } => {
            let found = listed(folder).await.map_err(unread)?;
            found.into_iter().filter(|o| glob.matches_with(&o.key, GLOB)).collect()
        }
        Pattern::Folder => data_files(listed("").await.map_err(unread)?),
    };
    if found.is_empty() {
        return Err(missing(location, &place.pattern.not_found()));
    }
    for object in &found {
        storage.regular("read", &object.key).await.map_err(unread)?;
    }
    let url = |key: &str| match &place.url {
        Some(url) => url.clone(),
        None => format!("{}/{key}", storage.url()),
    };
    if let Pattern::Folder | Pattern::FileOrFolder(_) = &place.pattern {
        let named = |key: &str| match location {
            Location::Hub(name) => {
                Location::Hub(HubName { path: key.to_owned(), ..name.unpinned() }).to_string()
            }
            Location::File(_) | Location::Url { .. } => {
                let url = url(key);
                url.strip_prefix("file://").unwrap_or(&url).to_owned()
            }
        };
        one_split(&found, named).map_err(|what| missing(location, &what))?;
    }
    Ok(found.into_iter().map(|o| (url(&o.key), o)).collect())
}

fn missing(location: &Location, what: &str) -> Fault {
    Fault { kind: Failure::User, message: format!("data source `{location}`: {what}") }
}

fn refused(field: &str, error: &hub::Error) -> Fault {
    Fault {
        kind: if error.is_users() { Failure::User } else { Failure::Infrastructure },
        message: format!("{field}: {}", chain(error)),
    }
}

/// `*` stays within a folder, as in a shell; `**` crosses them.
const GLOB: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// A storage, and what to look for in it.
struct Place {
    /// The storage's URL.
    root: String,
    pattern: Pattern,
    /// The URL of the only object, if it cannot be derived from the object's key.
    url: Option<String>,
}

/// What to look for. Keys are relative to the storage.
enum Pattern {
    File(String),
    /// An object, or a prefix if there is no such object: stores have no folders.
    FileOrFolder(String),
    Glob {
        folder: String,
        glob: glob::Pattern,
    },
    Folder,
}

impl Place {
    fn of(location: &Location) -> Result<Self, String> {
        let (root, pattern) = match location {
            Location::File(path) => {
                let (folder, pattern) = on_disk(path);
                if !folder.is_dir() {
                    return Err(format!("there is no folder {}{HINT}", folder.display()));
                }
                (folder.to_string_lossy().into_owned(), pattern)
            }
            Location::Url { scheme: Scheme::Https | Scheme::Http, .. } => {
                let url = location.to_string();
                let (root, key) = storage::split(&url).map_err(|e| chain(&e))?;
                return Ok(Self { root, pattern: Pattern::File(key), url: Some(url) });
            }
            Location::Url { scheme: scheme @ (Scheme::S3 | Scheme::Gs | Scheme::Az), path } => {
                let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
                (format!("{}://{bucket}", scheme.as_str()), in_store(key))
            }
            Location::Hub(name) => {
                let root = HubName { path: String::new(), ..name.clone() };
                (Location::Hub(root).to_string(), in_store(&name.path))
            }
        };
        Ok(Self { root, pattern, url: None })
    }
}

const HINT: &str = "\nhint: relative paths start at the spec's folder";

impl Pattern {
    /// The error message if nothing was found.
    fn not_found(&self) -> String {
        let endings = format!("no file that ends in .{}", DATA_FILES.join(", ."));
        match self {
            Pattern::File(_) => format!("there is no such file{HINT}"),
            Pattern::FileOrFolder(_) => {
                format!("there is no such object, and {endings} under it")
            }
            Pattern::Glob { .. } => {
                "the pattern matches no file\nhint: `*` stays within a folder, `**` crosses them"
                    .into()
            }
            Pattern::Folder => format!("it has {endings}"),
        }
    }
}

/// The folder to look in for a path, and the pattern to look for.
fn on_disk(path: &Path) -> (PathBuf, Pattern) {
    if path.is_dir() {
        return (path.to_owned(), Pattern::Folder);
    }
    let parent = |p: &Path| p.parent().unwrap_or(Path::new("/")).to_owned();
    let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if path.exists() || !is_glob(&path.to_string_lossy()) {
        return (parent(path), Pattern::File(name(path)));
    }
    let mut folder = parent(path);
    while is_glob(&folder.to_string_lossy()) {
        folder = parent(&folder);
    }
    let rest = path.strip_prefix(&folder).unwrap_or(path).to_string_lossy().into_owned();
    match glob::Pattern::new(&rest) {
        Ok(glob) => (folder, Pattern::Glob { folder: String::new(), glob }),
        Err(_) => (parent(path), Pattern::File(name(path))),
    }
}

/// The pattern that a key of a store stands for.
fn in_store(key: &str) -> Pattern {
    if key.is_empty() {
        return Pattern::Folder;
    }
    match glob::Pattern::new(key) {
        Ok(glob) if is_glob(key) => {
            let plain = key.split('/').take_while(|part| !is_glob(part));
            Pattern::Glob { folder: plain.collect::<Vec<_>>().join("/"), glob }
        }
        Ok(_) | Err(_) => Pattern::FileOrFolder(key.to_owned()),
    }
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn data_files(mut objects: Vec<Object>) -> Vec<Object> {
    objects.retain(|o| is_data(&o.key));
    objects
}

/// Whether a file in a folder counts as data.
fn is_data(path: &str) -> bool {
    let hidden = path.split('/').any(|part| part.starts_with(['.', '_']));
    let name = path.rsplit('/').next().unwrap_or(path);
    let plain = match name.rsplit_once('.') {
        Some((rest, ending)) if COMPRESSED.contains(&ending) => rest,
        Some(_) | None => name,
    };
    let ending = plain.rsplit_once('.').map_or("", |(_, ending)| ending);
    !hidden && !NO_DATA.contains(&name) && DATA_FILES.contains(&ending)
}

/// Refuses a data set whose test split would be trained on, since a user who names the whole data set does not intend
/// that. `named` returns the location by which the user would name a file.
fn one_split(objects: &[Object], named: impl Fn(&str) -> String) -> Result<(), String> {
    let splits: BTreeSet<_> = objects.iter().map(|object| split(&object.key)).collect();
    let is_trained = |split: &Option<&str>| split.is_none_or(|split| split == SPLITS[0].0);
    if splits.len() < 2 || splits.iter().all(is_trained) {
        return Ok(());
    }
    let example = objects.iter().find(|object| is_trained(&split(&object.key)));
    let example = named(&example.unwrap_or(&objects[0]).key);
    let others = splits.contains(&None).then_some("files of no split");
    let splits: Vec<_> = splits.iter().flatten().copied().chain(others).collect();
    Err(format!(
        "it has several splits: {}\n\
         hint: name the files of one split, with `*` for the parts that differ; one file is {example}",
        splits.join(", ")
    ))
}

/// The split that a file's path names, if any: the last of its words that is the name of a split.
fn split(path: &str) -> Option<&'static str> {
    let words = path.split(|c: char| !c.is_ascii_alphabetic());
    words.rev().find_map(|word| {
        let named = |(_, names): &&(&str, &[&str])| names.contains(&word);
        SPLITS.iter().find(named).map(|(split, _)| *split)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_files_are_recognized_by_their_ending() {
        for data in ["a.jsonl", "x/b.json.gz", "c.parquet", "d.csv.zst", "e.ndjson", "f.v2.md"] {
            assert!(is_data(data), "{data}");
        }
        for other in [
            "README.md",
            "x/LICENSE.txt",
            ".git/a.json",
            "_SUCCESS",
            "_x/a.json",
            "model.safetensors",
            "gz",
            "a.gz",
            "dataset_infos.json",
            "a.jsonl.zip",
        ] {
            assert!(!is_data(other), "{other}");
        }
    }

    /// Lists a source, with a timeout of two seconds.
    async fn listed(source: &str) -> Result<Vec<(String, Object)>, Fault> {
        let yaml = format!("model: {{base: b}}\ndata: {{train: [{{source: \"{source}\"}}]}}\n");
        let spec = proto::spec::parse(&yaml, Path::new("/")).unwrap();
        let patience = Patience::Within(std::time::Duration::from_secs(2));
        list_within(spec.data().sources()[0], patience, &Progress::new()).await
    }

    #[tokio::test]
    async fn a_file_that_is_not_regular_is_refused_by_name_and_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a.jsonl"), "{}\n").unwrap();
        assert!(
            std::process::Command::new("mkfifo").arg(at("b.jsonl")).status().unwrap().success()
        );
        let _socket = std::os::unix::net::UnixListener::bind(at("c.jsonl")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("d.jsonl")).unwrap();
        std::os::unix::fs::symlink(at("b.jsonl"), at("e.jsonl")).unwrap();
        let path = folder.path().display();
        for (source, name, what) in [
            (format!("{path}/b.jsonl"), "b.jsonl", "a fifo"),
            (format!("{path}/c.jsonl"), "c.jsonl", "a socket"),
            (format!("{path}/d.jsonl"), "d.jsonl", "a device"),
            (format!("{path}/e.jsonl"), "e.jsonl", "a fifo"),
            (format!("{path}/[ab].jsonl"), "b.jsonl", "a fifo"),
            (format!("{path}/*.jsonl"), "b.jsonl", "a fifo"),
            (path.to_string(), "b.jsonl", "a fifo"),
        ] {
            let fault = tokio::time::timeout(std::time::Duration::from_secs(10), listed(&source));
            let fault = fault.await.expect("nothing is opened").unwrap_err();
            let wanted = format!("{name}`: it is {what}, not a regular file\nhint: ");
            assert!(fault.message.contains(&wanted), "{source}: {}", fault.message);
            assert_eq!(fault.kind, Failure::User, "{source}");
        }
        assert_eq!(listed(&format!("{path}/a.jsonl")).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_folder_of_several_splits_is_refused_and_a_pattern_for_all_of_them_is_not() {
        for (files, splits) in [
            (&["data/train-0.jsonl", "data/test-0.jsonl"][..], Some("test, train")),
            (&["train.jsonl", "dev.jsonl", "test.jsonl"], Some("test, train, validation")),
            (&["a.jsonl", "b.jsonl", "test.jsonl"], Some("test, files of no split")),
            (&["train.jsonl", "a.jsonl"], None),
            (&["train-0.jsonl", "train-1.jsonl"], None),
            (&["test-0.jsonl", "test-1.jsonl"], None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            for file in files {
                let path = folder.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "{}\n").unwrap();
            }
            let path = folder.path().display().to_string();
            let found = listed(&path).await;
            match splits {
                None => assert_eq!(found.unwrap().len(), files.len(), "{files:?}"),
                Some(splits) => {
                    let fault = found.unwrap_err();
                    let wanted =
                        format!("it has several splits: {splits}\nhint: name the files of one");
                    assert!(fault.message.contains(&wanted), "{}", fault.message);
                    let example = format!("{path}/{}", files[0]);
                    assert!(fault.message.ends_with(&example), "{}", fault.message);
                    assert_eq!(fault.kind, Failure::User);
                }
            }
            assert_eq!(listed(&format!("{path}/**/*.jsonl")).await.unwrap().len(), files.len());
        }
    }

    #[tokio::test]
    async fn an_address_that_never_answers_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a.jsonl", listener.local_addr().unwrap());
        let silent = tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                taken.push(connection);
            }
        });
        let fault = tokio::time::timeout(std::time::Duration::from_secs(20), listed(&url));
        let fault = fault.await.expect("within its patience").unwrap_err();
        silent.abort();
        assert_eq!(fault.kind, Failure::Infrastructure);
        let message = fault.message;
        assert!(message.starts_with(&format!("data source `{url}`: ")), "{message}");
        assert!(message.contains("there was no answer"), "{message}");
        assert!(message.contains("hint: check the address and the network"), "{message}");
    }

    #[test]
    fn a_pattern_in_a_store_is_listed_under_its_plain_part() {
        let Pattern::Glob { folder, glob } = in_store("a/b*/c.jsonl") else { panic!("a glob") };
        assert_eq!(folder, "a");
        assert!(glob.matches_with("a/b1/c.jsonl", GLOB));
        assert!(!glob.matches_with("a/b1/x/c.jsonl", GLOB), "`*` stays within a folder");
        let Pattern::Glob { glob, .. } = in_store("**/*.gz") else { panic!("a glob") };
        assert!(glob.matches_with("x/y/z.gz", GLOB) && glob.matches_with("z.gz", GLOB));
        assert!(matches!(in_store("a/b.jsonl"), Pattern::FileOrFolder(key) if key == "a/b.jsonl"));
        assert!(matches!(in_store(""), Pattern::Folder));
    }

    #[test]
    fn a_split_is_a_word_of_a_files_path() {
        assert_eq!(split("data/train-00000-of-00002.parquet"), Some("train"));
        assert_eq!(split("default/validation/0000.parquet"), Some("validation"));
        assert_eq!(split("dev.jsonl"), Some("validation"));
        assert_eq!(split("training_notes/test_set.json"), Some("test"));
        assert_eq!(split("latest/trainer.jsonl"), None);
    }
}
