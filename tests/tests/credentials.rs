//! Where credentials are found, other than in variables: a machine's, a pod's, a web identity's. Needs SeaweedFS
//! (MUSTER_TEST_WEED).

use anyhow::{Result, ensure};
use muster_tests::http::{Answer, Request, content, serve};
use muster_tests::seaweed::{BUCKET, SeaweedFs, again};
use proto::storage::{Created, Patience, Storage};
use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

const POD: &str = "token-of-the-pod";
const SESSION: &str = "token-of-the-session";

/// The metadata service of a machine, and the agent that pods ask.
fn cloud(request: &Request) -> Answer {
    let bears = |header: &str, token| request.headers.get(header).is_some_and(|t| t == token);
    let service = "/latest/meta-data/iam/security-credentials/";
    match &request.target[..] {
        "/latest/api/token" if request.method == "PUT" => content(request, SESSION.as_bytes()),
        path if path.starts_with(service) && bears("x-aws-ec2-metadata-token", SESSION) => {
            let role = &path[service.len()..];
            let credentials = SeaweedFs::credentials();
            let body = if role.is_empty() { "role" } else { &credentials };
            content(request, body.as_bytes())
        }
        "/pod" if bears("authorization", POD) => {
            content(request, SeaweedFs::credentials().as_bytes())
        }
        _ => Answer { status: 403, ..Answer::default() },
    }
}

#[test]
fn a_machines_and_a_pods_credentials_are_found() -> Result<()> {
    let name = "a_machines_and_a_pods_credentials_are_found";
    let Some(server) = SeaweedFs::start(name) else { return Ok(()) };
    let cloud = format!("http://{}", serve(cloud));
    let [endpoint, _, _, region] = server.environment();
    let base = [endpoint, region];

    let machine = ("AWS_METADATA_ENDPOINT", cloud.clone());
    again("it_can_write", &[&base[..], &[machine]].concat())?;

    let folder = tempfile::tempdir()?;
    let token = folder.path().join("token");
    std::fs::write(&token, POD)?;
    let token = token.to_string_lossy().into_owned();
    let pod = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{cloud}/pod")),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.clone()),
    ];
    again("it_can_write", &[&base[..], &pod].concat())?;

    // A web identity is shown over TLS only, and this is no STS: that it is asked is all there is to see.
    let sts = TcpListener::bind("127.0.0.1:0")?;
    let web = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/muster".into()),
        ("AWS_ENDPOINT_URL_STS", format!("https://{}", sts.local_addr()?)),
    ];
    let asked = std::thread::spawn(move || -> std::io::Result<u8> {
        let mut first = [0];
        sts.accept()?.0.read_exact(&mut first)?;
        Ok(first[0])
    });
    again("it_says_that_it_cannot", &[&base[..], &web].concat())?;
    // RFC 8446, section 5.1: a handshake.
    ensure!(asked.join().expect("it only listens")? == 22);
    Ok(())
}

#[tokio::test]
#[ignore = "run by `a_machines_and_a_pods_credentials_are_found` in the server's environment"]
async fn it_can_write() -> Result<()> {
    let storage = Storage::open(&format!("s3://{BUCKET}"))?;
    let key = proto::id::unique();
    ensure!(storage.create(&key, "mine").await? == Created::Ours);
    ensure!(storage.read(&key).await? == "mine");
    Ok(())
}

#[tokio::test]
#[ignore = "run by `a_machines_and_a_pods_credentials_are_found` in the server's environment"]
async fn it_says_that_it_cannot() -> Result<()> {
    let storage = Storage::open(&format!("s3://{BUCKET}"))?;
    let storage = storage.patient(Patience::Within(Duration::from_secs(2)))?;
    let error = proto::error::chain(&storage.probe().await.expect_err("that was no STS"));
    ensure!(error.contains("credentials could not be asked for"), "{error}");
    ensure!(error.contains("AWS_ENDPOINT_URL_STS") && !error.contains(POD), "{error}");
    Ok(())
}
