//! The web port: health, readiness and metrics.

use anyhow::{Context, Result, ensure};
use muster_tests::certs::Certs;
use muster_tests::pool::{self, Pool, for_two};
use muster_tests::process::PATIENCE;
use muster_tests::server::free_ports;
use muster_tests::{Fixture, Process, programs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wire::credentials::{Folder, provider};

const POLL: Duration = Duration::from_millis(50);

/// Asks for a page; returns the status and the body.
fn get(port: u16, tls: Option<&Arc<ClientConfig>>, path: &str) -> Result<(u16, String)> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut text = Vec::new();
    match tls {
        None => read(stream, &request, &mut text)?,
        Some(tls) => {
            let session = ClientConnection::new(tls.clone(), ServerName::try_from("localhost")?)?;
            read(StreamOwned::new(session, stream), &request, &mut text)?;
        }
    }
    let text = String::from_utf8(text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("a head")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, body.to_owned()))
}

fn read(mut stream: impl Read + Write, request: &str, text: &mut Vec<u8>) -> Result<()> {
    stream.write_all(request.as_bytes())?;
    stream.read_to_end(text)?;
    Ok(())
}

/// The series of the page of metrics by name and labels, as they are written.
fn metrics(port: u16) -> Result<BTreeMap<String, f64>> {
    let (status, page) = get(port, None, "/metrics")?;
    ensure!(status == 200, "{page}");
    ensure!(page.ends_with("# EOF\n"), "{page}");
    let series = page.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').context("a value")?;
        Ok((name.to_owned(), value.parse()?))
    });
    series.collect()
}

/// Waits until the page of metrics is as wanted, and returns it.
fn wait(
    port: u16,
    wanted: impl Fn(&BTreeMap<String, f64>) -> bool,
) -> Result<BTreeMap<String, f64>> {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = metrics(port)?;
        if wanted(&found) {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "{found:#?}");
        std::thread::sleep(POLL);
    }
}

#[test]
fn metrics_agree_with_what_the_run_reports() -> Result<()> {
    let fixture = Fixture::new();
    for_two(&fixture);
    fixture.long();
    let [port, web] = free_ports();
    let (listen, page) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{web}"));
    let coordinator = pool::serve(&pool::folder(&fixture), &listen, &["--web", &page], &[]);
    let url = pool::address(&coordinator);
    let worker = ["--coordinator", &url, "--devices", "cpu:2", "--name", "hand"];
    let workers = Some(Process::start(&programs::worker(), &worker));
    let pool = Pool { coordinator, workers, url, certs: None };
    ensure!(get(web, None, "/healthz")? == (200, "ok".into()));
    ensure!(get(web, None, "/readyz")? == (200, "ok".into()));
    ensure!(get(web, None, "/cancel")?.0 == 404);
    let run = pool.submit(&fixture, "key");
    let mut watch = pool.ask(&["watch", &run]);
    watch.step(10);
    let of = |name: &str, labels: &str| format!("muster_run_{name}{{run=\"{run}\"{labels}}}");
    let before = wait(web, |m| m.get(&of("checkpoints_total", "")).is_some_and(|n| *n >= 1.0))?;
    ensure!(before["muster_workers{state=\"training\"}"] == 2.0, "{before:#?}");
    ensure!(before[&of("training", "")] == 1.0 && before[&of("generation", "")] == 1.0);
    ensure!(before[&of("checkpoint_bytes", "")] > 0.0 && before[&of("world_size", "")] == 2.0);
    ensure!(before[&of("checkpoint_pause_seconds_count", "")] >= 2.0, "a pause per rank");
    for (rank, phase) in [("0", "compute"), ("1", "reduce_wait")] {
        let labels = format!(",rank=\"{rank}\",worker=\"hand-");
        let name = format!("muster_rank_step_seconds{{run=\"{run}\"{labels}");
        let found = before.keys().filter(|key| key.starts_with(&name) && key.contains(phase));
        ensure!(found.count() == 1, "{name}");
    }
    pool.workers().kill("--slot hand-1 ");
    // The supervisor may start another rank before the coordinator gives up the dead one.
    let of_reasons = |m: &BTreeMap<String, f64>, name: &str| -> f64 {
        let reasons = ["disconnected", "replaced"];
        reasons.iter().map(|reason| m[&format!("muster_{name}_total{{reason=\"{reason}\"}}")]).sum()
    };
    let after = wait(web, |m| m.get(&of("regroup_seconds_count", "")) == Some(&1.0))?;
    ensure!(of_reasons(&before, "workers_lost") == 0.0);
    ensure!(of_reasons(&after, "workers_lost") == 1.0);
    let detected = of_reasons(&after, "workers_lost_detect_seconds");
    let regrouped = after[&of("regroup_seconds_sum", "")];
    ensure!(detected > 0.0 && detected < 5.0 && regrouped > 0.0, "{detected} {regrouped}");
    ensure!(after[&of("incidents_total", "")] >= 1.0 && after[&of("generation", "")] == 2.0);
    let watched = watch.end().with_code(0);
    let ended = wait(web, |m| m.get("muster_runs{phase=\"succeeded\"}") == Some(&1.0))?;
    let steps = watched.all("step");
    let sum = |key: &str| steps.iter().map(|e| e.count(key)).sum::<u64>() as f64;
    for (name, total) in [
        ("steps_total", steps.len() as f64),
        ("tokens_total", sum("tokens")),
        ("trained_tokens_total", sum("trained_tokens")),
        ("samples_total", sum("samples")),
        ("loss", steps.last().context("a step")?.number("loss")),
        ("eval_loss", watched.all("eval").last().context("an evaluation")?.number("loss")),
        ("redone_steps_total", watched.all("generation")[1].count("redone") as f64),
    ] {
        ensure!(ended[&of(name, "")] == total, "{name}: {} != {total}", ended[&of(name, "")]);
    }
    let compute = of("step_seconds_count", ",phase=\"compute\"");
    ensure!(ended[&compute] == steps.len() as f64);
    let receipt = &watched.only("prepared").0["receipt"]["sources"];
    let eligible: u64 = receipt
        .as_object()
        .context("sources")?
        .values()
        .map(|s| s["eligible"].as_u64().unwrap_or(0))
        .sum();
    ensure!(ended[&of("records", ",outcome=\"eligible\"")] == eligible as f64);
    Ok(())
}

#[test]
fn a_coordinator_that_waits_for_its_store_is_alive_and_not_ready() -> Result<()> {
    let [web, nothing] = free_ports();
    let page = format!("127.0.0.1:{web}");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--output", "s3://none/pool", "--web", &page];
    let environment = [
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{nothing}")),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_ACCESS_KEY_ID", "a".into()),
        ("AWS_SECRET_ACCESS_KEY", "b".into()),
    ];
    let _waiting = Process::start_in(&programs::coordinator(), &serve, &environment);
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", web)).is_err() {
        ensure!(Instant::now() < until, "the web port does not open");
        std::thread::sleep(POLL);
    }
    ensure!(get(web, None, "/healthz")? == (200, "ok".into()));
    let (status, reason) = get(web, None, "/readyz")?;
    ensure!(status == 503 && reason.contains("nothing is claimed yet"), "{status} {reason}");
    ensure!(get(web, None, "/metrics")?.0 == 503);
    Ok(())
}

#[test]
fn the_web_port_is_encrypted_and_says_when_the_certificate_expires() -> Result<()> {
    let fixture = Fixture::new();
    let certs = Certs::new(&["--days", "30"]);
    let [web] = free_ports();
    let page = format!("127.0.0.1:{web}");
    let authorities = Folder::at(certs.folder("user")).authorities()?.context("ca.crt")?;
    let pool = Pool::start_with(certs, &fixture, &["--web", &page]);
    let tls = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    let tls = Arc::new(tls);
    ensure!(get(web, Some(&tls), "/healthz")? == (200, "ok".into()));
    let (_, metrics) = get(web, Some(&tls), "/metrics")?;
    let line = "muster_certificate_expiry_timestamp_seconds ";
    let expires = metrics.lines().find_map(|l| l.strip_prefix(line)).context("the expiry")?;
    let expires = UNIX_EPOCH + Duration::from_secs_f64(expires.parse()?);
    let days = expires.duration_since(SystemTime::now())?.as_secs_f64() / 86_400.0;
    ensure!((29.9..30.0).contains(&days), "{days}");
    ensure!(get(web, None, "/healthz").is_err(), "there is no answer without TLS");
    drop(pool);
    Ok(())
}
