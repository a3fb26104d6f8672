//! Tests: the product stands apart from its test bed. The packages of the
//! product are the binaries `beeline-agent`, `beeline-cli` and `beeline-cni`
//! and what they depend on; the others are the test bed, and this program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{binaries, paths, process};

/// The packages that are shipped.
const PRODUCT: [&str; 3] = ["beeline-agent", "beeline-cli", "beeline-cni"];

/// The direct dependencies of the test bed that the product must not have. Add
/// here what only the lab needs. What is missing here is in the product, too,
/// in most cases because kube depends on it.
const ONLY_LAB: [&str; 4] = ["async-trait", "hickory-server", "rcgen", "tempfile"];

/// Maximum number of lines of a folder of modules.
const LINES_MAX: usize = 8_000;

/// A package of the workspace.
struct Package {
    /// Its folder, relative to the root of the repository.
    folder: PathBuf,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    ours: bool,
    only_tests: bool,
}

fn cargo(arguments: &[&str]) -> String {
    let output = process::cargo().args(arguments).output().expect("cargo starts");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo's output is UTF-8")
}

/// The packages of the workspace by name, as their manifests describe them.
fn packages() -> BTreeMap<String, Package> {
    let text = cargo(&["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo metadata prints JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let dependency = |value: &Value| Dependency {
        name: text(&value["name"]),
        ours: value["path"].is_string(),
        only_tests: value["kind"] == "dev",
    };
    let package = |value: &Value| {
        let manifest = PathBuf::from(text(&value["manifest_path"]));
        let folder = manifest.parent().and_then(|folder| folder.strip_prefix(paths::top()).ok());
        let folder = folder.expect("packages are in the repository").to_owned();
        let dependencies = list(&value["dependencies"]).iter().map(dependency).collect();
        (text(&value["name"]), Package { folder, dependencies })
    };
    list(&metadata["packages"]).iter().map(package).collect()
}

/// The packages of the product.
fn product(packages: &BTreeMap<String, Package>) -> BTreeSet<&str> {
    let (mut found, mut open) = (BTreeSet::new(), PRODUCT.to_vec());
    while let Some(name) = open.pop() {
        if found.insert(name) {
            let dependencies = packages[name].dependencies.iter();
            open.extend(dependencies.filter(|one| one.ours && !one.only_tests).map(|one| one.name.as_str()));
        }
    }
    found
}

/// The names of the packages that are compiled for a package alone.
fn tree(package: &str) -> BTreeSet<String> {
    let arguments = ["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}"];
    let lines = cargo(&[&arguments[..], &["--edges", "normal", "--package", package]].concat());
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Packages of a build, with version and features.
fn compiled(selection: &[&str], edges: &str) -> BTreeSet<String> {
    let arguments = ["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p} {f}"];
    let lines = cargo(&[&arguments[..], &["--edges", edges], selection].concat());
    lines.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

#[test]
fn unit_no_package_of_the_product_depends_on_the_lab() {
    let packages = packages();
    let product = product(&packages);
    for name in &product {
        let Package { folder, dependencies } = &packages[*name];
        assert!(folder.starts_with("crates"), "{name} is part of the product, but in {}", folder.display());
        for dependency in dependencies.iter().filter(|dependency| dependency.ours) {
            let folder = &packages[&dependency.name].folder;
            assert!(folder.starts_with("crates"), "{name} depends on {} of the lab", dependency.name);
        }
    }
    let in_crates = packages.iter().filter(|(_, package)| package.folder.starts_with("crates"));
    for (name, package) in in_crates {
        let ours = package.dependencies.iter().filter(|one| one.ours);
        let of_lab: Vec<_> = ours.filter(|one| packages[&one.name].folder.starts_with("lab")).collect();
        assert!(of_lab.is_empty(), "{name} depends on {} of the lab", of_lab[0].name);
    }
}

#[test]
fn unit_the_shipped_binaries_contain_no_dependency_of_the_lab() {
    let packages = packages();
    let product = product(&packages);
    let trees = PRODUCT.map(|package| (package, tree(package)));
    for (package, tree) in &trees {
        let found: Vec<_> = ONLY_LAB.iter().filter(|name| tree.contains(**name)).collect();
        assert!(found.is_empty(), "{package} contains {found:?}, which only the lab may have");
        let ours: Vec<_> = packages.keys().filter(|name| tree.contains(*name)).collect();
        assert!(ours.iter().all(|name| product.contains(name.as_str())), "{package} contains {ours:?}");
    }
    // The list is complete.
    let lab = packages.iter().filter(|(name, _)| !product.contains(name.as_str()) && *name != "xtask");
    let direct =
        lab.flat_map(|(_, package)| &package.dependencies).filter(|one| !one.ours && !one.only_tests);
    let only: BTreeSet<&str> = direct
        .map(|one| one.name.as_str())
        .filter(|name| !trees.iter().any(|(_, tree)| tree.contains(*name)))
        .collect();
    assert_eq!(only, BTreeSet::from(ONLY_LAB), "the dependencies of the lab that the product has not");
}

/// A package with other features is compiled again, with all that depends on
/// it. So every build of a chore has to choose the features of the largest one.
#[test]
fn unit_every_chore_compiles_the_same_features() {
    let tests = compiled(&["--workspace"], "normal,build,dev");
    for build in [binaries::WITHOUT_BENCHMARKS, binaries::ALL] {
        let again: Vec<_> = compiled(build, "normal,build").difference(&tests).cloned().collect();
        assert!(again.is_empty(), "{build:?} and the tests compile with different features: {again:#?}");
    }
}

/// The lines of the Rust files of a folder and of those below it.
fn lines(folder: &Path) -> usize {
    let mut sum = 0;
    for entry in fs::read_dir(folder).expect("it is a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sum += lines(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sum += fs::read_to_string(&path).expect("it is readable").lines().count();
        }
    }
    sum
}

/// The `src` folders below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).expect("it is a folder").flatten().map(|entry| entry.path()) {
        match path.is_dir() {
            true if path.ends_with("src") => found.push(path),
            true => sources(&path, found),
            false => {}
        }
    }
}

#[test]
fn unit_the_modules_of_the_lab_stay_small() {
    let mut found = Vec::new();
    sources(&paths::top().join("lab"), &mut found);
    assert!(found.len() >= 5, "{found:?}");
    for folder in found {
        let lines = lines(&folder);
        assert!(lines <= LINES_MAX, "{} has {lines} lines, more than {LINES_MAX}", folder.display());
    }
}
