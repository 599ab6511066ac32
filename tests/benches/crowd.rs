//! A thousand workers with a TLS connection each: `cargo bench -p muster-tests --bench crowd`, or with a number:
//! `-- 200`.
//!
//! The workers are real agents with their real sessions, certificates and rings, in one process; only their compute
//! threads have nothing to do. The benchmark measures how long they take to join, what they cost the coordinator while
//! they are idle, whether any of them is taken for lost, and how long all of them take to come back after the
//! coordinator was killed and started again. Members of a run have 15 s for that.

use anyhow::{Result, ensure};
use muster_tests::Fixture;
use muster_tests::certs::Certs;
use muster_tests::pool::{address, folder, serve};
use muster_tests::server::free_ports;
use muster_tests::usage::{memory, processor_time};
use proto::id::{Incarnation, WorkerId, unique};
use std::time::{Duration, Instant};
use wire::connect::{self, Options};
use wire::credentials::Credentials;
use wire::runs_client::RunsClient;
use worker::agent::Agent;
use worker::collective::Listener;
use worker::devices::{self, Device, Opened};
use worker::session::Identity;

const WORKERS: usize = 1000;
/// How long the coordinator is measured.
const WINDOW: Duration = Duration::from_secs(20);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> Result<()> {
    let count = std::env::args().find_map(|a| a.parse().ok()).unwrap_or(WORKERS);
    let (fixture, certs) = (Fixture::new(), Certs::new(&[]));
    let [port] = free_ports();
    let listen = format!("127.0.0.1:{port}");
    let own = certs.folder("coordinator");
    let start = || serve(&folder(&fixture), &listen, &["--credentials", &own], &[]);
    let mut coordinator = start();
    let url = address(&coordinator);

    let began = Instant::now();
    let opened = devices::open(&Device::Cpu)?;
    for number in 0..count {
        let agent = agent(number, &url, certs.client("worker"), &opened)?;
        tokio::spawn(agent.work(std::future::pending()));
    }
    let user = certs.client("user");
    all_there(&url, &user, count).await?;
    println!("{count} workers joined in {:.1} s", began.elapsed().as_secs_f64());

    let own_time = || processor_time(std::process::id());
    let (began, before) = (Instant::now(), (processor_time(coordinator.id())?, own_time()?));
    let mut looks = 0;
    while began.elapsed() < WINDOW {
        let there = there(&url, &user).await?;
        ensure!(there == count, "{there} of {count} workers are connected");
        looks += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let share = |spent: f64| 100.0 * spent / seconds;
    println!(
        "idle, all connected at each of {looks} looks: the coordinator uses {:.2} % of a core and {} MiB, \
         all workers together {:.2} % and {} MiB",
        share(processor_time(coordinator.id())? - before.0),
        memory(coordinator.id())?,
        share(own_time()? - before.1),
        memory(std::process::id())?,
    );

    coordinator.signal(rustix::process::Signal::KILL);
    drop(coordinator);
    let began = Instant::now();
    coordinator = start();
    all_there(&url, &user, count).await?;
    println!(
        "after its end and start: all are back after {:.1} s, for {:.1} s of the coordinator's processor time",
        began.elapsed().as_secs_f64(),
        processor_time(coordinator.id())?
    );
    Ok(())
}

fn agent(number: usize, url: &str, credentials: Credentials, opened: &Opened) -> Result<Agent> {
    let listener = Listener::bind("127.0.0.1:0")?;
    let identity = Identity {
        worker: WorkerId::new(format!("w{number}-0")),
        incarnation: Incarnation::new(unique()),
        device: opened.kind.clone(),
        threads: 1,
        ring: listener.local_addr().to_string(),
        last_end: None,
    };
    let kernels = opened.kernels.clone();
    Ok(Agent::new((url.to_owned(), credentials), identity, listener, kernels))
}

/// Waits until this number of workers is connected.
async fn all_there(url: &str, user: &Credentials, count: usize) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let seen = there(url, user).await.unwrap_or(0);
        if seen == count {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{seen} of {count} workers are connected");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The number of connected workers.
async fn there(url: &str, user: &Credentials) -> Result<usize> {
    let channel = connect::channel(url, user, Options::QUESTION).await?;
    let listed = RunsClient::new(channel).list(wire::ListRequest {}).await?.into_inner();
    Ok(listed.workers.iter().filter(|worker| worker.state != "disconnected").count())
}
