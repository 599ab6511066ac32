//! Credentials that do not come from variables: those of a machine, of a pod and of a web identity. Needs SeaweedFS
//! (MUSTER_TEST_WEED).

use anyhow::{Result, ensure};
use muster_tests::http::{Answer, Request, content, serve, serve_tls};
use muster_tests::ignored::run_ignored;
use muster_tests::seaweed::{BUCKET, SeaweedFs};
use serde_json::Value;
use std::time::Duration;
use storage::{Created, Patience, Storage};

const POD: &str = "token-of-the-pod";
const ROLE: &str = "arn:aws:iam::123456789012:role/muster";
const SESSION: &str = "token-of-the-session";

/// The metadata service of a machine, and the credentials agent of pods.
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

/// The service that returns credentials for a web identity: `AssumeRoleWithWebIdentity`.
fn sts(request: &Request) -> Answer {
    let role = ROLE.replace(':', "%3A").replace('/', "%2F");
    let asked = [
        "Action=AssumeRoleWithWebIdentity".to_owned(),
        format!("RoleArn={role}"),
        format!("WebIdentityToken={POD}"),
    ];
    let (_, query) = request.target.split_once('?').unwrap_or_default();
    if !asked.iter().all(|pair| query.split('&').any(|p| p == pair)) {
        return Answer { status: 403, ..Answer::default() };
    }
    let credentials: Value = serde_json::from_str(&SeaweedFs::credentials()).expect("JSON");
    let field = |name: &str| credentials[name].as_str().unwrap_or_default();
    let xml = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><SessionToken>{}</SessionToken>\
         <SecretAccessKey>{}</SecretAccessKey><Expiration>{}</Expiration>\
         <AccessKeyId>{}</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>",
        field("Token"),
        field("SecretAccessKey"),
        field("Expiration"),
        field("AccessKeyId"),
    );
    content(request, xml.as_bytes())
}

#[test]
fn a_machines_and_a_pods_credentials_are_found() -> Result<()> {
    let name = "a_machines_and_a_pods_credentials_are_found";
    let Some(server) = SeaweedFs::start(name) else { return Ok(()) };
    let cloud = format!("http://{}", serve(cloud));
    let [endpoint, _, _, region] = server.environment();
    let base = [endpoint, region];

    let machine = ("AWS_METADATA_ENDPOINT", cloud.clone());
    run_ignored("it_can_write", &[&base[..], &[machine]].concat())?;

    let folder = tempfile::tempdir()?;
    let token = folder.path().join("token");
    std::fs::write(&token, POD)?;
    let token = token.to_string_lossy().into_owned();
    let pod = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{cloud}/pod")),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.clone()),
    ];
    run_ignored("it_can_write", &[&base[..], &pod].concat())?;

    // A web identity is sent over TLS only.
    let (sts, certificate) = serve_tls(sts);
    let trusted = folder.path().join("trusted.pem");
    std::fs::write(&trusted, certificate)?;
    let mut web = vec![
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token),
        ("AWS_ROLE_ARN", ROLE.into()),
        ("AWS_ENDPOINT_URL_STS", format!("https://localhost:{}", sts.port())),
    ];
    run_ignored("it_reports_that_it_cannot_write", &[&base[..], &web].concat())?;
    web.push(("SSL_CERT_FILE", trusted.to_string_lossy().into_owned()));
    run_ignored("it_can_write", &[&base[..], &web].concat())
}

#[test]
fn a_machine_without_a_role_is_reported_to_have_no_credentials() -> Result<()> {
    // The first service returns no token, the second one a token but no role.
    for shown in ["/latest/api/token", ""] {
        let cloud = serve(move |request| match &request.target[..] {
            path if path == shown => content(request, SESSION.as_bytes()),
            _ => Answer { status: 403, ..Answer::default() },
        });
        let environment = [
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned()),
            ("AWS_METADATA_ENDPOINT", format!("http://{cloud}")),
        ];
        run_ignored("it_reports_missing_credentials", &environment)?;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "run by `a_machine_without_a_role_is_reported_to_have_no_credentials` without credentials"]
async fn it_reports_missing_credentials() -> Result<()> {
    let storage = Storage::open(&format!("s3://{BUCKET}"))?;
    let storage = storage.patient(Patience::Within(Duration::from_secs(2)))?;
    let error = proto::error::chain(&storage.probe().await.expect_err("it cannot be signed"));
    ensure!(error.contains("there are no credentials"), "{error}");
    ensure!(error.contains("hint: set AWS_ACCESS_KEY_ID"), "{error}");
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
async fn it_reports_that_it_cannot_write() -> Result<()> {
    let storage = Storage::open(&format!("s3://{BUCKET}"))?;
    let storage = storage.patient(Patience::Within(Duration::from_secs(2)))?;
    let error = proto::error::chain(&storage.probe().await.expect_err("that was no STS"));
    ensure!(error.contains("credentials could not be requested"), "{error}");
    ensure!(error.contains("AWS_ENDPOINT_URL_STS") && !error.contains(POD), "{error}");
    Ok(())
}
