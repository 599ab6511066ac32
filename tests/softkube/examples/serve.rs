//! Serves a cluster whose containers run as local processes, for a look with `kubectl`.
//!
//! `cargo run -p softkube --example serve -- /tmp/kubeconfig`, then `KUBECONFIG=/tmp/kubeconfig kubectl get nodes`.

use std::io;

use softkube::{Cluster, ContainerStart, Options, Tls};
use tokio::process::Command;

fn command(start: &ContainerStart) -> Command {
    let words: Vec<&String> = start.command.iter().chain(&start.args).collect();
    let mut command = Command::new(words.first().map_or("true", |word| word.as_str()));
    command.args(words.iter().skip(1)).envs(start.env.clone());
    command
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let path =
        std::env::args().nth(1).ok_or_else(|| io::Error::other("usage: serve KUBECONFIG"))?;
    // kubectl sends tokens over TLS only.
    let certified =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
    let tls = Tls {
        chain: vec![certified.cert.der().to_vec()],
        key: certified.signing_key.serialize_der(),
        authority_pem: certified.cert.pem(),
    };
    let options = Options { tls: Some(tls), ..Options::default() };
    let cluster = Cluster::start_processes(options, command).await?;
    std::fs::write(&path, cluster.kubeconfig())?;
    println!("serving {} with the kubeconfig {path}", cluster.url());
    std::future::pending().await
}
