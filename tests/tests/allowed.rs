//! What a spec may name: `MUSTER_ALLOW`, links on disks, redirects, and addresses that names resolve to.

use muster_tests::http::{Answer, Request, content, serve, serve_tls};
use muster_tests::pool::{Pool, address, folder};
use muster_tests::{Fixture, Process, programs};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

type Variables = Vec<(&'static str, String)>;

fn allow(list: &str) -> Variables {
    vec![("MUSTER_ALLOW", list.to_owned())]
}

/// Runs the fixture with a source in place of its own one; returns the text of the error.
fn refused(fixture: &Fixture, source: &str, environment: &Variables) -> String {
    let spec = fixture.read("spec.yaml").replace("./data.jsonl", source);
    fixture.write("other.yaml", &spec);
    let spec = fixture.path("other.yaml").display().to_string();
    let arguments = ["run", &spec, "--workers", "1", "--json"];
    let ended = Process::start_in(&programs::coordinator(), &arguments, environment).end();
    ended.with_code(2).stderr
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` in:\n{text}");
    }
}

/// A server that redirects everything.
fn redirecting(to: String) -> SocketAddr {
    let to: &'static str = to.leak();
    serve(move |_| moved(to))
}

fn moved(to: &str) -> Answer {
    Answer { status: 302, headers: vec![("Location", to.to_owned())], body: Vec::new() }
}

#[test]
fn a_pool_reads_only_what_its_operator_allows() {
    let (fixture, outside) = (Fixture::tiny(4), tempfile::tempdir().expect("a folder"));
    let own = fixture.path(".").canonicalize().expect("it exists");
    let pool = Pool::start_in(&folder(&fixture), &allow(&own.display().to_string()));
    let secret = outside.path().join("secret.jsonl");
    std::fs::write(&secret, fixture.read("data.jsonl")).expect("the folder can be written");
    symlink(&secret, own.join("link.jsonl")).expect("a new name");
    symlink(outside.path(), own.join("sets")).expect("a new name");
    symlink(own.join("data.jsonl"), own.join("inside.jsonl")).expect("a new name");

    let submit = |field: &str, text: &str| {
        let spec = fixture.read("spec.yaml").replace(field, text);
        fixture.write("other.yaml", &spec);
        let spec = fixture.path("other.yaml").display().to_string();
        pool.ask(&["submit", &spec, "--follow", "--no-check"]).end()
    };
    let outside = outside.path().display().to_string();
    let traversal = format!("./..{outside}/secret.jsonl");
    for source in [&format!("{outside}/secret.jsonl"), "./link.jsonl", "./sets/*.jsonl", &traversal]
    {
        let refused = submit("./data.jsonl", source).with_code(2).stderr;
        assert_says(
            &refused,
            &["data.train[0].source: ", "may not be read\n", "MUSTER_ALLOW allows"],
        );
    }
    // Only listing the folder shows that one of its files is a link.
    let refused = submit("./data.jsonl", "./l*.jsonl").with_code(2).stderr;
    assert_says(&refused, &["secret.jsonl` may not be read"]);
    for source in ["s3://bucket/a.jsonl", "hf://datasets/some/set", "https://example.com/a.jsonl"] {
        let refused = submit("./data.jsonl", source).with_code(2).stderr;
        assert_says(&refused, &[&format!("`{source}` may not be read")]);
    }
    let refused = submit("./base", &outside).with_code(2).stderr;
    assert_says(&refused, &["model.base: ", "may not be read"]);
    submit("./data.jsonl", "./i*.jsonl").with_code(0);
}

#[test]
fn workers_read_only_what_their_own_operator_allows() {
    let fixture = Fixture::tiny(4);
    let coordinator = muster_tests::pool::serve(&folder(&fixture), "127.0.0.1:0", &[], &[]);
    let url = address(&coordinator);
    let workers = ["--coordinator", &url, "--devices", "cpu", "--name", "hand"];
    let _worker = Process::start_in(&programs::worker(), &workers, &allow("/nowhere"));
    let spec = fixture.path("spec.yaml").display().to_string();
    let submit = ["submit", &spec, "--follow", "--coordinator", &url, "--json"];
    let failed = Process::start(&programs::coordinator(), &submit).end();
    assert_says(&failed.stderr, &["may not be read\n", "MUSTER_ALLOW allows `/nowhere`"]);
}

#[test]
fn a_redirect_leads_only_where_specs_may_go() {
    let fixture = Fixture::tiny(4);
    let lines: &'static [u8] = fixture.read("data.jsonl").into_bytes().leak();
    let answer = move |request: &Request| match &request.target[..] {
        "/public/data.jsonl" | "/private/data.jsonl" => content(request, lines),
        _ => Answer { status: 404, ..Default::default() },
    };
    let target = serve(answer);
    let first = redirecting(format!("http://{target}/private/data.jsonl"));
    let url = format!("http://{first}/data.jsonl");
    let own = fixture.path(".").display().to_string();

    let list = format!("{own},http://{first},http://{target}/public");
    let text = refused(&fixture, &url, &allow(&list));
    assert_says(&text, &[&format!("`http://{target}/private/data.jsonl` may not be read")]);
    let (host, port) = (target.ip(), target.port());
    let trick = redirecting(format!("http://{host}:{port}/public/%2e%2e/private/data.jsonl"));
    let list = format!("{list},http://{trick}");
    let text = refused(&fixture, &format!("http://{trick}/data.jsonl"), &allow(&list));
    assert_says(&text, &["/private/data.jsonl` may not be read"]);

    // What is allowed is read.
    fixture.respec("./data.jsonl", &url);
    let list = format!("{own},http://{first}/data.jsonl,http://{target}/private/data.jsonl");
    let arguments =
        ["run", &fixture.path("spec.yaml").display().to_string(), "--workers", "1", "--json"];
    Process::start_in(&programs::coordinator(), &arguments, &allow(&list)).end().with_code(0);
}

#[test]
fn no_spec_reaches_a_metadata_service() {
    let fixture = Fixture::tiny(4);
    let text = refused(&fixture, "https://169.254.169.254/latest/a.jsonl", &Vec::new());
    assert_says(&text, &["`169.254.169.254` is an address of this host's own network link"]);
    let first = redirecting("http://169.254.169.254/latest/a.jsonl".to_owned());
    let text = refused(&fixture, &format!("http://{first}/a.jsonl"), &Vec::new());
    assert_says(&text, &["`169.254.169.254` is an address of this host's own network link"]);

    // An encrypted connection never becomes one that is not.
    let plain: &'static str = format!("http://{}/a.jsonl", redirecting(String::new())).leak();
    let (secure, certificate) = serve_tls(move |_| moved(plain));
    fixture.write("ca.pem", &certificate);
    let trusted = vec![("SSL_CERT_FILE", fixture.path("ca.pem").display().to_string())];
    let url = format!("https://localhost:{}/a.jsonl", secure.port());
    assert_says(&refused(&fixture, &url, &trusted), &["which is not encrypted"]);
}

#[test]
fn a_name_that_resolves_to_a_metadata_service_is_not_asked() {
    let name = "a_name_that_resolves_to_a_metadata_service_is_not_asked";
    let unshare = |script: &str, arguments: &[&str]| {
        let start = ["--mount", "sh", "-ec", script];
        let arguments = [&start[..], arguments].concat();
        Process::start(Path::new("unshare"), &arguments)
    };
    let may = Command::new("unshare").args(["--mount", "true"]).output();
    if !may.is_ok_and(|tried| tried.status.success()) {
        println!("{name}: skipped, this user may not make a namespace for mounts");
        return;
    }
    let fixture = Fixture::tiny(4);
    fixture.write("hosts", "169.254.169.254 data.example.com\n127.0.0.1 localhost\n");
    fixture.respec("./data.jsonl", "https://data.example.com/a.jsonl");
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let program = programs::coordinator().display().to_string();
    let (hosts, spec) =
        ["hosts", "spec.yaml"].map(|name| fixture.path(name).display().to_string()).into();
    let ended = unshare(script, &[&hosts, &program, "run", &spec, "--workers", "1"]).end();
    let text = ended.stderr;
    assert_says(&text, &["`data.example.com` is an address of this host's own network link"]);
}
