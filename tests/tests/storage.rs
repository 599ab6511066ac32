//! A conformance suite that every store passes: memory, a local folder, SeaweedFS over S3, Azurite over Azure's API,
//! and SeaweedFS over Google's API. Also the errors of stores that refuse access.
//!
//! The servers need their programs (MUSTER_TEST_WEED, MUSTER_TEST_AZURITE). A store's credentials come from the
//! environment of the process, so each test runs another test in the server's environment.

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, stream};
use muster_tests::azurite::{Azurite, CONTAINER};
use muster_tests::ignored::run_ignored;
use muster_tests::process::PATIENCE;
use muster_tests::proxy::{Faults, Proxy};
use muster_tests::seaweed::{BUCKET, DOMAIN, SeaweedFs};
use storage::{Created, Error, Storage};

/// Checks the basic operations.
async fn conforms(storage: &Storage) -> Result<()> {
    ensure!(matches!(storage.read("a/b").await, Err(Error::NotFound { .. })));
    ensure!(storage.head("a/b").await?.is_none());
    ensure!(storage.create("a/b", "first").await? == Created::Ours);
    ensure!(storage.create("a/b", "first").await? == Created::Ours, "read back");
    ensure!(storage.create("a/b", "second").await? == Created::Theirs("first".into()));
    ensure!(storage.read("a/b").await? == "first");
    storage.put("a/b", "third").await?;
    storage.copy("a/b", "c/d").await?;
    ensure!(storage.read("c/d").await? == "third");
    storage.put("a/a", "x").await?;
    let keys: Vec<_> = storage.list("a").await?.into_iter().map(|o| o.key).collect();
    ensure!(keys == ["a/a", "a/b"], "{keys:?}");
    ensure!(storage.folders("").await? == ["a", "c"]);
    storage.delete("c/d").await?;
    storage.delete("c/d").await?;
    ensure!(storage.list("nothing").await?.is_empty());
    Ok(())
}

/// Checks that a listing and `head` agree about an object, whatever its name, and that it can be read.
async fn names_and_pins_agree(storage: &Storage) -> Result<()> {
    for name in ["plain", "a b.jsonl", "50%.txt", "a#b", "[x]", "naïve-表.md", "a+b=c&d", "~x'y\"z"]
    {
        let key = format!("names/{name}");
        storage.put(&key, name).await?;
        let listed = storage.list("names").await?;
        let listed: Vec<_> = listed.into_iter().filter(|o| o.key == key).collect();
        let looked_at = storage.head(&key).await?;
        ensure!(listed.first() == looked_at.as_ref(), "{listed:?} and {looked_at:?}");
        ensure!(storage.read(&key).await? == name, "{name}");
        let (container, name) = Storage::containing(&format!("{}/{key}", storage.url()))?;
        ensure!(container.head(&name).await?.map(|o| o.etag) == looked_at.map(|o| o.etag));
    }
    Ok(())
}

async fn ranges_are_read_as_pinned(storage: &Storage) -> Result<()> {
    storage.put("r", "0123456789").await?;
    let pin = storage.head("r").await?.and_then(|o| o.etag);
    let pin = pin.as_deref();
    ensure!(pin.is_some(), "this store has ETags");
    ensure!(storage.read_range("r", 2..5, pin).await? == "234");
    ensure!(storage.read_range("r", 9..10, None).await? == "9");
    ensure!(storage.read_range("r", 4..4, pin).await?.is_empty());
    let changed = |read| matches!(read, Err(Error::Changed { .. }));
    ensure!(storage.read_range("r", 8..90, pin).await? == "89", "the part that exists");
    ensure!(storage.read_range("r", 10..11, pin).await.is_err(), "past the end");
    let pieces: Vec<_> = storage.pieces("r", 11, pin).collect().await;
    ensure!(matches!(&pieces[..], [Err(Error::Changed { .. })]), "shorter than it was");
    storage.put("r", "abcdefghijk").await?;
    ensure!(changed(storage.read_range("r", 2..5, pin).await), "another content");
    let gone = storage.read_range("s", 0..1, None).await;
    ensure!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    Ok(())
}

async fn streams_are_written_whole_or_not_at_all(storage: &Storage) -> Result<()> {
    const MIB: u64 = 1 << 20;
    let piece = |i: u8| Ok::<_, Error>(vec![i; 3 << 20].into());
    for (key, pieces) in [("s/small", 2), ("s/whole", 7)] {
        storage
            .put_stream(key, 3 * MIB * u64::from(pieces), stream::iter((0..pieces).map(piece)))
            .await?;
        let whole = storage.read(key).await?;
        ensure!(whole.len() == (3 << 20) * usize::from(pieces));
        ensure!(whole.chunks(3 << 20).zip(0..).all(|(piece, i)| piece.iter().all(|b| *b == i)));
    }
    let broken = || Error::NotFound { url: "elsewhere:".into(), key: "x".into() };
    let refused = |bytes: u64, pieces: Vec<_>| async move {
        let refused = storage.put_stream("s/broken", bytes, stream::iter(pieces)).await;
        ensure!(storage.head("s/broken").await?.is_none());
        Ok(refused.expect_err("refused"))
    };
    for bytes in [6 * MIB, 12 * MIB] {
        let error = refused(bytes, vec![piece(0), Err(broken())]).await?;
        ensure!(matches!(error, Error::NotFound { .. }), "{error}");
        let error = refused(bytes, vec![piece(0)]).await?.to_string();
        ensure!(
            error.contains(&format!("3145728 bytes were to be written, {bytes} were announced")),
            "{error}"
        );
        let error = refused(bytes, (0..5).map(piece).collect()).await?;
        ensure!(matches!(error, Error::Damaged { .. }), "{error}");
    }
    let left = storage.unfinished("s").await?;
    ensure!(left.is_none_or(|left| left.is_empty()), "aborted in the store, too");
    storage.put_stream("s/empty", 0, stream::iter([] as [Result<_, Error>; 0])).await?;
    ensure!(storage.read("s/empty").await?.is_empty());
    Ok(())
}

/// Checks that an upload that is dropped half-way is also aborted in the store.
async fn a_dropped_upload_leaves_nothing(storage: &Storage) -> Result<()> {
    let piece = Ok::<_, Error>(vec![1; 9 << 20].into());
    let never = stream::iter([piece]).chain(stream::pending());
    let mut upload = Box::pin(storage.put_stream("dropped", 20 << 20, never));
    let begun = async {
        while storage.unfinished("").await?.is_none_or(|found| found.is_empty()) {}
        Ok::<_, Error>(())
    };
    tokio::select! {
        ended = &mut upload => panic!("it never ends: {ended:?}"),
        begun = tokio::time::timeout(PATIENCE, begun) => begun.context("it does not begin")??,
    }
    let found = storage.unfinished("").await?.expect("this store lists uploads");
    ensure!(found[0].key == "dropped" && found[0].age < PATIENCE, "{found:?}");
    drop(upload);
    let gone = async {
        while storage.unfinished("").await? != Some(Vec::new()) {}
        Ok::<_, Error>(())
    };
    Ok(tokio::time::timeout(PATIENCE, gone).await.context("it does not go")??)
}

async fn every_claim(storage: &Storage) -> Result<()> {
    storage.probe().await?;
    conforms(storage).await?;
    ranges_are_read_as_pinned(storage).await?;
    streams_are_written_whole_or_not_at_all(storage).await
}

/// Checks everything in a bucket, and under a prefix of it.
async fn everywhere(bucket: &str) -> Result<()> {
    for prefix in ["", "/some/prefix"] {
        let storage = Storage::open(&format!("{bucket}{prefix}"))?;
        every_claim(&storage).await?;
        names_and_pins_agree(&storage).await?;
    }
    Ok(())
}

#[tokio::test]
async fn memory_conforms() -> Result<()> {
    every_claim(&Storage::memory()).await
}

#[tokio::test]
async fn a_local_folder_conforms() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let storage = Storage::open(&folder.path().to_string_lossy())?;
    every_claim(&storage).await?;
    names_and_pins_agree(&storage).await?;
    a_dropped_upload_leaves_nothing(&storage).await
}

#[test]
fn an_output_that_is_a_file_is_refused_by_name() -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let refused = Storage::open(&file.path().to_string_lossy());
    let error = refused.expect_err("a file is no folder").to_string();
    ensure!(error.contains("the folder cannot be created"), "{error}");
    Ok(())
}

#[test]
fn seaweedfs_conforms() -> Result<()> {
    let Some(server) = SeaweedFs::start("seaweedfs_conforms") else { return Ok(()) };
    run_ignored("in_seaweedfs", &server.environment())?;

    let with = |key: &str, value: &str| {
        let mut environment = server.environment();
        let pair = environment.iter_mut().find(|(k, _)| *k == key).expect("it is set");
        pair.1 = value.to_owned();
        environment
    };
    run_ignored("with_a_wrong_secret", &with("AWS_SECRET_ACCESS_KEY", "wrong"))?;
    // No program listens on the discard port.
    run_ignored("without_a_server", &with("AWS_ENDPOINT_URL", "http://127.0.0.1:9"))?;
    let [endpoint, ..] = server.environment();
    let metadata = ("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9".to_owned());
    run_ignored("without_credentials", &[endpoint, metadata])
}

#[tokio::test]
#[ignore = "run by `seaweedfs_conforms` in the server's environment"]
async fn in_seaweedfs() -> Result<()> {
    everywhere(&format!("s3://{BUCKET}")).await?;
    // No other store can list unfinished uploads.
    for prefix in ["", "/some/prefix"] {
        let storage = Storage::open(&format!("s3://{BUCKET}{prefix}"))?;
        a_dropped_upload_leaves_nothing(&storage).await?;
    }
    refused("s3://nowhere", "NoSuchBucket", "hint: name a bucket").await
}

/// Requests go to host names that do not resolve, so the server is configured as their HTTP proxy.
#[test]
fn a_virtual_hosted_bucket_conforms() -> Result<()> {
    let name = "a_virtual_hosted_bucket_conforms";
    let Some(server) = SeaweedFs::start(name) else { return Ok(()) };
    let mut environment = Vec::from(server.environment());
    environment.retain(|(key, _)| *key != "AWS_ENDPOINT_URL");
    let proxy = format!("http://{}", server.address());
    environment.extend([
        ("AWS_ENDPOINT_URL", format!("http://{DOMAIN}")),
        ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true".into()),
        ("http_proxy", proxy.clone()),
        ("HTTP_PROXY", proxy),
        ("no_proxy", String::new()),
        ("NO_PROXY", String::new()),
    ]);
    run_ignored("in_seaweedfs", &environment)
}

#[test]
fn azurite_conforms() -> Result<()> {
    let Some(server) = Azurite::start("azurite_conforms") else { return Ok(()) };
    run_ignored("in_azurite", &server.environment())?;
    let with = |key: &str, value: &str| {
        let mut environment = server.environment();
        let pair = environment.iter_mut().find(|(k, _)| *k == key).expect("it is set");
        pair.1 = value.to_owned();
        environment
    };
    run_ignored("with_a_wrong_key", &with("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc="))
}

#[tokio::test]
#[ignore = "run by `azurite_conforms` in the server's environment"]
async fn in_azurite() -> Result<()> {
    everywhere(&format!("az://{CONTAINER}")).await?;
    refused("az://nowhere", "ContainerNotFound", "hint: name a bucket or container").await
}

#[tokio::test]
#[ignore = "run by `azurite_conforms` in the server's environment"]
async fn with_a_wrong_key() -> Result<()> {
    refused(&format!("az://{CONTAINER}"), "403", "hint: check AZURE_STORAGE_ACCOUNT_KEY").await
}

/// Google's API, in front of SeaweedFS.
#[test]
fn googles_api_conforms() -> Result<()> {
    let Some(server) = SeaweedFs::start("googles_api_conforms") else { return Ok(()) };
    let proxy = Proxy::start(server.address());
    proxy.inject(Faults::none().in_google());
    run_ignored("in_google", &proxy.environment_of_google())
}

#[tokio::test]
#[ignore = "run by `googles_api_conforms` in the server's environment"]
async fn in_google() -> Result<()> {
    everywhere(&format!("gs://{BUCKET}")).await?;
    refused("gs://nowhere", "NoSuchBucket", "hint: name a bucket or container").await
}

#[tokio::test]
#[ignore = "run by `seaweedfs_conforms` in the server's environment"]
async fn with_a_wrong_secret() -> Result<()> {
    refused(&format!("s3://{BUCKET}"), "403 SignatureDoesNotMatch", "hint: AWS_ACCESS_KEY_ID").await
}

#[tokio::test]
#[ignore = "run by `seaweedfs_conforms` in the server's environment"]
async fn without_a_server() -> Result<()> {
    refused(
        &format!("s3://{BUCKET}"),
        "the store cannot be reached",
        "hint: check AWS_ENDPOINT_URL",
    )
    .await
}

#[tokio::test]
#[ignore = "run by `seaweedfs_conforms` in the server's environment"]
async fn without_credentials() -> Result<()> {
    refused(&format!("s3://{BUCKET}"), "there are no credentials", "hint: set AWS_ACCESS_KEY_ID")
        .await
}

async fn refused(url: &str, what: &str, hint: &str) -> Result<()> {
    let error = Storage::open(url)?.probe().await.expect_err("refused");
    let text = proto::error::chain(&error);
    ensure!(text.starts_with(&format!("cannot list `{url}/`: ")), "{text}");
    ensure!(text.contains(what) && text.contains(hint), "{text}");
    ensure!(!text.contains('<') && text.lines().count() == 2, "{text}");
    Ok(())
}
