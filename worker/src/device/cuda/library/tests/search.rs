//! Places and their order, on made-up folders.

use crate::device::cuda::library::search::{Environment, Host, driver_places, places};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Files that exist, links between paths, and names that the dynamic loader finds.
#[derive(Default)]
struct Tree {
    files: Vec<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    known: Vec<String>,
}

impl Host for Tree {
    fn names(&self, folder: &Path) -> Vec<OsString> {
        let inside = self.files.iter().filter_map(|file| file.strip_prefix(folder).ok());
        let names: BTreeSet<_> = inside.filter_map(|rest| rest.iter().next()).collect();
        names.into_iter().map(OsString::from).collect()
    }

    fn real(&self, path: &Path) -> PathBuf {
        let link = self.links.iter().find(|(from, _)| from == path);
        link.map_or_else(|| path.to_owned(), |(_, to)| to.clone())
    }

    fn loader_finds(&self, name: &str) -> bool {
        self.known.iter().any(|known| known == name)
    }
}

fn environment(variables: &[(&str, &str)], tree: Tree) -> Environment {
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.into()));
    Environment { variables: variables.collect(), host: Box::new(tree) }
}

fn tree(files: &[&str]) -> Tree {
    Tree { files: files.iter().map(PathBuf::from).collect(), ..Tree::default() }
}

/// The files called `name`, as `origin: file`, in the order of the places.
fn found(name: &str, variables: &[(&str, &str)], tree: Tree) -> Vec<String> {
    let environment = environment(variables, tree);
    let mut lines = Vec::new();
    for place in places(&environment) {
        if let Some(file) = place.find(name, &*environment.host) {
            lines.push(format!("{}: {}", place.origin, file.display()));
        }
    }
    lines
}

#[test]
fn named_folders_are_searched_alone_and_as_one_place() {
    let tree = || Tree {
        known: vec!["libnvrtc.so.13".to_owned()],
        ..tree(&["/a/libnvrtc.so.13", "/b/libcublas.so.13", "/usr/local/cuda/lib64/libnvrtc.so.13"])
    };
    let variables = [("MUSTER_CUDA_LIBRARIES", "/a::/b")];
    assert_eq!(
        found("libnvrtc.so.13", &variables, tree()),
        ["MUSTER_CUDA_LIBRARIES=/a:/b: /a/libnvrtc.so.13"]
    );
    assert_eq!(
        found("libcublas.so.13", &variables, tree()),
        ["MUSTER_CUDA_LIBRARIES=/a:/b: /b/libcublas.so.13"]
    );
}

#[test]
fn an_empty_variable_is_unset() {
    let tree = tree(&["/opt/cuda/lib64/libnvrtc.so.13", "/lib64/libnvrtc.so.13"]);
    let variables = [("MUSTER_CUDA_LIBRARIES", ""), ("CUDA_HOME", "")];
    assert_eq!(
        found("libnvrtc.so.13", &variables, tree),
        ["/opt/cuda: /opt/cuda/lib64/libnvrtc.so.13"]
    );
}

#[test]
fn the_loader_comes_before_toolkits_and_toolkits_before_wheels() {
    let tree = Tree {
        known: vec!["libnvrtc.so.12".to_owned()],
        ..tree(&[
            "/venv/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
            "/usr/lib/x86_64-linux-gnu/libnvrtc.so.12",
            "/usr/local/cuda/lib64/libnvrtc.so.12",
            "/home/toolkit/lib64/libnvrtc.so.12",
        ])
    };
    let site = "/venv/lib/python3.12/site-packages";
    assert_eq!(
        found("libnvrtc.so.12", &[("CUDA_HOME", "/home/toolkit"), ("VIRTUAL_ENV", "/venv")], tree),
        [
            "the dynamic loader: libnvrtc.so.12".to_owned(),
            "/home/toolkit: /home/toolkit/lib64/libnvrtc.so.12".to_owned(),
            "/usr/local/cuda: /usr/local/cuda/lib64/libnvrtc.so.12".to_owned(),
            "/usr/lib/x86_64-linux-gnu: /usr/lib/x86_64-linux-gnu/libnvrtc.so.12".to_owned(),
            format!("{site}: {site}/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"),
        ]
    );
}

#[test]
fn newer_toolkits_come_first() {
    let tree = tree(&[
        "/usr/local/cuda-12.9/lib64/libnvrtc.so.12",
        "/usr/local/cuda-12.10/targets/sbsa-linux/lib/libnvrtc.so.12",
        "/usr/local/cuda-13.0/lib64/libnvrtc.so.13",
        "/usr/local/cudnn/lib64/libnvrtc.so.12",
    ]);
    assert_eq!(
        found("libnvrtc.so.12", &[], tree),
        [
            "/usr/local/cuda-12.10: \
             /usr/local/cuda-12.10/targets/sbsa-linux/lib/libnvrtc.so.12",
            "/usr/local/cuda-12.9: /usr/local/cuda-12.9/lib64/libnvrtc.so.12",
        ]
    );
}

#[test]
fn every_place_is_searched() {
    let variables = [
        ("CUDA_HOME", "/toolkit"),
        ("CUDA_PATH", "/other"),
        ("VIRTUAL_ENV", "/venv"),
        ("CONDA_PREFIX", "/conda"),
        ("HOME", "/home/u"),
    ];
    let folders = [
        "/toolkit/lib64",
        "/other/targets/x86_64-linux/lib",
        "/usr/local/cuda/lib",
        "/usr/local/cuda-13.1/targets/sbsa-linux/lib",
        "/opt/cuda/lib64",
        "/conda/lib",
        "/opt/conda/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/local/nvidia/lib64",
        "/usr/lib64-nvidia",
        "/run/opengl-driver/lib",
        "/venv/lib/python3.13/site-packages/nvidia/cu13/lib",
        "/conda/lib/python3.12/site-packages/nvidia/cublas/lib",
        "/usr/lib/python3/dist-packages/nvidia/cuda_nvrtc/lib",
        "/usr/local/lib/python3.10/dist-packages/nvidia/nccl/lib",
        "/usr/local/lib/python3.12/site-packages/nvidia/cu13/lib",
        "/usr/local/lib64/python3.12/site-packages/nvidia/cu13/lib",
        "/opt/venv/lib/python3.12/site-packages/nvidia/cu13/lib",
        "/home/u/.local/lib/python3.9/site-packages/nvidia/cu13/lib",
    ];
    for folder in folders {
        let file = format!("{folder}/libx.so.1");
        let found = found("libx.so.1", &variables, tree(&[&file]));
        assert!(found.iter().any(|line| line.ends_with(&format!(": {file}"))), "{file}: {found:?}");
    }
}

#[test]
fn both_layouts_of_wheels_in_one_environment_are_one_place() {
    let site = "/venv/lib/python3.12/site-packages";
    let files = [
        format!("{site}/nvidia/cu13/lib/libnvrtc.so.13"),
        format!("{site}/nvidia/cu13/lib/libcublas.so.13"),
        format!("{site}/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"),
        format!("{site}/nvidia/cublas/lib/libcublas.so.12"),
        format!("{site}/nvidia/nccl/lib/libnccl.so.2"),
    ];
    for file in &files {
        let (_, name) = file.rsplit_once('/').unwrap();
        let tree = tree(&files.each_ref().map(String::as_str));
        let found = found(name, &[("VIRTUAL_ENV", "/venv")], tree);
        assert_eq!(found, [format!("{site}: {file}")]);
    }
}

#[test]
fn the_python_on_the_path_leads_to_its_packages_through_links() {
    let packages = "lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13";
    let tree = Tree {
        links: vec![("/home/u/bin/python3".into(), "/base/bin/python3.12".into())],
        ..tree(&[
            "/home/u/bin/python3",
            "/usr/bin/python3",
            &format!("/home/u/{packages}"),
            &format!("/base/{packages}"),
        ])
    };
    let site = "lib/python3.12/site-packages";
    assert_eq!(
        found("libnvrtc.so.13", &[("PATH", "/sbin:/home/u/bin:/usr/bin")], tree),
        [format!("/home/u/{site}: /home/u/{packages}"), format!("/base/{site}: /base/{packages}"),]
    );
}

#[test]
fn the_driver_is_searched_beyond_the_named_folders_and_never_among_stubs() {
    let tree = Tree {
        known: vec!["libcuda.so.1".to_owned()],
        ..tree(&[
            "/soft/libcuda.so.1",
            "/usr/lib/wsl/lib/libcuda.so.1",
            "/run/opengl-driver/lib/libcuda.so.1",
            "/usr/local/cuda/lib64/stubs/libcuda.so.1",
            "/usr/local/cuda/lib64/libcuda.so.1",
        ])
    };
    let environment = environment(&[("MUSTER_CUDA_LIBRARIES", "/soft")], tree);
    let found: Vec<_> = driver_places(&environment)
        .iter()
        .filter_map(|place| place.find("libcuda.so.1", &*environment.host))
        .collect();
    assert_eq!(
        found,
        [
            "/soft/libcuda.so.1",
            "libcuda.so.1",
            "/run/opengl-driver/lib/libcuda.so.1",
            "/usr/lib/wsl/lib/libcuda.so.1",
        ]
        .map(PathBuf::from)
    );
}

#[test]
fn an_empty_environment_has_only_fixed_places() {
    let environment = Environment { variables: BTreeMap::new(), host: Box::new(Tree::default()) };
    let origins: Vec<_> = places(&environment).iter().map(|p| p.origin.to_string()).collect();
    assert_eq!(origins[..2], ["the dynamic loader", "/usr/local/cuda"]);
    assert!(origins.iter().all(|origin| !origin.contains('$') && !origin.contains('*')));
}
