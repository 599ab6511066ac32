//! Tests the fault proxy with a simple server and a client that is not Muster's.

use muster_tests::http::{self, Answer, content};
use muster_tests::proxy::{Fault, Faults, Injected, Moment, Proxy, Stage};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

static WRITES: AtomicU64 = AtomicU64::new(0);

/// Starts a store that counts writes, answers a listing with their count, and a read with a hundred zeros.
fn store() -> SocketAddr {
    http::serve(|request| match request.method.as_str() {
        "PUT" => {
            WRITES.fetch_add(1, Ordering::SeqCst);
            Answer { status: 200, ..Answer::default() }
        }
        _ if request.target.contains("list-type") => {
            content(request, WRITES.load(Ordering::SeqCst).to_string().as_bytes())
        }
        _ => content(request, &[0; 100]),
    })
}

/// Sends a request, and returns head and body of the answer, up to the end of the connection.
fn ask(proxy: &Proxy, method: &str, target: &str, body: &str) -> String {
    answer(asked(proxy, method, target, body))
}

fn asked(proxy: &Proxy, method: &str, target: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address()).expect("it listens");
    let request = format!(
        "{method} {target} HTTP/1.1\r\nhost: muster\r\nif-none-match: *\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // The proxy may hang up before it has read everything.
    let _ = stream.write_all(request.as_bytes());
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn every_fault_is_what_it_says() {
    let proxy = Proxy::start(store());
    let always = |fault| proxy.inject(Faults::none().with(fault, 1.0));
    let writes = || WRITES.load(Ordering::SeqCst);
    let put = || ask(&proxy, "PUT", "/b/k", "hello");
    let get = || ask(&proxy, "GET", "/b/k", "");
    let list = || ask(&proxy, "GET", "/b?list-type=2", "");

    assert!(put().starts_with("HTTP/1.1 200") && writes() == 1);
    let whole = get();
    assert!(whole.starts_with("HTTP/1.1 200") && body(&whole) == "\0".repeat(100), "{whole}");
    assert_eq!(body(&list()), "1");
    assert_eq!(proxy.injected(), []);

    for (fault, status, code) in [
        (Fault::Error, "500", "InternalError"),
        (Fault::SlowDown, "503", "SlowDown"),
        (Fault::Conflict, "409", "ConditionalRequestConflict"),
    ] {
        always(fault);
        let answer = put();
        assert!(answer.contains(status) && answer.contains(code), "{fault:?}: {answer}");
    }
    for fault in [Fault::HangUp, Fault::HangUpInRequest] {
        always(fault);
        assert_eq!(put(), "", "{fault:?}");
    }
    assert_eq!(writes(), 1, "the store received none of these");

    always(Fault::ErrorAfter);
    assert!(put().contains("500") && writes() == 2);
    always(Fault::LostWin);
    assert!(put().contains("412") && writes() == 3);
    let injected = Injected { fault: Fault::LostWin, method: "PUT".into(), target: "/b/k?".into() };
    assert_eq!(proxy.injected(), [injected]);
    always(Fault::FlipRequest);
    assert!(put().contains("200") && writes() == 4);

    always(Fault::HangUpInAnswer);
    assert!(body(&get()).len() < 100);
    always(Fault::CutBody);
    let cut = get();
    let length = body(&cut).len();
    assert!(length < 100 && cut.contains(&format!("content-length: {length}\r\n")), "{cut}");
    always(Fault::FlipAnswer);
    let bits: u32 = body(&get()).bytes().map(u8::count_ones).sum();
    assert_eq!(bits, 1);

    always(Fault::StaleListing);
    let counts: Vec<u64> = (0..20)
        .map(|_| {
            put();
            body(&list()).parse().expect("a count")
        })
        .collect();
    let stale = (5..25).zip(&counts).filter(|(now, listed)| now != *listed).count();
    assert!(stale > 0 && counts.iter().all(|n| (5..25).contains(n)), "{counts:?}");
    assert_eq!(proxy.injected().len(), stale);
}

#[test]
fn a_silent_store_has_executed_the_request_or_not() {
    static HEARD: AtomicU64 = AtomicU64::new(0);
    let store = http::serve(|_| {
        HEARD.fetch_add(1, Ordering::SeqCst);
        Answer { status: 200, ..Answer::default() }
    });
    let proxy = Proxy::start(store);
    for (fault, heard) in [(Fault::Silence, 0), (Fault::SilenceAfter, 1)] {
        proxy.inject(Faults::none().with(fault, 1.0));
        let mut stream = TcpStream::connect(proxy.address()).expect("it listens");
        let limit = std::time::Duration::from_millis(500);
        stream.set_read_timeout(Some(limit)).expect("a socket");
        stream
            .write_all(b"PUT /k HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1")
            .expect("sent");
        let error = stream.read(&mut [0]).expect_err("it says nothing");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
        assert_eq!(HEARD.load(Ordering::SeqCst), heard, "{fault:?}");
    }
}

#[test]
fn a_store_pauses_at_the_chosen_request_until_it_is_resumed() {
    static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let heard = || std::mem::take(&mut *HEARD.lock().expect("held only to look"));
    let proxy = Proxy::start(http::serve(|request| {
        HEARD.lock().expect("held only to look").push(request.target.clone());
        Answer { status: 200, ..Answer::default() }
    }));
    let stage = |moment| Stage { moment, method: "PUT", target: &["/b", "k"], body: "ell" };
    let put = || asked(&proxy, "PUT", "/b/k", "hello");
    let other = || asked(&proxy, "PUT", "/b/other", "hello");
    let is_fine = |stream| answer(stream).starts_with("HTTP/1.1 200");

    for (moment, before) in [(Moment::Before, &[][..]), (Moment::After, &["/b/k"])] {
        let pause = proxy.pause_at(stage(moment));
        assert!(is_fine(asked(&proxy, "PUT", "/b/k", "bye")), "another body");
        assert_eq!(heard(), ["/b/k"]);
        let (first, _) = (put(), assert_eq!(pause.reached(), "/b/k?"));
        let second = other();
        assert_eq!(heard(), before, "{moment:?}");
        pause.resume();
        assert!(is_fine(first) && is_fine(second));
        heard();

        let pause = proxy.pause_at(stage(moment));
        let (first, _) = (put(), pause.reached());
        let second = other();
        pause.resume_without_request();
        assert!(answer(first).is_empty() && is_fine(second));
        assert_eq!(heard(), [before, &["/b/other"]].concat(), "{moment:?}");

        let pause = proxy.pause_at(stage(moment));
        let (first, _) = (put(), pause.reached());
        pause.resume_without_clients();
        assert!(answer(first).is_empty() && is_fine(put()));
        assert_eq!(heard(), [before, &["/b/k"]].concat(), "{moment:?}");
    }

    proxy.hold_back("late", stage(Moment::After));
    let late = asked(&proxy, "PUT", "/b/late", "");
    assert!(is_fine(put()) && is_fine(late));
    assert_eq!(heard(), ["/b/k", "/b/late"]);
}
