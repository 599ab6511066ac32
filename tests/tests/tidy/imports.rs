//! The import graph has no circle.
//!
//! A file imports another if it names something that is defined there; re-exports are followed to the
//! definition. What a file takes from the modules that it lies in does not count: a folder and what is in it
//! are one unit, and a child may use what its parent declares.

use super::{PACKAGES, assert_none, root};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use syn::visit::{self, Visit};
use syn::{ItemMod, ItemUse, UseTree, Visibility};

/// A module's place: its package, and its path in there.
type Place = (String, Vec<String>);

/// One source file of a package's library or program.
struct File {
    name: String,
    names: Names,
}

/// The paths in a file.
#[derive(Default)]
struct Names {
    /// Paths in `use` items without `pub`, and within code.
    used: Vec<Vec<String>>,
    /// Paths in `pub use` items.
    exported: Vec<Vec<String>>,
}

impl<'a> Visit<'a> for Names {
    fn visit_item_use(&mut self, item: &'a ItemUse) {
        let private = matches!(item.vis, Visibility::Inherited);
        let paths = if private { &mut self.used } else { &mut self.exported };
        flatten(&item.tree, &mut Vec::new(), paths);
    }

    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if !super::functions::is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if path.segments.len() > 1 {
            self.used.push(path.segments.iter().map(|s| s.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

fn flatten(tree: &UseTree, before: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    let mut push = |last: Option<String>| {
        paths.push(before.iter().cloned().chain(last.filter(|name| name != "self")).collect());
    };
    match tree {
        UseTree::Name(name) => push(Some(name.ident.to_string())),
        UseTree::Rename(rename) => push(Some(rename.ident.to_string())),
        UseTree::Glob(_) => push(None),
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, paths);
            before.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, before, paths)),
    }
}

/// Every module of the workspace that is not a test.
fn modules() -> BTreeMap<Place, File> {
    let mut found = BTreeMap::new();
    for folder in PACKAGES {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let name = manifest.lines().find_map(|line| line.strip_prefix("name = "));
        let package = name.unwrap().trim_matches('"').replace('-', "_");
        for source in super::sources() {
            let Some(inside) = source.path.strip_prefix(&format!("{folder}/src/")) else {
                continue;
            };
            if source.is_test() || inside.ends_with("main.rs") || inside.ends_with("fixture.rs") {
                continue;
            }
            let mut path: Vec<_> =
                inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
            path.pop_if(|last| ["mod", "lib"].contains(&last.as_str()));
            let ast = syn::parse_file(&source.text).unwrap();
            let mut names = Names::default();
            names.visit_file(&ast);
            found.insert((package.clone(), path), File { name: source.path, names });
        }
    }
    found
}

/// The place that a path in `from` means, if it is in this workspace.
fn absolute(modules: &BTreeMap<Place, File>, from: &Place, path: &[String]) -> Option<Place> {
    let (package, within) = from;
    let mut within = within.clone();
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" => (within, rest) = (Vec::new(), &rest[1..]),
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|first| first == "super") {
                within.pop();
                rest = &rest[1..];
            }
        }
        first if modules.contains_key(&(first.to_owned(), Vec::new())) => {
            return Some((first.to_owned(), rest[1..].to_vec()));
        }
        first => {
            let child: Vec<_> = within.iter().cloned().chain([first.to_owned()]).collect();
            modules.get(&(package.clone(), child))?;
        }
    }
    within.extend_from_slice(rest);
    Some((package.clone(), within))
}

/// The module that defines what a place names.
fn definition(modules: &BTreeMap<Place, File>, (package, path): Place) -> Option<Place> {
    let length = (0..=path.len()).rev();
    let mut prefixes = length.map(|n| (package.clone(), path[..n].to_vec()));
    let module = prefixes.find(|place| modules.contains_key(place))?;
    let rest = &path[module.1.len()..];
    let exported = rest.first().and_then(|name| {
        let exports = &modules[&module].names.exported;
        exports.iter().find(|path| path.last() == Some(name))
    });
    match exported.and_then(|path| absolute(modules, &module, path)) {
        // A module that exports something of its own child, or of a crate that does.
        Some(mut place) if place != (package, path.clone()) => {
            place.1.extend_from_slice(&rest[1..]);
            definition(modules, place)
        }
        _ => Some(module),
    }
}

/// The files that each file imports.
fn imports(modules: &BTreeMap<Place, File>) -> BTreeMap<&Place, BTreeSet<&Place>> {
    let mut graph = BTreeMap::new();
    for (place, file) in modules {
        let used = file.names.used.iter().filter_map(|path| {
            let target = definition(modules, absolute(modules, place, path)?)?;
            let lies_in_it = target.0 == place.0 && place.1.starts_with(&target.1);
            if lies_in_it { None } else { modules.get_key_value(&target).map(|(place, _)| place) }
        });
        graph.insert(place, used.collect::<BTreeSet<_>>());
    }
    graph
}

#[test]
fn the_import_graph_has_no_circle() {
    let modules = modules();
    let graph = imports(&modules);
    let edges: usize = graph.values().map(BTreeSet::len).sum();
    assert!(graph.len() > 250 && edges > 1000, "{} files, {edges} imports", graph.len());
    let mut circles = Vec::new();
    // The software GPU has the state of a whole process, as a driver does, and its parts change each other's.
    let own = graph.iter().filter(|(place, _)| place.0 != "softgpu");
    for (place, imports) in own {
        let back = imports.iter().filter(|import| reached(&graph, import).contains(place));
        let back: Vec<_> = back.map(|import| modules[*import].name.as_str()).collect();
        if !back.is_empty() {
            circles.push(format!("{} imports {}", modules[*place].name, back.join(", ")));
        }
    }
    assert_none(circles, "a file should be understood without those that need it");
}

/// Everything that a file imports, and what that imports in turn.
fn reached<'a>(
    graph: &BTreeMap<&'a Place, BTreeSet<&'a Place>>,
    from: &'a Place,
) -> BTreeSet<&'a Place> {
    let mut found = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(place) = open.pop() {
        open.extend(graph[place].iter().copied().filter(|import| found.insert(import)));
    }
    found
}

#[test]
fn a_path_leads_to_the_file_that_defines_it() {
    let modules = modules();
    let place = |path: &[&str]| {
        ("worker".to_owned(), path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    };
    let from = place(&["run"]);
    let path = ["crate", "replica", "State"].map(str::to_owned);
    let target = definition(&modules, absolute(&modules, &from, &path).unwrap());
    assert_eq!(target, Some(place(&["replica", "state"])));
    assert!(Path::new(&modules[&target.unwrap()].name).ends_with("replica/state.rs"));
}
