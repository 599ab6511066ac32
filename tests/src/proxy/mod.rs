//! An HTTP/1.1 proxy between Muster and a real S3 server that injects faults, drawn from a seed.
//!
//! ```text
//! Muster --> Proxy --> SeaweedFS    a fault replaces the request or its answer, or changes a body
//! ```
//!
//! It can also pause at a chosen request, so that a test can kill a process at a known stage of its work:
//! [`Proxy::pause_at`].
//!
//! The proxy knows HTTP and a little of S3, and nothing of Muster. The fault of a request depends on the seed, on the
//! request and on how often it was made before. It does not depend on time or on the order of concurrent requests.
//! Requests keep their `Host` header, which their signature covers. Requests to one object are passed on one after
//! another in order of arrival, so that only drawn faults cause delays.

mod exchange;
mod fault;
mod google;
mod pause;

pub use fault::{Fault, Faults, Random};
pub use pause::{Moment, Pause, Stage};

use crate::seaweed::{self, SeaweedFs};
use crate::server::free_ports;
use bytes::Bytes;
use exchange::{Exchange, info};
use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pause::Gate;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Environment variable with the address of the server behind [`Proxy::here`].
const STORE: &str = "MUSTER_TEST_STORE";

/// Number of answers to a listing that are remembered.
const EARLIER: usize = 8;

/// A fault that was injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// The kind of fault.
    pub fault: Fault,
    /// `GET`, `PUT`, ...
    pub method: String,
    /// Path and query.
    pub target: String,
}

/// A running proxy, which is stopped when this is dropped.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
    /// Whether every connection breaks.
    away: Arc<AtomicBool>,
    runtime: Option<Runtime>,
}

impl Proxy {
    /// Starts a proxy in front of the server at `store`, on a new port, without faults.
    pub fn start(store: SocketAddr) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), store)
    }

    /// The environment for a test that [`run_ignored`](crate::ignored::run_ignored) runs and that reaches its storage
    /// through a proxy, which it starts with [`here`](Self::here).
    pub fn before(store: SocketAddr) -> Vec<(&'static str, String)> {
        let [port] = free_ports();
        let mut environment = Vec::from(SeaweedFs::environment_at(([127, 0, 0, 1], port).into()));
        environment.push((STORE, store.to_string()));
        environment
    }

    /// Starts the proxy that the environment from [`before`](Self::before) describes.
    pub fn here() -> Self {
        let store = std::env::var(STORE).ok().and_then(|a| a.parse().ok());
        Self::start_at(seaweed::here(), store.expect("the environment has it"))
    }

    fn start_at(address: SocketAddr, store: SocketAddr) -> Self {
        // The proxy has its own threads, so that a blocked test does not stop the store.
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

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The environment in which Muster uses it as Google's storage, with [`Faults::in_google`].
    pub fn environment_of_google(&self) -> [(&'static str, String); 2] {
        let url = format!("http://{}", self.address);
        [("GOOGLE_BASE_URL", url), ("GOOGLE_BEARER_TOKEN", google::TOKEN.into())]
    }

    /// Injects these faults from now on, and forgets earlier requests and faults.
    pub fn inject(&self, faults: Faults) {
        *lock(&self.state) = State { faults, ..State::default() };
    }

    /// Makes the store unreachable, or reachable again. While it is away, every connection breaks, old and new.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Pauses at the next request that matches `stage`. Until the caller resumes the proxy, nothing is passed on and
    /// nothing is answered.
    pub fn pause_at(&self, stage: Stage) -> Pause {
        Gate::close_at(&self.gate, stage)
    }

    /// Holds back requests with `words` in their path or query until a request that matches `until` has arrived. This
    /// gives concurrent work of several processes a fixed order.
    pub fn hold_back(&self, words: &'static str, until: Stage) {
        self.gate.hold_back(words, until);
    }

    /// All faults that were injected since [`Self::inject`].
    pub fn injected(&self) -> Vec<Injected> {
        lock(&self.state).injected.clone()
    }

    /// Number of requests since [`Self::inject`], including those without a fault.
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
    injected: Vec<Injected>,
    /// How often each request was made.
    times: BTreeMap<String, u64>,
    /// A lock for each object.
    turns: BTreeMap<String, Arc<tokio::sync::Mutex<()>>>,
    /// The last answers to each listing.
    listings: BTreeMap<String, Vec<Answer>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("held only to look and to write down")
}

/// An answer with its whole body.
type Answer = Response<Bytes>;

/// An error that breaks the connection.
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
                Exchange { info: info(&request), store, state, gate, client }.answer(request).await
            }
        });
        let http = hyper::server::conn::http1::Builder::new();
        let connection = http.serve_connection(TokioIo::new(stream), service);
        // It ends with an error whenever the proxy or the client hangs up.
        tokio::spawn(async { drop(connection.await) });
    }
}
