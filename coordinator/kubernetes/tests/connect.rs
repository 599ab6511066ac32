//! The environment says which cluster to use, and how to reach it.

#![allow(clippy::unwrap_used)]

mod support;

use kubernetes::Cluster;
use std::process::Command;
use support::cluster;

/// Runs the test below in a process of its own, with variables.
async fn connects(variables: Vec<(&'static str, String)>) -> bool {
    let program = std::env::current_exe().unwrap();
    let child = move || {
        let mut command = Command::new(program);
        command.args(["--ignored", "--exact", "in_the_environment"]);
        for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(name);
        }
        command.envs(variables).output().unwrap().status.success()
    };
    tokio::task::spawn_blocking(child).await.unwrap()
}

#[tokio::test]
#[ignore = "run by the tests below with their environment"]
async fn in_the_environment() {
    let patience =
        kubernetes::Patience { repetition: std::time::Duration::ZERO, ..support::PATIENCE };
    let client = Cluster::connect(None, None).await.unwrap().with_patience(patience);
    assert_eq!(client.namespace(), "default");
    assert!(client.jobs().await.unwrap().is_empty());
    assert!(Cluster::connect(Some("softkube"), Some("ml")).await.unwrap().namespace() == "ml");
    assert!(Cluster::connect(Some("another"), None).await.is_err());
}

#[tokio::test]
async fn the_kubeconfig_and_the_proxy_are_those_of_the_environment() {
    let kube = cluster().await;
    let file = std::env::temp_dir().join(format!("kubeconfig-{}", std::process::id()));
    std::fs::write(&file, kube.kubeconfig()).unwrap();
    let kubeconfig = || ("KUBECONFIG", file.display().to_string());
    let proxy = || ("HTTPS_PROXY", "http://localhost:9".to_owned());
    let none = |hosts: &str| ("NO_PROXY", hosts.to_owned());
    assert!(connects(vec![kubeconfig()]).await);
    assert!(!connects(vec![kubeconfig(), proxy()]).await, "nobody listens there");
    assert!(connects(vec![kubeconfig(), proxy(), none("10.0.0.0/8,127.0.0.1")]).await);
    assert!(!connects(vec![("KUBECONFIG", "/nonexistent".to_owned())]).await);
    std::fs::remove_file(&file).unwrap();
}
