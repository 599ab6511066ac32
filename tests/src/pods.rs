//! Pods of the software Kubernetes as containers: with a network, a host name and a file system of their own.
//!
//! As in the image, a container's root holds the programs and the libraries of the system, cannot be written to, and
//! belongs to somebody else than the container's process. Volumes are mounted where the pod says. The cluster's DNS
//! is the only name server.

use crate::namespaces::{NODE, Network};
use crate::programs;
use softkube::ContainerStart;
use std::net::IpAddr;
use std::path::Path;
use tokio::process::Command;

/// Where the scripts find their tools, and where containers find the programs under test.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/programs";
/// Makes the root of a container, mounts its volumes, and goes on as its process, which has the image's user.
const SCRIPT: &str = "set -e
root=$1 name=$2 programs=$3 resolver=$4
shift 4
echo \"$name\" > /proc/sys/kernel/hostname
mount -t tmpfs container \"$root\"
cd \"$root\"
for folder in bin lib lib64 sbin usr; do
    if [ -L \"/$folder\" ]; then
        cp -P \"/$folder\" .
    elif [ -d \"/$folder\" ]; then
        mkdir \"$folder\"
        mount --bind \"/$folder\" \"$folder\"
    fi
done
mkdir dev etc proc programs
# The roots of TLS, wherever the distribution has them.
for folder in ssl pki; do
    if [ -d \"/etc/$folder\" ]; then
        mkdir \"etc/$folder\"
        mount --bind \"/etc/$folder\" \"etc/$folder\"
    fi
done
mount --rbind /dev dev
mount --rbind /proc proc
mount --bind \"$programs\" programs
echo \"$resolver\" > etc/resolv.conf
echo 'hosts: files dns' > etc/nsswitch.conf
while [ \"$1\" != -- ]; do
    mkdir -p \".$3\"
    mount --bind -o \"$1\" \"$2\" \".$3\"
    shift 3
done
shift
mount -o remount,ro \"$root\"
exec chroot --userspec=65532:65532 --groups=65532 \"$root\" \"$@\"";

/// The command of a container. `root` is an empty folder; containers hide it from each other.
pub fn command(network: &Network, root: &Path, start: &ContainerStart) -> Command {
    let IpAddr::V4(address) = start.pod_ip else { panic!("{} is no IPv4 address", start.pod_ip) };
    let programs = programs::coordinator();
    let programs = programs.parent().expect("a program is in a folder").display();
    let domain = format!("{}.svc.cluster.local", start.namespace);
    let resolver = format!("nameserver {NODE}\nsearch {domain} svc.cluster.local\noptions ndots:5");
    let mut words = network.enter(address);
    words.extend(["sh", "-c", SCRIPT, "container"].map(str::to_owned));
    words.extend([root.display().to_string(), start.hostname.clone()]);
    words.extend([programs.to_string(), resolver]);
    for mount in &start.mounts {
        let access = if mount.read_only { "ro" } else { "rw" };
        words.extend([access.to_owned(), mount.host_path.display().to_string()]);
        words.push(mount.mount_path.clone());
    }
    words.push("--".to_owned());
    words.extend(start.command.iter().chain(&start.args).cloned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_clear().envs(start.env.clone()).env("PATH", PATH);
    command
}
