//! What idle workers and ended runs cost a standing coordinator: `cargo bench -p muster-tests --bench idle`.
//!
//! Simulated workers, 50 to a connection, beat once a second and have nothing to do. For each number of workers, the
//! benchmark measures the coordinator's processor time over a window, without and with 500 ended runs, and again with
//! workers that beat at the directed interval, as real ones do. A bare server that only reads the same beats with the
//! same gRPC library gives the lower bound. `cargo bench -p muster-tests --bench idle -- 2000` measures this number
//! only.

use anyhow::{Context, Result, ensure};
use muster_tests::simulated::{Simulated, channel};
use muster_tests::usage::{memory, processor_time};
use muster_tests::{Fixture, Process, pool};
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use wire::credentials::Credentials;
use wire::runs_client::RunsClient;
use wire::workers_server::{Workers, WorkersServer};

/// Numbers of workers that are measured.
const WORKERS: [usize; 4] = [500, 1000, 2000, 4000];
/// Number of ended runs in the second series.
const ENDED: usize = 500;
/// Number of streams per connection.
const SHARED: usize = 50;
const BEAT: Duration = Duration::from_secs(1);
/// How long the benchmark waits for the coordinator to become idle.
const SETTLE: Duration = Duration::from_secs(5);
/// How long it then measures.
const WINDOW: Duration = Duration::from_secs(20);

/// The argument with which this program runs the bare server.
const BARE: &str = "bare";

fn main() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // `cargo bench` adds an argument.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == BARE) {
        return runtime.block_on(Bare::serve());
    }
    let only: Vec<usize> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
    let numbers = if only.is_empty() { WORKERS.to_vec() } else { only };
    println!("workers  ended runs     beats  % of a core  per worker against half as many   MiB");
    for (ended, beat) in [(0, Some(BEAT)), (ENDED, Some(BEAT)), (0, None)] {
        let mut before = None;
        for &workers in &numbers {
            let (share, mib) = runtime.block_on(measure(workers, ended, beat))?;
            let each = share / workers as f64;
            let ratio = before.map(|before| each / before);
            let ratio = ratio.map_or("-".to_owned(), |ratio: f64| format!("{ratio:.2}"));
            let beats = if beat.is_some() { "1 a second" } else { "directed" };
            println!(
                "{workers:>7}  {ended:>10}  {beats:>10}  {:>9.2}  {ratio:>32}  {mib:>4}",
                100.0 * share,
            );
            before = Some(each);
        }
    }
    for &workers in &numbers {
        let share = 100.0 * runtime.block_on(floor(workers))?;
        println!("{workers:>7}  {BARE:>10}  {:>10}  {share:>9.2}", "1 a second");
    }
    Ok(())
}

/// The share of a core that the coordinator uses, and its memory in MiB.
async fn measure(workers: usize, ended: usize, beat: Option<Duration>) -> Result<(f64, u64)> {
    let fixture = Fixture::new();
    let coordinator = pool::serve(&pool::folder(&fixture), "127.0.0.1:0", &[], &[]);
    let url = pool::address(&coordinator);
    end_runs(&fixture, &url, ended).await?;
    // The address that the workers publish. It must be reachable, since the coordinator checks it.
    let ring = TcpListener::bind("127.0.0.1:0").await?;
    let address = ring.local_addr()?.to_string();
    let listening = tokio::spawn(async move { while ring.accept().await.is_ok() {} });
    let streams = connect(&url, workers, &address, beat).await?;
    let share = share(&coordinator).await?;
    let listed = RunsClient::connect(url).await?.list(wire::ListRequest {}).await?.into_inner();
    ensure!(listed.workers.len() == workers, "{} of {workers} are there", listed.workers.len());
    ensure!(listed.runs.len() == ended, "{} of {ended} runs are listed", listed.runs.len());
    streams.iter().for_each(JoinHandle::abort);
    listening.abort();
    Ok((share, memory(coordinator.id())?))
}

/// The share of a core that the bare server uses.
async fn floor(workers: usize) -> Result<f64> {
    let server = Process::start(&std::env::current_exe()?, &[BARE]);
    let streams =
        connect(&server.wait_for_line(BARE_AT), workers, "127.0.0.1:1", Some(BEAT)).await?;
    let share = share(&server).await?;
    streams.iter().for_each(JoinHandle::abort);
    Ok(share)
}

/// Opens the streams of `workers` workers, which publish the address `ring`.
async fn connect(
    url: &str,
    workers: usize,
    ring: &str,
    beat: Option<Duration>,
) -> Result<Vec<JoinHandle<()>>> {
    let mut streams = Vec::new();
    for first in (0..workers).step_by(SHARED) {
        let channel = channel(url, &Credentials::none()).await?;
        for number in first..workers.min(first + SHARED) {
            let worker = Simulated {
                name: format!("w{number}"),
                ring: ring.to_owned(),
                reports: Vec::new(),
                beat,
                // Beats are spread over the second, as those of real workers are.
                delay: BEAT.mul_f64(number as f64 % 97.0 / 97.0),
            };
            streams.push(worker.connect(channel.clone()).await?);
        }
    }
    Ok(streams)
}

/// The share of a core that a process uses once it is idle.
async fn share(process: &Process) -> Result<f64> {
    tokio::time::sleep(SETTLE).await;
    let (began, before) = (Instant::now(), processor_time(process.id())?);
    tokio::time::sleep(WINDOW).await;
    Ok((processor_time(process.id())? - before) / began.elapsed().as_secs_f64())
}

/// A server that reads workers' reports and does nothing else.
struct Bare;

/// The text before the address of the bare server.
const BARE_AT: &str = "bare server at ";

impl Bare {
    /// Serves with a coordinator's settings, until it is killed.
    async fn serve() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        eprintln!("{BARE_AT}http://{}", listener.local_addr()?);
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .tcp_nodelay(true)
            .add_service(WorkersServer::new(Self));
        Ok(server.serve_with_incoming(TcpListenerStream::new(listener)).await?)
    }
}

#[tonic::async_trait]
impl Workers for Bare {
    type SessionStream =
        Pin<Box<dyn futures::Stream<Item = Result<wire::Directive, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::Report>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut reports = request.into_inner();
        tokio::spawn(async move { while let Ok(Some(_)) = reports.message().await {} });
        Ok(Response::new(Box::pin(futures::stream::pending())))
    }
}

/// Submits runs whose data does not exist, and waits until all have failed.
async fn end_runs(fixture: &Fixture, url: &str, count: usize) -> Result<()> {
    fixture.respec("./data.jsonl", "./missing.jsonl");
    let yaml = fixture.read("spec.yaml");
    let spec = proto::spec::parse(&yaml, &fixture.path("")).context("the spec")?;
    let mut client = RunsClient::connect(url.to_owned()).await?;
    for _ in 0..count {
        let (spec_yaml, idempotency_key) = (spec.resolved_yaml(), proto::id::unique());
        client.submit(wire::SubmitRequest { spec_yaml, idempotency_key }).await?;
    }
    let until = Instant::now() + Duration::from_secs(300);
    loop {
        let runs = client.list(wire::ListRequest {}).await?.into_inner().runs;
        if runs.iter().filter(|run| run.phase == "failed").count() == count {
            return Ok(());
        }
        ensure!(Instant::now() < until, "the runs do not end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
