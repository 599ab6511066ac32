//! The web port: whether this coordinator is alive and ready, and its metrics.
//!
//! ```text
//! /healthz   200 while the coordinator handles its inputs
//! /readyz    200 once it has claimed its pool or its run, until it is replaced
//! /metrics   figures in the text format of Prometheus
//! ```
//!
//! It answers before the claim, so that a coordinator that waits for its store can be told from a dead one. It asks for
//! no credentials, and changes nothing.

mod figures;
mod page;

pub(crate) use figures::Metrics;

use crate::runtime::handle::{Handle, Overview};
use crate::service::{Accepted, Door, accept};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// How long the coordinator may take to say what it is doing.
const ANSWER: Duration = Duration::from_secs(5);

/// What the coordinator is doing, as the web port sees it.
#[derive(Clone)]
pub enum Stage {
    /// It has not claimed its pool or its run yet.
    Starting,
    /// It works.
    Working(Handle),
    /// There are only workers here, which work for a coordinator elsewhere.
    Beside,
}

#[derive(Clone)]
struct Web {
    stage: watch::Receiver<Stage>,
    door: Door,
}

/// Serves the web port at `address`, if there is one. Returns only an error.
pub async fn serve_at(
    address: Option<SocketAddr>,
    door: Door,
    stage: watch::Receiver<Stage>,
) -> std::io::Error {
    let Some(address) = address else { return std::future::pending().await };
    let served = async { serve(TcpListener::bind(address).await?, door, stage).await };
    let closed = || std::io::Error::other("the web port has closed");
    served.await.err().unwrap_or_else(closed)
}

/// Serves the web port until the returned future is dropped.
///
/// # Errors
/// An error of the server as a whole.
async fn serve(
    listener: TcpListener,
    door: Door,
    stage: watch::Receiver<Stage>,
) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    let connections = accept(listener, door.web.clone());
    let router = Router::new()
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Web { stage, door });
    axum::serve(Listener { connections, address }, router).await
}

struct Listener {
    connections: mpsc::Receiver<Accepted>,
    address: SocketAddr,
}

impl axum::serve::Listener for Listener {
    type Io = Accepted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Accepted, SocketAddr) {
        match self.connections.recv().await {
            Some(connection) => {
                let address = connection.address();
                (connection, address)
            }
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Web {
    /// What the coordinator is doing, or why it cannot say so.
    async fn overview(&self) -> Result<(Handle, Overview), &'static str> {
        let handle = match &*self.stage.borrow() {
            Stage::Starting => return Err("starting: nothing is claimed yet"),
            Stage::Beside => return Err("the coordinator is elsewhere"),
            Stage::Working(handle) => handle.clone(),
        };
        match tokio::time::timeout(ANSWER, handle.overview()).await {
            Ok(Ok(overview)) => Ok((handle, overview)),
            Ok(Err(_)) => Err("the coordinator has stopped"),
            Err(_) => Err("the coordinator does not answer"),
        }
    }
}

async fn healthy(State(web): State<Web>) -> Response {
    let working = matches!(*web.stage.borrow(), Stage::Working(_));
    match web.overview().await {
        Err(reason) if working => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
        Ok(_) | Err(_) => "ok".into_response(),
    }
}

async fn ready(State(web): State<Web>) -> Response {
    if let Stage::Beside = *web.stage.borrow() {
        return "ok".into_response();
    }
    match web.overview().await {
        Ok((handle, _)) if handle.successor().is_none() => "ok".into_response(),
        Ok(_) => {
            let reason = "another coordinator has replaced this one";
            (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
        }
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}

async fn metrics(State(web): State<Web>) -> Response {
    match web.overview().await {
        Ok((handle, overview)) => {
            let text = page::render(handle.metrics(), &overview, web.door.expires());
            ([(header::CONTENT_TYPE, page::CONTENT_TYPE)], text).into_response()
        }
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}
