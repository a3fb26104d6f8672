//! A `PATH` with the commands of a minimal Debian and of the packages that the
//! bootstrap installs. A test that needs another command fails on every
//! machine, not only on a fresh one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths;

/// dpkg's database.
const DPKG: &str = "/var/lib/dpkg";
/// Folders with commands.
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
/// Packages that are needed before the bootstrap can run.
const PREREQUISITES: [&str; 3] = ["apt", "git", "make"];

/// Fills a folder with symbolic links to those commands and returns their
/// number. None on a machine without dpkg.
pub fn fill(folder: &Path) -> Result<Option<usize>> {
    let Ok(status) = fs::read_to_string(Path::new(DPKG).join("status")) else { return Ok(None) };
    let script = paths::top().join("tools/lib/packages.sh");
    let script = fs::read_to_string(&script).with_context(|| format!("cannot read {}", script.display()))?;
    let packages = Packages::parse(&status).closure(&declared(&script));
    let commands = commands(&files_of(&packages));
    for (name, path) in &commands {
        symlink(path, folder.join(name)).with_context(|| format!("cannot create a link to {name:?}"))?;
    }
    Ok(Some(commands.len()))
}

/// The packages that the bootstrap may install: those of `want_command COMMAND
/// PACKAGE...`, and those that it appends to one of its lists.
fn declared(script: &str) -> BTreeSet<String> {
    let mut packages: BTreeSet<String> = PREREQUISITES.map(str::to_owned).into();
    for line in script.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("want_command ") {
            packages.extend(words.split(' ').skip(1).map(str::to_owned));
        }
        let lists = ["missing_packages+=(", "missing_rust+=("].map(|list| line.split(list).skip(1));
        for list in lists.into_iter().flatten() {
            let words = list.split(')').next().unwrap_or_default().split(' ');
            packages.extend(words.filter(|word| is_name(word)).map(str::to_owned));
        }
    }
    packages
}

fn is_name(word: &str) -> bool {
    !word.is_empty()
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
}

/// The installed packages.
#[derive(Default)]
struct Packages {
    /// Essential and required ones.
    basic: BTreeSet<String>,
    depends: BTreeMap<String, Vec<String>>,
    /// Installed packages that provide a virtual one.
    providers: BTreeMap<String, Vec<String>>,
}

impl Packages {
    /// Parses dpkg's status file.
    fn parse(status: &str) -> Packages {
        let mut packages = Packages::default();
        for paragraph in status.split("\n\n") {
            let field = |name: &str| {
                let line = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                line.unwrap_or_default()
            };
            let name = field("Package");
            if name.is_empty() || !field("Status").ends_with(" installed") {
                continue;
            }
            if field("Essential") == "yes" || field("Priority") == "required" {
                packages.basic.insert(name.to_owned());
            }
            let depends = names(field("Depends")).chain(names(field("Pre-Depends"))).collect();
            packages.depends.insert(name.to_owned(), depends);
            for provided in names(field("Provides")) {
                packages.providers.entry(provided).or_default().push(name.to_owned());
            }
        }
        packages
    }

    /// The basic packages and `wanted`, with their dependencies.
    fn closure(&self, wanted: &BTreeSet<String>) -> BTreeSet<String> {
        let mut open: Vec<&String> = self.basic.iter().chain(wanted).collect();
        let mut found = BTreeSet::new();
        while let Some(name) = open.pop() {
            if let Some(depends) = self.depends.get(name)
                && found.insert(name.clone())
            {
                open.extend(depends);
            } else if !found.contains(name) {
                let real = self.providers.get(name).into_iter().flatten();
                open.extend(real.filter(|name| !found.contains(*name)));
            }
        }
        found
    }
}

/// The names in `a (>= 1) | b, c:any`: a, b and c. Alternatives that are not installed do no harm.
fn names(field: &str) -> impl Iterator<Item = String> + '_ {
    let words = field.split([',', '|']).filter_map(|part| part.split_whitespace().next());
    words.map(|word| word.split(':').next().unwrap_or_default().to_owned())
}

/// Canonical paths of their files in the folders with commands.
fn files_of(packages: &BTreeSet<String>) -> BTreeSet<PathBuf> {
    let lists = fs::read_dir(Path::new(DPKG).join("info")).into_iter().flatten().flatten();
    let mut files = BTreeSet::new();
    for list in lists.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "list")) {
        let stem = list.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if packages.contains(stem.split(':').next().unwrap_or_default()) {
            let text = fs::read_to_string(&list).unwrap_or_default();
            let in_folder = |line: &&str| {
                FOLDERS.iter().any(|folder| Path::new(line).parent() == Some(Path::new(folder)))
            };
            files.extend(text.lines().filter(in_folder).filter_map(|line| fs::canonicalize(line).ok()));
        }
    }
    files
}

/// Commands that are one of these files or a symbolic link to one, such as
/// Debian's alternatives.
fn commands(files: &BTreeSet<PathBuf>) -> BTreeMap<std::ffi::OsString, PathBuf> {
    let mut commands = BTreeMap::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if fs::canonicalize(entry.path()).is_ok_and(|path| files.contains(&path)) {
                commands.entry(entry.file_name()).or_insert_with(|| entry.path());
            }
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn unit_the_packages_of_the_bootstrap_are_found() {
        let script = "    want_command cc gcc libc6-dev\n  missing_packages+=(python3-pip)\nmissing_rust+=(llvm-$llvm-dev)\n\
                      choose || missing_rust+=(cargo-web rustc-web)\nmissing_packages+=(\"${missing_rust[@]}\")";
        let expected = ["apt", "cargo-web", "gcc", "git", "libc6-dev", "make", "python3-pip", "rustc-web"];
        assert_eq!(declared(script), set(&expected));
        let real = fs::read_to_string(paths::top().join("tools/lib/packages.sh")).unwrap();
        assert!(declared(&real).is_superset(&set(&["iproute2", "tcpdump", "gcc"])), "{:?}", declared(&real));
        // A want_command after a condition on the same line is not found; only those of the benchmarks may be.
        let mut lines = real.lines().map(str::trim);
        let hidden = lines.find(|line| line.contains(" want_command ") && !line.contains("!= bench"));
        assert_eq!(hidden, None, "put it on a line of its own");
    }

    #[test]
    fn unit_a_package_comes_with_its_dependencies() {
        let installed = "Status: install ok installed\n";
        let status = format!(
            "Package: base\nEssential: yes\n{installed}Pre-Depends: libc\n\n\
             Package: libc\n{installed}\n\
             Package: mawk\n{installed}Provides: awk\n\n\
             Package: tool\n{installed}Depends: awk (>= 1), helper:any | other\n\n\
             Package: helper\n{installed}Depends: tool\n\n\
             Package: removed\nStatus: deinstall ok config-files\n\n\
             Package: luxury\n{installed}"
        );
        let packages = Packages::parse(&status);
        let found = packages.closure(&set(&["tool", "removed", "unknown"]));
        assert_eq!(found, set(&["base", "helper", "libc", "mawk", "tool"]));
    }
}
