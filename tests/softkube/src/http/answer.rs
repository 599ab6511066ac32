//! Answers: a status with a JSON body, a stream, or a broken connection.

use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use serde_json::Value;

use crate::error::ApiError;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The connection is closed without an answer.
#[derive(Debug)]
pub(crate) struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is closed on purpose")
    }
}

impl std::error::Error for Closed {}

/// A JSON answer with its warnings.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) body: Value,
    pub(super) warnings: Vec<String>,
}

impl Answer {
    pub(super) fn new(code: u16, body: Value) -> Self {
        Self { code, body, warnings: Vec::new() }
    }

    pub(super) fn error(error: &ApiError) -> Self {
        Self::new(error.code, error.status())
    }

    /// The HTTP response; a truncated one breaks off half way.
    pub(super) fn respond(self, truncated: bool) -> Response<Body> {
        let text = Bytes::from(self.body.to_string());
        let retry_after = self.body.pointer("/details/retryAfterSeconds").and_then(Value::as_u64);
        let body = if truncated {
            let half = text.slice(..text.len() / 2);
            let broken =
                || Err(io::Error::new(io::ErrorKind::ConnectionReset, "truncated on purpose"));
            streamed(stream::iter([Ok(half)]).chain(stream::once(async move {
                // The first half has to leave before the connection breaks.
                tokio::task::yield_now().await;
                broken()
            })))
        } else {
            Full::new(text).map_err(|never| match never {}).boxed_unsync()
        };
        let mut response = Response::new(body);
        *response.status_mut() = hyper::StatusCode::from_u16(self.code).unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for warning in &self.warnings {
            let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                headers.append(WARNING, value);
            }
        }
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The body of a stream of chunks.
pub(super) fn streamed(
    chunks: impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
) -> Body {
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// A plain text response.
pub(super) fn text(text: impl Into<Bytes>) -> Response<Body> {
    let mut response =
        Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// A streamed response.
pub(super) fn stream_response(body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
