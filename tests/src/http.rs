//! As much of HTTP/1.1 as tests need: one request on a connection, bodies of a known length.

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// What was asked.
#[derive(Debug)]
pub struct Request {
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
}

/// What is answered.
#[derive(Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(&'static str, String)>,
    /// All of it; to a HEAD request only its length is sent.
    pub body: Vec<u8>,
}

/// Answers every request on a port of its own for as long as the test's process lives.
pub fn serve(answer: impl Fn(&Request) -> Answer + Send + Sync + Copy + 'static) -> SocketAddr {
    accept(move |stream| converse(stream, answer))
}

/// As [`serve`], over TLS, and the certificate by which it is known: of its own making.
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

/// Listens on a port of its own; each connection has a thread of its own.
fn accept(
    converse: impl Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let converse = converse.clone();
            // A client that hangs up has made up its mind.
            std::thread::spawn(move || drop(converse(stream)));
        }
    });
    address
}

fn converse(
    mut stream: impl Read + Write,
    answer: impl Fn(&Request) -> Answer,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(&mut stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let mut request = Request {
        method: words.next().unwrap_or_default(),
        target: words.next().unwrap_or_default(),
        headers: BTreeMap::new(),
    };
    for line in &mut lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        request.headers.insert(name.to_lowercase(), value.to_owned());
    }
    drop(lines);
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

/// A body under a range, where the request asks for one.
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

/// The body of an answer that says it went well: JSON where the server can choose.
pub fn ask(port: u16, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    send(port, method, target, &[("Accept", "application/json")], body)
}

/// Sends a request, and gives the body of an answer that says it went well: in one piece, as HTTP/1.0 has it.
pub fn send(
    port: u16,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    let length = body.len();
    let mut head = format!(
        "{method} {target} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\n"
    );
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
    let said = || String::from_utf8_lossy(&body);
    assert!(
        head.split(' ').nth(1).is_some_and(|status| status.starts_with("20")),
        "{method} {target}: {head}{}",
        said()
    );
    body
}
