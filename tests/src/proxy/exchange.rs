//! Handles one request: passes it on unchanged, or injects a fault.

use super::fault::RequestInfo;
use super::pause::{Gate, Moment};
use super::{Answer, EARLIER, Fault, HangUp, Injected, Random, State, google, lock};
use bytes::Bytes;
use futures::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, EXPECT, IF_NONE_MATCH, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;

/// An answer to the client, which may break off early.
pub(super) type Sent = Response<BoxBody<Bytes, HangUp>>;

/// One request, and the context in which it is handled.
pub(super) struct Exchange {
    pub(super) info: RequestInfo,
    pub(super) store: SocketAddr,
    pub(super) state: Arc<Mutex<State>>,
    pub(super) gate: Arc<Gate>,
    /// The number of its connection.
    pub(super) client: u64,
}

impl Exchange {
    pub(super) async fn answer(self, request: Request<Incoming>) -> Result<Sent, HangUp> {
        let drawn = {
            let mut state = lock(&self.state);
            let what = format!("{} {}", self.info.method, self.info.target);
            let times = state.times.entry(what).or_default();
            *times += 1;
            let times = *times;
            state.faults.draw(&self.info, times)
        };
        match drawn {
            Some((Fault::HangUpInRequest, _)) => {
                self.record(Fault::HangUpInRequest);
                read_half(request).await;
                Err(HangUp)
            }
            Some((fault, random)) => self.with(fault, random, collect(request).await?).await,
            None => Ok(whole(self.pass_on(collect(request).await?).await?)),
        }
    }

    async fn with(
        &self,
        fault: Fault,
        mut random: Random,
        request: Request<Bytes>,
    ) -> Result<Sent, HangUp> {
        match fault {
            Fault::HangUp | Fault::HangUpInRequest => {
                self.record(fault);
                Err(HangUp)
            }
            Fault::Silence => {
                self.record(fault);
                self.silence().await
            }
            Fault::Error => self.refuse(fault, StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            Fault::SlowDown => self.refuse(fault, StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
            Fault::Conflict => {
                self.refuse(fault, StatusCode::CONFLICT, "ConditionalRequestConflict")
            }
            Fault::FlipRequest => {
                self.record(fault);
                let request = request.map(|body| flipped(&body, &mut random));
                Ok(whole(self.pass_on(request).await?))
            }
            Fault::HangUpInAnswer => {
                self.record(fault);
                Ok(halved(self.pass_on(request).await?))
            }
            Fault::SilenceAfter => {
                self.record(fault);
                self.pass_on(request).await?;
                self.silence().await
            }
            Fault::ErrorAfter => {
                self.pass_on(request).await?;
                self.refuse(fault, StatusCode::INTERNAL_SERVER_ERROR, "InternalError")
            }
            Fault::LostWin => {
                let answer = self.pass_on(request).await?;
                if answer.status().is_success() {
                    self.refuse(fault, StatusCode::PRECONDITION_FAILED, "PreconditionFailed")
                } else {
                    Ok(whole(answer))
                }
            }
            Fault::CutBody => {
                let answer = self.pass_on(request).await?;
                let cut = |body: &Bytes| body.slice(..random.below(body.len()));
                Ok(whole(self.changed(fault, answer, cut)))
            }
            Fault::FlipAnswer => {
                let answer = self.pass_on(request).await?;
                Ok(whole(self.changed(fault, answer, |body| flipped(body, &mut random))))
            }
            Fault::StaleListing => {
                let mut moments = self.listings();
                let now = self.pass_on(request).await?;
                moments.push(now.clone());
                let answer = moments.swap_remove(random.below(moments.len()));
                if answer.body() != now.body() {
                    self.record(fault);
                }
                Ok(whole(answer))
            }
        }
    }

    /// Passes a request on to the store and returns its answer.
    async fn pass_on(&self, mut request: Request<Bytes>) -> Result<Answer, HangUp> {
        let body = request.body().clone();
        self.gate.pass(self.client, Moment::Before, &self.info, &body).await?;
        let headers = request.headers_mut();
        for hop in [CONNECTION, EXPECT, TRANSFER_ENCODING] {
            headers.remove(hop);
        }
        for ignored in &lock(&self.state).faults.ignored {
            headers.remove(*ignored);
        }
        let in_google = lock(&self.state).faults.google;
        if in_google {
            google::request(headers);
        }
        // A client may give up on a slow request, and the store may still execute it after the client's next one. On
        // a busy machine that would be a fault beside those that are drawn. So requests to one object take turns,
        // and each is executed even if its client has given up.
        let turn = lock(&self.state).turns.entry(self.info.target.clone()).or_default().clone();
        let turn = turn.lock_owned();
        let store = self.store;
        let asking = tokio::spawn(async move {
            let _turn = turn.await;
            ask(store, request).await
        });
        let mut answer = asking.await.map_err(|_| HangUp)?.map_err(|_| HangUp)?;
        if in_google {
            google::answer(answer.headers_mut());
        }
        if self.info.is_listing && answer.status().is_success() {
            let mut state = lock(&self.state);
            let known = state.listings.entry(self.info.target.clone()).or_default();
            known.push(answer.clone());
            let surplus = known.len().saturating_sub(EARLIER);
            known.drain(..surplus);
        }
        if answer.status().is_success() {
            self.gate.pass(self.client, Moment::After, &self.info, &body).await?;
        }
        Ok(answer)
    }

    /// Earlier answers to the same listing.
    fn listings(&self) -> Vec<Answer> {
        lock(&self.state).listings.get(&self.info.target).cloned().unwrap_or_default()
    }

    fn record(&self, fault: Fault) {
        let RequestInfo { method, target, .. } = &self.info;
        let (method, target) = (method.clone(), target.clone());
        lock(&self.state).injected.push(Injected { fault, method, target });
    }

    /// Waits without an answer. If the client gives up first, this future is dropped.
    async fn silence(&self) -> Result<Sent, HangUp> {
        let limit = lock(&self.state).faults.silence;
        tokio::time::sleep(limit).await;
        Err(HangUp)
    }

    fn refuse(&self, fault: Fault, status: StatusCode, code: &str) -> Result<Sent, HangUp> {
        self.record(fault);
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <Error><Code>{code}</Code><Message>injected by the proxy</Message></Error>"
        );
        let mut answer = Response::new(Bytes::from(body));
        *answer.status_mut() = status;
        Ok(whole(answer))
    }

    /// Changes the body of an answer, if it has one.
    fn changed(
        &self,
        fault: Fault,
        mut answer: Answer,
        change: impl FnOnce(&Bytes) -> Bytes,
    ) -> Answer {
        if answer.status().is_success() && !answer.body().is_empty() {
            self.record(fault);
            *answer.body_mut() = change(answer.body());
            let length = answer.body().len().into();
            answer.headers_mut().insert(CONTENT_LENGTH, length);
        }
        answer
    }
}

pub(super) fn info(request: &Request<Incoming>) -> RequestInfo {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    // Leaves out parameters that the server chose or that depend on the time.
    let kept: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.starts_with("uploadId=") && !pair.starts_with("X-Amz-"))
        .collect();
    let lists = |name: &str| kept.iter().any(|pair| pair.split('=').next() == Some(name));
    RequestInfo {
        method: request.method().to_string(),
        target: format!("{path}?{}", kept.join("&")),
        is_conditional: request.headers().contains_key(IF_NONE_MATCH),
        has_body: !request.body().is_end_stream(),
        is_listing: request.method() == Method::GET && (lists("list-type") || lists("uploads")),
    }
}

async fn collect(request: Request<Incoming>) -> Result<Request<Bytes>, HangUp> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| HangUp)?.to_bytes();
    Ok(Request::from_parts(head, body))
}

async fn read_half(request: Request<Incoming>) {
    let mut body = request.into_body();
    let half = body.size_hint().lower() / 2;
    let mut heard = 0;
    while heard < half
        && let Some(Ok(frame)) = body.frame().await
    {
        heard += frame.data_ref().map_or(0, Bytes::len) as u64;
    }
}

/// Sends one request on a new connection.
async fn ask(store: SocketAddr, request: Request<Bytes>) -> anyhow::Result<Answer> {
    let stream = TokioIo::new(TcpStream::connect(store).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

fn whole(answer: Answer) -> Sent {
    answer.map(|body| Full::new(body).map_err(|never| match never {}).boxed())
}

/// An answer that announces its whole length but breaks off in the middle.
fn halved(answer: Answer) -> Sent {
    answer.map(|body| {
        let half = body.slice(..body.len() / 2);
        StreamBody::new(stream::iter([Ok(Frame::data(half)), Err(HangUp)])).boxed()
    })
}

fn flipped(body: &Bytes, random: &mut Random) -> Bytes {
    let mut bytes = body.to_vec();
    if !bytes.is_empty() {
        let bit = random.below(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes.into()
}
