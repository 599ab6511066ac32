//! Pages name tests and files that exist.

use super::{assert_none, root, sources};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// A name with at least this many underscores is taken for that of a test.
const UNDERSCORES: usize = 4;
/// The beginning of the names of metrics.
const METRIC: &str = "muster_";

/// The pages for people who change the code.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("ARCHITECTURE.md"), root().join("CONTRIBUTING.md")];
    for folder in ["docs", "docs/adding"] {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        pages.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    assert!(pages.len() >= 10, "{pages:?}");
    pages
}

/// What stands between single backticks on a page.
fn quoted(text: &str) -> Vec<String> {
    let mut fenced = false;
    let prose = text.lines().filter(|line| {
        fenced ^= line.starts_with("```");
        !fenced && !line.starts_with("```")
    });
    let prose = prose.collect::<Vec<_>>().join(" ");
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_test_that_a_page_names_exists() {
    let code: String = sources().into_iter().map(|source| source.text).collect();
    let mut missing = Vec::new();
    let mut found = 0;
    for page in pages() {
        for quote in quoted(&fs::read_to_string(&page).unwrap()) {
            let name = quote.rsplit("::").next().unwrap_or_default();
            let is_name =
                name.chars().all(|c| c.is_ascii_lowercase() || c.is_numeric() || c == '_');
            if !is_name || name.matches('_').count() < UNDERSCORES || name.starts_with(METRIC) {
                continue;
            }
            found += 1;
            if !code.contains(&format!("fn {name}(")) {
                missing.push(format!("{}: {quote}", page.display()));
            }
        }
    }
    assert!(found > 50, "only {found} names");
    assert_none(missing, "a page that names what is gone teaches people not to read it");
}

#[test]
fn the_page_about_metrics_names_exactly_the_metrics() {
    let code = fs::read_to_string(root().join("coordinator/src/web/page.rs")).unwrap();
    let made = |kind: &'static str, suffix: &'static str| {
        let call = format!("out.{kind}(");
        let calls = code.split(&call).skip(1);
        let name = |call: &str| call.split('"').nth(1).expect("a name").to_owned();
        calls.map(|call| format!("{METRIC}{}{suffix}", name(call))).collect::<Vec<_>>()
    };
    let metrics = [made("gauge", ""), made("counter", "_total"), made("histogram", "")].concat();
    let metrics: BTreeSet<String> = metrics.into_iter().collect();
    assert!(metrics.len() > 30, "{metrics:?}");
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let name = |quote: String| quote.split('{').next().unwrap_or_default().to_owned();
    let named: BTreeSet<String> = quoted(&page).into_iter().map(name).collect();
    let named: BTreeSet<String> = named.into_iter().filter(|n| n.starts_with(METRIC)).collect();
    assert_eq!(named, metrics);
}

#[test]
fn every_file_that_a_page_names_exists() {
    let mut missing = Vec::new();
    let mut found = 0;
    for page in pages() {
        for quote in quoted(&fs::read_to_string(&page).unwrap()) {
            let top = quote.split('/').next().unwrap_or_default();
            let in_repository =
                ["proto", "storage", "coordinator", "worker", "tests", "docs", "deploy"];
            let is_path = quote.contains('/') && in_repository.contains(&top);
            if !is_path || quote.contains(['*', '{', '<', ' ', ':']) {
                continue;
            }
            found += 1;
            if !root().join(&quote).exists() {
                missing.push(format!("{}: {quote}", page.display()));
            }
        }
    }
    assert!(found > 50, "only {found} paths");
    assert_none(missing, "a page that names what is gone teaches people not to read it");
}
