//! Credentials: strangers change nothing, and those who may do something may do only that.

use anyhow::{Context, Result, ensure};
use muster_tests::certs::Certs;
use muster_tests::pool::{Pool, for_two};
use muster_tests::simulated::{Simulated, channel};
use muster_tests::{Event, Fixture, Process, programs};
use proto::id::{Generation, Lineage, RunId};
use proto::protocol::{Cause, Place, Report};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use wire::credentials::{Credentials, Folder, provider};
use wire::workers_client::WorkersClient;

/// Number of connections that do nothing. Each needs a file descriptor here and one in the coordinator.
const IDLE: usize = 10_000;
/// How long a coordinator may take to end connections that do nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pool with certificates and tokens in which a long run trains, and a watch of that run.
struct Trained {
    pool: Pool,
    run: String,
    watch: Process,
}

/// Makes the run last longer than any of these tests.
fn long(fixture: &Fixture) {
    fixture.respec("max_steps: 40", "max_steps: 2000");
    fixture.respec("epochs: 20", "epochs: 1000");
}

impl Trained {
    fn start(fixture: &Fixture) -> Self {
        for_two(fixture);
        long(fixture);
        let certs = Certs::new(&["--worker-prefix", "hand-", "--user", "alice"]);
        certs.token("user", "submit", &[]);
        certs.token("worker", "join", &["--prefix", "hand-"]);
        certs.token("admin", "admin", &[]);
        let pool = Pool::start_with(certs, fixture, &[]);
        let run = pool.submit(fixture, "key");
        let mut watch = pool.ask(&["watch", &run]);
        watch.step(2);
        Self { pool, run, watch }
    }

    fn certs(&self) -> &Certs {
        self.pool.certs.as_ref().expect("it has some")
    }

    /// Checks that the run has gone on, undisturbed, by some steps.
    fn assert_undisturbed(&mut self) {
        let Event(status) = self.pool.status(&self.run);
        assert_eq!(
            (&status["phase"], &status["generation"], &status["last_incident"]),
            (&"training".into(), &1.into(), &serde_json::Value::Null)
        );
        let step = status["step"].as_u64().expect("a step");
        self.watch.step(step + 3);
    }

    /// The error of a command with the credentials in `folder`.
    fn refused(&self, folder: &str, command: &[&str]) -> String {
        let ended = self.pool.ask_with(folder, command).end().with_code(2);
        assert!(ended.events.is_empty(), "{:?}", ended.events);
        ended.stderr
    }
}

#[test]
fn users_and_strangers_can_do_only_what_they_are_allowed_to() {
    let fixture = Fixture::new();
    let mut trained = Trained::start(&fixture);
    let (certs, run) = (trained.certs(), trained.run.clone());
    let cancel = ["cancel", &run];
    let others = Certs::new(&[]);
    let hour = Duration::from_secs(3600);
    certs.issue("expired", "muster:admin", SystemTime::now() - hour / 2);
    certs.issue("nothing", "https://example.com", SystemTime::now() + hour);
    certs.issue("bob", "muster:submit", SystemTime::now() + hour);
    certs.token("bob", "submit", &[]);
    certs.issue("tokenless", "muster:admin", SystemTime::now() + hour);
    certs.issue("late", "muster:admin", SystemTime::now() + hour);
    certs.token("late", "admin", &["--expires", "0s"]);
    certs.token("nothing", "admin", &[]);
    // An administrator's token with a worker's certificate allows neither.
    certs.issue("mixed", "muster:join", SystemTime::now() + hour);
    certs.token("mixed", "admin", &[]);
    let folder = |party: &str| certs.folder(party);
    for (credentials, why) in [
        (others.folder("admin"), "not from an authority in `ca.crt`"),
        (folder("expired"), "this client's certificate has expired"),
        (folder("nothing"), "is not allowed to submit and see runs"),
        (folder("tokenless"), "the coordinator asks for a token"),
        (folder("late"), "the token of `late` has expired"),
        (folder("mixed"), "is not allowed to submit and see runs"),
        (folder("worker"), "is not allowed to submit and see runs"),
        (folder("bob"), "this run was submitted by user, and only they or an admin may change it"),
        (folder("nowhere"), "nowhere` is not a folder"),
    ] {
        let error = trained.refused(&credentials, &cancel);
        assert!(error.contains(why), "{credentials}: {error}");
    }
    let plain = trained.pool.ask_plain(&["list"]).end().with_code(2).stderr;
    assert!(plain.contains("no secure connection"), "{plain}");
    // Without TLS, there is no answer.
    let url = trained.pool.url.replace("https://", "http://");
    let list = ["list", "--coordinator", &url];
    let broken = Process::start(&programs::coordinator(), &list).end().with_code(1).stderr;
    assert!(broken.contains("its URL begins with https://"), "{broken}");
    // Credentials are not sent unencrypted.
    let user = certs.folder("user");
    let list = ["list", "--coordinator", &url, "--credentials", &user];
    let kept = Process::start(&programs::coordinator(), &list).end().with_code(2).stderr;
    assert!(kept.contains("is not encrypted"), "{kept}");
    // Everybody with a user's credentials sees all runs.
    let seen = trained.pool.ask_with(&folder("bob"), &["status", &run]).end().with_code(0);
    assert_eq!(seen.events[0].text("submitter"), "user");
    trained.assert_undisturbed();
    let admin = trained.certs().folder("admin");
    trained.pool.ask_with(&admin, &["cancel", &run]).end().with_code(0);
    trained.watch.end().with_code(4);
    let requested = fixture.requests(&run);
    assert_eq!(requested, [("submit".into(), "user".into()), ("cancel".into(), "admin".into())]);
}

#[test]
fn what_strangers_send_disturbs_no_run() -> Result<()> {
    let fixture = Fixture::new();
    let mut trained = Trained::start(&fixture);
    let runtime = tokio::runtime::Runtime::new()?;
    let url = trained.pool.url.clone();
    let address: SocketAddr = url.trim_start_matches("https://").parse()?;
    let worker = trained.certs().client("worker");
    let run = RunId::new(trained.run.clone());

    let refused = runtime.block_on(hello(&url, &worker, "other-0", Vec::new()))?;
    let refused = refused.context("another run's worker is refused")?;
    ensure!(refused.code() == Code::PermissionDenied, "{refused}");
    ensure!(refused.message().contains("begin with `hand-`"), "{refused}");
    trained.assert_undisturbed();

    // In the name of a member. The stream ends after a directive.
    let forged = runtime.block_on(hello(&url, &worker, "hand-0", Vec::new()))?;
    ensure!(forged.is_none(), "{forged:?}");
    trained.assert_undisturbed();

    // From a worker that is no member, about the run's generation and an older one.
    for generation in [0, 1] {
        let place = Place {
            run: run.clone(),
            generation: Generation(generation),
            lineage: Lineage(generation),
        };
        let trouble = Report::Trouble {
            run: run.clone(),
            generation: Generation(generation),
            step: 1,
            cause: Cause::Model,
            message: "the model is on fire".into(),
            shard: None,
            accusation: None,
        };
        let stopped =
            Report::Stopped { run: run.clone(), generation: Generation(generation), step: 1 };
        let failed = Report::PartFailed(place, 4, "no room".into());
        let reports = vec![trouble, stopped, failed, Report::Leaving { deadline: Duration::ZERO }];
        runtime.block_on(hello(&url, &worker, "hand-9", reports))?;
        trained.assert_undisturbed();
    }

    let message = "x".repeat(5 << 20);
    let oversized = Report::PartFailed(
        Place { run, generation: Generation(1), lineage: Lineage(1) },
        1,
        message,
    );
    runtime.block_on(hello(&url, &worker, "hand-8", vec![oversized]))?;
    trained.assert_undisturbed();

    // Handshakes that never end, and no handshake at all.
    let mut slow = TcpStream::connect(address)?;
    slow.write_all(&[0x16, 0x03, 0x01])?;
    let mut garbage = TcpStream::connect(address)?;
    garbage.write_all(&[b'?'; 4096])?;
    let rings = rings(&trained.pool);
    ensure!(rings.len() == 2, "{rings:?}");
    for ring in rings {
        let mut peer = TcpStream::connect(ring)?;
        // The rank may close the connection at once.
        let _ = peer.write_all(&[b'?'; 4096]);
    }
    // A client that has a certificate, and then takes its time: for its first request, and for the rest of it.
    let own = Folder::at(trained.certs().folder("worker"));
    let silent = secured(&url, &own, &[])?;
    let dribbling = secured(&url, &own, HALF_A_REQUEST)?;
    trained.assert_undisturbed();
    slow.set_read_timeout(Some(PATIENCE))?;
    ensure!(matches!(slow.read(&mut [0; 64]), Ok(0) | Err(_)), "a slow handshake is ended");
    for mut client in [silent, dribbling] {
        let began = Instant::now();
        // The coordinator's own settings come first.
        while client.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        ensure!(began.elapsed() < PATIENCE, "a slow client is not disconnected");
    }
    trained.assert_undisturbed();
    Ok(())
}

/// HTTP/2 as far as the beginning of a request: preface, settings, and a frame of headers that is not complete.
const HALF_A_REQUEST: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x50\x01\x04\0\0\0\x01\x82";

/// A connection with a client's certificate, on which these bytes are sent.
fn secured(
    url: &str,
    credentials: &Folder,
    bytes: &[u8],
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let (chain, key) = credentials.identity()?.context("a certificate")?;
    let mut tls = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(credentials.authorities()?.context("ca.crt")?)
        .with_client_auth_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let session = ClientConnection::new(Arc::new(tls), ServerName::try_from("localhost")?)?;
    let stream = TcpStream::connect(url.trim_start_matches("https://"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut client = StreamOwned::new(session, stream);
    client.write_all(bytes)?;
    client.flush()?;
    Ok(client)
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out() -> Result<()> {
    let fixture = Fixture::new();
    let mut trained = Trained::start(&fixture);
    let address: SocketAddr = trained.pool.url.trim_start_matches("https://").parse()?;
    muster_tests::process::raise_file_limit();
    let mut idle = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        idle.push(TcpStream::connect(address)?);
    }
    trained.assert_undisturbed();
    // Most of them are closed already, since there are too many, and the rest soon.
    for stream in &mut idle {
        stream.set_read_timeout(Some(PATIENCE))?;
        ensure!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
    trained.assert_undisturbed();
    Ok(())
}

#[test]
fn certificates_are_renewed_in_the_middle_of_a_run() -> Result<()> {
    let fixture = Fixture::new();
    for_two(&fixture);
    long(&fixture);
    let certs = Certs::new(&[]);
    let expires = SystemTime::now() + Duration::from_secs(20);
    certs.issue("worker", "muster:join", expires);
    let pool = Pool::start_with(certs, &fixture, &[]);
    let certs = pool.certs.as_ref().context("it has some")?;
    let run = pool.submit(&fixture, "key");
    let mut watch = pool.ask(&["watch", &run]);
    let before = watch.step(2).count("step");
    // Nobody renews the certificate, and the connections end with it.
    pool.workers().wait_for_text("this client's certificate has expired");
    ensure!(SystemTime::now() >= expires);
    certs.renew(&[]);
    // The ranks have gone on alone or have to load again, depending on how long they were away.
    let before = pool.status(&run).count("step").max(before);
    watch.step(before + 20);
    let own = Folder::at(certs.folder("coordinator"));
    let (renewed, _) = own.identity()?.context("its certificate")?;
    ensure!(served(&pool.url, &own)? == renewed[0], "the coordinator serves the renewed one");
    Ok(())
}

/// The certificate with which the coordinator at `url` answers.
fn served(url: &str, credentials: &Folder) -> Result<CertificateDer<'static>> {
    let tls = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(credentials.authorities()?.context("ca.crt")?)
        .with_no_client_auth();
    let mut session = ClientConnection::new(Arc::new(tls), ServerName::try_from("localhost")?)?;
    let mut stream = TcpStream::connect(url.trim_start_matches("https://"))?;
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    let chain = session.peer_certificates().context("a certificate")?;
    Ok(chain[0].clone().into_owned())
}

/// Connects as a worker and sends reports. Returns the error with which the stream ends, or `None` if a directive
/// arrived.
async fn hello(
    url: &str,
    credentials: &Credentials,
    name: &str,
    reports: Vec<Report>,
) -> Result<Option<tonic::Status>> {
    let hello = Simulated::hello(name, "127.0.0.1:9");
    let (sender, outgoing) = mpsc::channel::<wire::Report>(1 + reports.len());
    for report in std::iter::once(hello).chain(reports) {
        sender.send(report.into()).await?;
    }
    let mut client = WorkersClient::new(channel(url, credentials).await?);
    let mut directives = match client.session(ReceiverStream::new(outgoing)).await {
        Ok(directives) => directives.into_inner(),
        Err(status) => return Ok(Some(status)),
    };
    let first = directives.message().await;
    // The coordinator handles what was sent before it notices the end.
    drop(sender);
    Ok(first.err())
}

/// The ring addresses of the members.
fn rings(pool: &Pool) -> Vec<String> {
    let listed = pool.ask(&["list", "--workers"]).end().with_code(0);
    let members = listed.events.iter().filter(|e| e.0["rank"].is_u64());
    members.map(|e| e.text("ring").to_owned()).collect()
}
