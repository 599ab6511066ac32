//! What a container process is started with.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::process::Command;

/// A container that is about to start, as the hook of a cluster with processes sees it.
///
/// Texts are resolved: variables come from ConfigMaps, Secrets and fields, and `$(NAME)` is expanded.
#[derive(Clone, Debug)]
pub struct ContainerStart {
    /// The namespace of the pod.
    pub namespace: String,
    /// The name of the pod.
    pub pod: String,
    /// The uid of the pod.
    pub uid: String,
    /// The node that the pod runs on.
    pub node: String,
    /// The name of the container.
    pub container: String,
    /// The image.
    pub image: String,
    /// The entry point; empty for that of the image.
    pub command: Vec<String>,
    /// The arguments.
    pub args: Vec<String>,
    /// The environment, without duplicates.
    pub env: Vec<(String, String)>,
    /// The working directory, if the container sets one.
    pub working_dir: Option<String>,
    /// The host name inside the pod.
    pub hostname: String,
    /// The address of the pod, which is local to this machine unless the cluster has a network of its own.
    pub pod_ip: IpAddr,
    /// The volumes of the container, as folders or files of this machine.
    pub mounts: Vec<Mount>,
    /// Where the process may write its termination message.
    pub termination_log: PathBuf,
    /// How often the container was restarted.
    pub restarts: u32,
    /// Whether this is an init container.
    pub init: bool,
    /// Whether this is the command of an exec probe rather than the container itself.
    pub probe: bool,
}

/// A mounted volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The path inside the container.
    pub mount_path: String,
    /// The folder or file on this machine.
    pub host_path: PathBuf,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// The hook that turns a container into a command.
pub(crate) type Hook = Arc<dyn Fn(&ContainerStart) -> Command + Send + Sync>;
