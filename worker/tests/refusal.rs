//! Tests of a worker that its coordinator does not accept yet.

#![allow(clippy::unwrap_used)]

use proto::id::{Epoch, Incarnation, WorkerId};
use proto::protocol::{Directive, Dismissal, Duty, Hello, Report};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use wire::workers_server::{Workers, WorkersServer};
use worker::agent::Agent;
use worker::collective::Listener;
use worker::session::{Exit, Identity};

const PATIENCE: Duration = Duration::from_secs(60);

/// Refuses a worker twice because another process has its name, then dismisses it.
#[derive(Clone, Default)]
struct Coordinator {
    hellos: Arc<Mutex<Vec<Hello>>>,
}

#[tonic::async_trait]
impl Workers for Coordinator {
    type SessionStream =
        Pin<Box<dyn futures::Stream<Item = Result<wire::Directive, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::Report>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let first = request.into_inner().message().await?.unwrap();
        let Ok(Report::Hello(hello)) = Report::try_from(first) else { panic!("no hello") };
        let mut hellos = self.hellos.lock().unwrap();
        hellos.push(hello);
        let duty = match hellos.len() {
            1 | 2 => Duty::NotNow { reason: "another process of this name lives".into() },
            _ => Duty::Dismissed { reason: "done".into(), why: Dismissal::Succeeded },
        };
        let beat = Duration::from_secs(1);
        let directive = Directive { epoch: Epoch(1), beat, duty, heard: 0 };
        // The stream stays open, since the worker has to close it.
        let directives = futures::stream::iter([Ok(directive.into())]);
        Ok(Response::new(Box::pin(futures::StreamExt::chain(
            directives,
            futures::stream::pending(),
        ))))
    }
}

#[tokio::test]
async fn a_worker_whose_name_is_taken_tries_again_and_never_exits() {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let coordinator = Coordinator::default();
    let server = tonic::transport::Server::builder()
        .add_service(WorkersServer::new(coordinator.clone()))
        .serve_with_incoming(TcpListenerStream::new(socket));
    tokio::spawn(server);
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let end = "killed by signal 9 (SIGKILL)";
    let identity = Identity {
        worker: WorkerId::new("n1-0"),
        incarnation: Incarnation::new("i"),
        device: "cpu".into(),
        threads: 1,
        ring: listener.local_addr().to_string(),
        last_end: Some(end.into()),
    };
    let work = Agent::new(
        (url, wire::credentials::Credentials::none()),
        identity,
        listener,
        worker::kernels::host(),
    )
    .work(std::future::pending());
    let exit = tokio::time::timeout(PATIENCE, work).await.unwrap();
    assert_eq!(exit, Ok(Exit::Dismissed(Dismissal::Succeeded)));
    let hellos = coordinator.hellos.lock().unwrap();
    assert_eq!(hellos.len(), 3);
    for hello in &*hellos {
        assert_eq!(
            hello.last_end.as_deref(),
            Some(end),
            "no coordinator has accepted the report yet"
        );
    }
}
