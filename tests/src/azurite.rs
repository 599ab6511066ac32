//! A real server of Azure's blob storage: Azurite, in memory, with one container.

use crate::http::send;
use crate::server::{Server, free_ports, program};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use std::process::Command;

/// The only container.
pub const CONTAINER: &str = "muster";
/// The account of every Azurite server, according to its documentation.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const VERSION: &str = "2021-08-06";

/// A running server, which is stopped when this is dropped.
pub struct Azurite {
    _server: Server,
    port: u16,
}

impl Azurite {
    /// Starts a server with `azurite-blob` (MUSTER_TEST_AZURITE). Without that program, prints that the test is
    /// skipped and returns `None`.
    pub fn start(test: &str) -> Option<Self> {
        let azurite = program(test, "MUSTER_TEST_AZURITE")?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [port] = free_ports();
        let mut command = Command::new(azurite);
        command
            .args(["--inMemoryPersistence", "--disableTelemetry", "--blobHost", "127.0.0.1"])
            .args(["--blobPort", &port.to_string()])
            .current_dir(folder.path());
        let mut server = Server::start("Azurite", &mut command, folder);
        server.wait_until_listening(([127, 0, 0, 1], port).into());
        make_container(port);
        Some(Self { _server: server, port })
    }

    /// The environment in which Muster finds it.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("AZURE_ENDPOINT", format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)),
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.into()),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY.into()),
        ]
    }
}

/// Sends "Create Container", signed according to "Authorize with Shared Key", since object_store cannot create one.
fn make_container(port: u16) {
    let date = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let signed = format!(
        "PUT{}x-ms-date:{date}\nx-ms-version:{VERSION}\n/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container",
        "\n".repeat(12)
    );
    let key = BASE64_STANDARD.decode(KEY).expect("as documented");
    let mut mac =
        Hmac::<sha2::Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
    mac.update(signed.as_bytes());
    let signature = BASE64_STANDARD.encode(mac.finalize().into_bytes());
    let authorization = format!("SharedKey {ACCOUNT}:{signature}");
    let headers =
        [("x-ms-date", &date[..]), ("x-ms-version", VERSION), ("Authorization", &authorization)];
    let server = ([127, 0, 0, 1], port).into();
    send(server, "PUT", &format!("/{ACCOUNT}/{CONTAINER}?restype=container"), &headers, b"");
}
