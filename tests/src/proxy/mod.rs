//! A store that misbehaves: an HTTP/1.1 proxy between Muster and a real S3 server, with faults drawn from a seed.
//!
//! ```text
//! Muster --> Proxy --> SeaweedFS    a fault: instead of passing a request on, in place of its answer, in a body
//! ```
//!
//! And it can stand still at a request of the caller's choice, so that a process is killed at a known stage of what it
//! does: [`Proxy::stand_still_at`].
//!
//! It knows HTTP and a little of S3, and nothing of Muster. What befalls a request depends on the seed, on what is
//! asked and on how often it was asked before; not on time, and not on the order of requests that run at once. Requests
//! go on with their `Host`, which their signature covers; those to one object one after another, in the order in which
//! they came, so that nothing is late but what is drawn to be.

mod exchange;
mod fault;
mod google;
mod standstill;

pub use fault::{Fault, Faults, Random};
pub use standstill::{Moment, Stage, Standstill};

use crate::seaweed::{self, SeaweedFs};
use crate::server::free_ports;
use bytes::Bytes;
use exchange::{Exchange, asked};
use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use standstill::Gate;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Where the server is that a proxy [`Proxy::here`] stands before.
const STORE: &str = "MUSTER_TEST_STORE";

/// Answers to one listing that are remembered.
const EARLIER: usize = 8;

/// A fault that came to pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Befallen {
    /// What it was.
    pub fault: Fault,
    /// `GET`, `PUT`, ...
    pub method: String,
    /// Path and query.
    pub target: String,
}

/// A proxy under way; it ends with this.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
    /// Nobody gets through.
    away: Arc<AtomicBool>,
    runtime: Option<Runtime>,
}

impl Proxy {
    /// Stands before the server at `store`, on a port of its own, and passes everything on as it is.
    pub fn start(store: SocketAddr) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), store)
    }

    /// The environment of a test, run by [`again`](crate::again::again), whose storage is behind a proxy that it
    /// starts [`here`](Self::here).
    pub fn before(store: SocketAddr) -> Vec<(&'static str, String)> {
        let [port] = free_ports();
        let mut environment = Vec::from(SeaweedFs::environment_at(([127, 0, 0, 1], port).into()));
        environment.push((STORE, store.to_string()));
        environment
    }

    /// Stands where the environment that [`before`](Self::before) made has it.
    pub fn here() -> Self {
        let store = std::env::var(STORE).ok().and_then(|a| a.parse().ok());
        Self::start_at(seaweed::here(), store.expect("the environment has it"))
    }

    fn start_at(address: SocketAddr, store: SocketAddr) -> Self {
        // Threads of its own: a test that blocks does not stop the store.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().expect("threads");
        let listener = std::net::TcpListener::bind(address).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (state, gate) = (Arc::<Mutex<State>>::default(), Arc::<Gate>::default());
        let away = Arc::<AtomicBool>::default();
        runtime.spawn(serve(listener, store, state.clone(), gate.clone(), away.clone()));
        Self { address, state, gate, away, runtime: Some(runtime) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The environment in which Muster takes it for Google's, while it is [`Faults::in_google`].
    pub fn environment_of_google(&self) -> [(&'static str, String); 2] {
        let url = format!("http://{}", self.address);
        [("GOOGLE_BASE_URL", url), ("GOOGLE_BEARER_TOKEN", google::TOKEN.into())]
    }

    /// Misbehaves like this from now on, as if nothing had been asked before; what befell is forgotten.
    pub fn misbehave(&self, faults: Faults) {
        *lock(&self.state) = State { faults, ..State::default() };
    }

    /// Takes the store away, or brings it back: while it is away every connection breaks, old and new.
    pub fn take_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Stands still at the first request from now on that is this one: nothing is passed on, and nothing answered,
    /// until the caller says how it goes on.
    pub fn stand_still_at(&self, stage: Stage) -> Standstill {
        Gate::close_at(&self.gate, stage)
    }

    /// Holds back whatever has `words` in its path or query until this request has come: what processes do beside each
    /// other happens in an order then.
    pub fn hold_back(&self, words: &'static str, until: Stage) {
        self.gate.hold_back(words, until);
    }

    /// All that befell since [`Self::misbehave`].
    pub fn befallen(&self) -> Vec<Befallen> {
        lock(&self.state).befallen.clone()
    }

    /// Requests since [`Self::misbehave`], those included that nothing befell.
    pub fn requests(&self) -> u64 {
        lock(&self.state).times.values().sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    befallen: Vec<Befallen>,
    /// How often each thing was asked.
    times: BTreeMap<String, u64>,
    /// Whose turn it is at each object.
    turns: BTreeMap<String, Arc<tokio::sync::Mutex<()>>>,
    /// The last answers to each listing.
    listings: BTreeMap<String, Vec<Answer>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("held only to look and to write down")
}

/// An answer with all of its body.
type Answer = Response<Bytes>;

/// The connection breaks here.
#[derive(Debug)]
struct HangUp;

impl std::fmt::Display for HangUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the proxy hangs up")
    }
}

impl std::error::Error for HangUp {}

async fn serve(
    listener: std::net::TcpListener,
    store: SocketAddr,
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
    away: Arc<AtomicBool>,
) {
    let listener = TcpListener::from_std(listener).expect("it does not block");
    while let Ok((stream, _)) = listener.accept().await {
        if away.load(Ordering::SeqCst) {
            continue;
        }
        let (state, gate, away) = (state.clone(), gate.clone(), away.clone());
        let client = gate.next_client();
        let service = service_fn(move |request| {
            let (state, gate) = (state.clone(), gate.clone());
            let is_away = away.load(Ordering::SeqCst);
            async move {
                if is_away {
                    return Err(HangUp);
                }
                Exchange { asked: asked(&request), store, state, gate, client }
                    .answer(request)
                    .await
            }
        });
        let http = hyper::server::conn::http1::Builder::new();
        let connection = http.serve_connection(TokioIo::new(stream), service);
        // It ends in an error whenever we hang up, or the client does.
        tokio::spawn(async { drop(connection.await) });
    }
}
