//! A real S3 server: SeaweedFS, in a single process, with one bucket and one user.

use crate::http::ask;
use crate::server::{Place, Server, free_ports, program};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// The only bucket.
pub const BUCKET: &str = "muster";
/// The domain whose subdomains are the buckets.
pub const DOMAIN: &str = "s3.test";
const ACCESS_KEY: &str = "muster-tests";
const SECRET_KEY: &str = "not-to-be-shown";

/// A running server, which is stopped when this is dropped.
pub struct SeaweedFs {
    server: Server,
    address: SocketAddr,
    filer: SocketAddr,
}

impl SeaweedFs {
    /// Starts a server with `weed` (MUSTER_TEST_WEED). Without that program, prints that the test is skipped and
    /// returns `None`.
    pub fn start(test: &str) -> Option<Self> {
        Self::start_at(test, &Place::here())
    }

    /// The same elsewhere.
    pub fn start_at(test: &str, place: &Place) -> Option<Self> {
        let weed = program(test, "MUSTER_TEST_WEED")?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let user = serde_json::json!({"identities": [{
            "name": "muster",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Read", "Write", "List", "Tagging", "Admin"],
        }, {
            // For unsigned requests, which a proxy may change.
            "name": "anonymous",
            "actions": ["Read", "Write", "List"],
        }]});
        let config = folder.path().join("s3.json");
        std::fs::write(&config, user.to_string()).expect("a temporary folder");
        // Elsewhere, the ports must differ from those of other servers, too: its local sockets are files named by port.
        let mut ports = free_ports::<8>();
        ports[1] = place.port.unwrap_or(ports[1]);
        let [master, port, grpc, filer, ..] = ports;
        let names = [
            "master.port",
            "s3.port",
            "master.port.grpc",
            "filer.port",
            "volume.port",
            "volume.port.grpc",
            "filer.port.grpc",
            "s3.port.grpc",
        ];
        let ip = place.address;
        let mut command = place.command(&weed);
        command
            .args(["server", "-filer", "-s3", &format!("-ip={ip}"), &format!("-ip.bind={ip}")])
            .args([
                "-volume.max=60",
                "-master.volumeSizeLimitMB=1024",
                "-s3.autoCreateBucket=false",
                // Buckets can be addressed by host name, too.
                &format!("-s3.domainName={DOMAIN}"),
            ])
            // Catalogs listen on fixed ports, for which two servers would compete.
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"])
            .arg(format!("-dir={}", folder.path().display()))
            .arg(format!("-s3.config={}", config.display()))
            .args(names.iter().zip(ports).map(|(name, port)| format!("-{name}={port}")));
        let mut server = Server::start("SeaweedFS", &mut command, folder);
        let address = (ip, port).into();
        server.wait_until_listening(address);
        let mut server = Self { server, address, filer: (ip, filer).into() };
        server.make_bucket(&weed, &format!("{ip}:{master}.{grpc}"));
        Some(server)
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The environment in which Muster uses this server.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        Self::environment_at(self.address())
    }

    /// The environment in which Muster uses the server, or a proxy in front of it, at `address`.
    pub fn environment_at(address: SocketAddr) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{address}")),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
            ("AWS_REGION", "us-east-1".into()),
        ]
    }

    /// Writes an object through the filer, which needs no credentials.
    pub fn put(&self, key: &str, body: &[u8]) {
        ask(self.filer, "PUT", &format!("/buckets/{BUCKET}/{key}"), body);
    }

    /// Reads an object through the filer.
    pub fn get(&self, key: &str) -> Vec<u8> {
        ask(self.filer, "GET", &format!("/buckets/{BUCKET}/{key}"), b"")
    }

    /// Copies the objects directly in `folder` to the local folder `to`.
    pub fn download(&self, folder: &str, to: &Path) {
        let listed = self.get(&format!("{folder}/?limit=1000"));
        let listed: serde_json::Value = serde_json::from_slice(&listed).expect("a listing");
        for entry in listed["Entries"].as_array().expect("entries") {
            let path = entry["FullPath"].as_str().expect("an entry has a path");
            let name = path.rsplit('/').next().expect("a path has a name");
            std::fs::write(to.join(name), self.get(&format!("{folder}/{name}")))
                .expect("it can be written");
        }
    }

    /// The user's credentials as a cloud machine's metadata service returns them.
    pub fn credentials() -> String {
        serde_json::json!({
            "AccessKeyId": ACCESS_KEY,
            "SecretAccessKey": SECRET_KEY,
            "Token": "",
            "Expiration": "2100-01-01T00:00:00Z",
        })
        .to_string()
    }

    /// Whether a text contains the secret key, which must never be printed.
    pub fn leaks_secret(text: &str) -> bool {
        text.contains(SECRET_KEY)
    }

    /// Creates the bucket with the server's shell, and retries until the filer is running.
    fn make_bucket(&mut self, weed: &Path, master: &str) {
        let shell = || {
            let mut shell = Command::new(weed)
                .args(["shell", &format!("-master={master}")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the server has started");
            let mut commands = shell.stdin.take().expect("piped");
            // The shell may end before it reads this.
            let _ = writeln!(commands, "s3.bucket.create -name {BUCKET}");
            shell
        };
        let mut tried = None;
        self.server.wait("make a bucket", || {
            let ended = tried.get_or_insert_with(shell).try_wait().expect("it was started");
            let Some(shell) = tried.take_if(|_| ended.is_some()) else { return false };
            let output = shell.wait_with_output().expect("it has ended");
            let exists = |text: &[u8]| String::from_utf8_lossy(text).contains("already exists");
            output.status.success() || exists(&output.stdout) || exists(&output.stderr)
        });
    }
}

/// The server's address in a test that [`run_ignored`](crate::ignored::run_ignored) runs in the server's environment.
pub fn here() -> SocketAddr {
    let url = std::env::var("AWS_ENDPOINT_URL").expect("the server's environment");
    url.strip_prefix("http://").and_then(|a| a.parse().ok()).expect("the server's address")
}
