//! The part of HTTP/1.1 that tests need: one request per connection, and bodies of a known length.

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// A request.
#[derive(Debug)]
pub struct Request {
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// The headers, by lower-case name.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

/// A response.
#[derive(Debug, Default)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names and values of the headers.
    pub headers: Vec<(&'static str, String)>,
    /// The whole body; the answer to a HEAD request has its length only.
    pub body: Vec<u8>,
}

/// Answers every request on a new port for as long as the test's process runs.
pub fn serve(answer: impl Fn(&Request) -> Answer + Send + Sync + Copy + 'static) -> SocketAddr {
    accept(move |stream| converse(stream, answer))
}

/// Does the same as [`serve`] over TLS. Also returns the self-signed certificate.
pub fn serve_tls(
    answer: impl Fn(&Request) -> Answer + Send + Sync + Copy + 'static,
) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions();
    let config = config.expect("ring has the defaults").with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key.into());
    let config = Arc::new(config.expect("a pair"));
    let address = accept(move |stream| {
        let session = ServerConnection::new(config.clone()).expect("a configuration");
        converse(StreamOwned::new(session, stream), answer)
    });
    (address, made.cert.pem())
}

/// Listens on a new port, with one thread per connection.
fn accept(
    converse: impl Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let converse = converse.clone();
            // A client may hang up.
            std::thread::spawn(move || drop(converse(stream)));
        }
    });
    address
}

fn converse(
    mut stream: impl Read + Write,
    answer: impl Fn(&Request) -> Answer,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(&mut stream);
    let mut lines = reader.by_ref().lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let mut request = Request {
        method: words.next().unwrap_or_default(),
        target: words.next().unwrap_or_default(),
        headers: BTreeMap::new(),
        body: Vec::new(),
    };
    for line in &mut lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        request.headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = request.headers.get("content-length").and_then(|length| length.parse().ok());
    request.body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut request.body)?;
    let Answer { status, headers, body } = answer(&request);
    write!(stream, "HTTP/1.1 {status} As It Is\r\nConnection: close\r\n")?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "Content-Length: {}\r\n\r\n", body.len())?;
    if request.method != "HEAD" {
        stream.write_all(&body)?;
    }
    stream.flush()
}

/// Answers with `body`, or with the range of it that the request asks for.
pub fn content(request: &Request, body: &[u8]) -> Answer {
    let range =
        request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, to)) = range else {
        return Answer { status: 200, headers: Vec::new(), body: body.to_vec() };
    };
    let from: usize = from.parse().expect("a range begins");
    let last = to.parse().unwrap_or(usize::MAX).min(body.len() - 1);
    let range = format!("bytes {from}-{last}/{}", body.len());
    Answer {
        status: 206,
        headers: vec![("Content-Range", range)],
        body: body[from..=last].to_vec(),
    }
}

/// Sends a request that prefers JSON and returns the body of the answer. Panics if the answer is not a success.
pub fn ask(server: SocketAddr, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    send(server, method, target, &[("Accept", "application/json")], body)
}

/// Sends an HTTP/1.0 request, so that the answer is not chunked, and returns its body. Panics if it is not a success.
pub fn send(
    server: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).expect("the server listens");
    let length = body.len();
    let mut head =
        format!("{method} {target} HTTP/1.0\r\nHost: {server}\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer has a head") + 4;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let body = answer.split_off(end);
    let text = || String::from_utf8_lossy(&body);
    assert!(
        head.split(' ').nth(1).is_some_and(|status| status.starts_with("20")),
        "{method} {target}: {head}{}",
        text()
    );
    body
}
