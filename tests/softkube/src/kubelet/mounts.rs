//! The volumes of a pod on disk, and what a container of it starts with.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::json::Json;
use crate::kubelet::agent::Host;
use crate::kubelet::env::{self, Environment, Unresolved};
use crate::kubelet::start::{ContainerStart, Mount};
use crate::kubelet::status;
use crate::kubelet::volumes::{self, Disk, Sources};
use crate::registry::Registry;

/// Brings the volumes of a pod up to date.
///
/// # Errors
/// A source does not exist, or the disk refuses; worded as the event `FailedMount`.
pub(crate) fn sync(host: &mut Host<'_>, pod: &Value, disk: &mut Disk) -> Result<(), Unresolved> {
    for volume in pod.list("spec.volumes") {
        let name = volume.str("name");
        let folder = folder(disk, volume);
        let failed =
            |problem: String| format!("MountVolume.SetUp failed for volume \"{name}\" : {problem}");
        let mut sources = Sources { registry: host.registry, auth: host.auth, pod };
        match sources.files(volume, &mut disk.tokens).map_err(failed)? {
            Some(files) if disk.written.get(name) != Some(&files) => {
                disk.versions += 1;
                let group = pod.int("spec.securityContext.fsGroup");
                let group = group.and_then(|group| u32::try_from(group).ok());
                volumes::write(&folder, &files, (disk.versions, group))
                    .map_err(|error| failed(error.to_string()))?;
                disk.written.insert(name.to_owned(), files);
            }
            None if !folder.exists() => {
                volumes::make_empty(&folder).map_err(|error| failed(error.to_string()))?;
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn folder(disk: &Disk, volume: &Value) -> PathBuf {
    match volume.text("hostPath.path") {
        Some(path) => PathBuf::from(path),
        None => disk.folder.join("volumes").join(volume.str("name")),
    }
}

/// What a container starts with.
///
/// # Errors
/// A variable refers to something that does not exist; worded as `CreateContainerConfigError`.
pub(crate) fn container_start(
    registry: &Registry,
    pod: &Value,
    name: &str,
    disk: &Disk,
    server: SocketAddr,
) -> Result<ContainerStart, Unresolved> {
    let init = pod.list("spec.initContainers").iter().any(|one| one.str("name") == name);
    let list = if init { "spec.initContainers" } else { "spec.containers" };
    let container =
        pod.list(list).iter().find(|one| one.str("name") == name).unwrap_or(&Value::Null);
    let env = env::resolve(registry, pod, container, server)?;
    let home = disk.folder.join("containers").join(name);
    fs::create_dir_all(&home).map_err(|error| error.to_string())?;
    let termination_log = home.join("termination-log");
    // A message of an earlier run must not be taken for one of this disk.
    fs::write(&termination_log, "").map_err(|error| error.to_string())?;
    let texts = |field: &str| -> Vec<String> {
        container
            .list(field)
            .iter()
            .filter_map(Value::as_str)
            .map(|text| env.expand(text))
            .collect()
    };
    let restarts =
        status::container(pod, name).and_then(|status| status.int("restartCount")).unwrap_or(0);
    let hostname = pod.text("spec.hostname").unwrap_or(pod.str("metadata.name"));
    Ok(ContainerStart {
        namespace: pod.str("metadata.namespace").to_owned(),
        pod: pod.str("metadata.name").to_owned(),
        uid: pod.str("metadata.uid").to_owned(),
        node: pod.str("spec.nodeName").to_owned(),
        container: name.to_owned(),
        image: container.str("image").to_owned(),
        command: texts("command"),
        args: texts("args"),
        env: with_hostname(&env, hostname),
        working_dir: container.text("workingDir").map(str::to_owned),
        hostname: hostname.to_owned(),
        pod_ip: pod.str("status.podIP").parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        mounts: mounts(pod, container, disk, (&env, &home))?,
        termination_log,
        restarts: u32::try_from(restarts).unwrap_or(0),
        init,
        probe: false,
    })
}

fn with_hostname(env: &Environment, hostname: &str) -> Vec<(String, String)> {
    let mut pairs = env.pairs();
    if !pairs.iter().any(|(name, _)| name == "HOSTNAME") {
        pairs.push(("HOSTNAME".to_owned(), hostname.to_owned()));
    }
    pairs
}

fn mounts(
    pod: &Value,
    container: &Value,
    disk: &Disk,
    (env, home): (&Environment, &Path),
) -> Result<Vec<Mount>, Unresolved> {
    let mut mounts = Vec::new();
    for (number, mount) in container.list("volumeMounts").iter().enumerate() {
        let volume = pod.list("spec.volumes").iter().find(|one| one.at("name") == mount.at("name"));
        let volume = volume.unwrap_or(&Value::Null);
        let mut host_path = folder(disk, volume);
        let sub_path = match mount.text("subPathExpr") {
            Some(expression) => env.expand(expression),
            None => mount.str("subPath").to_owned(),
        };
        if !sub_path.is_empty() {
            let source = host_path.join(&sub_path);
            let fixed = disk.written.contains_key(volume.str("name"));
            host_path = if fixed {
                copy(&source, &home.join(format!("subpath-{number}")))?
            } else {
                source
            };
            if !fixed && !host_path.exists() {
                fs::create_dir_all(&host_path).map_err(|error| error.to_string())?;
            }
        }
        let read_only = mount.flag("readOnly");
        mounts.push(Mount { mount_path: mount.str("mountPath").to_owned(), host_path, read_only });
    }
    Ok(mounts)
}

/// Copies a file of a volume: a mounted `subPath` does not follow later updates.
fn copy(source: &Path, target: &Path) -> Result<PathBuf, Unresolved> {
    fs::copy(source, target)
        .map_err(|error| format!("failed to prepare subPath for volumeMount: {error}"))?;
    Ok(target.to_owned())
}
