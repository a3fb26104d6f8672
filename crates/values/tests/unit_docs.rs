//! What the documentation and the programs say of values, against the schema.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

use std::fs;
use std::path::{Path, PathBuf};

use beeline_values::Settings;
use beeline_values::schema::{self, Support};

fn files(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            files(&path, endings, found);
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

fn texts(folders: &[&str], endings: &[&str]) -> Vec<(PathBuf, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for folder in folders {
        match top.join(folder) {
            path if path.is_dir() => files(&path, endings, &mut found),
            path => found.push(path),
        }
    }
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// Words of a text that may be a value's name, with what is set, if anything.
fn settings(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "._=:/-".contains(c)));
    words.map(|word| word.trim_matches(['.', ':', '-'])).map(|word| match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    })
}

/// `bpf.masquerade`: below a group of the schema.
fn is_value(name: &str) -> bool {
    let Some((group, rest)) = name.split_once('.') else { return false };
    let is_file = ["md", "rs", "toml", "yaml", "io"].contains(&rest);
    !is_file && schema::group(group).next().is_some()
}

#[test]
fn unit_every_value_that_a_page_names_exists() {
    let mut count = 0;
    for (page, text) in texts(&["docs", "README.md", "CHANGELOG.md", "ARCHITECTURE.md"], &[".md"]) {
        for (name, _) in settings(&text).filter(|(name, _)| is_value(name)) {
            count += 1;
            let exists = schema::find(name).is_some() || schema::group(name).next().is_some();
            assert!(exists, "{}: there is no value {name}", page.display());
        }
    }
    assert!(count > 20, "only {count} values were found");
}

/// A cure that names a value can be followed: the setting is implemented.
#[test]
fn unit_every_value_that_a_cure_names_is_implemented() {
    for (page, text) in texts(&["docs/drop-reasons.md", "docs/troubleshoot.md"], &[".md"]) {
        for (name, value) in settings(&text) {
            let Some(key) = schema::find(name).filter(|_| is_value(name) || value.is_some()) else {
                continue;
            };
            assert_eq!(key.support, Support::Full, "{}: {name} has no effect", page.display());
            if let Some(value) = value {
                let set = Settings::from_set(&[format!("{name}={value}")]).unwrap();
                assert_eq!(set.parse().not_implemented, Vec::<String>::new(), "{}", page.display());
            }
        }
    }
}

/// What is implemented is nowhere said not to be. `hostPort.enabled` and
/// `bpf.masquerade` are spoken of as hostPort and masquerading.
#[test]
fn unit_nothing_that_is_implemented_is_said_not_to_be() {
    let spoken = |name: &str| {
        let name = name.trim_end_matches(".enabled");
        name.rsplit('.').next().unwrap_or_default().trim_end_matches('e').to_lowercase()
    };
    let full = schema::KEYS.iter().filter(|key| key.is_implemented());
    let names: Vec<String> = full.map(|key| spoken(key.name)).filter(|name| name.len() > 4).collect();
    let folders = ["crates", "lab", "charts", "docs", "README.md", "CHANGELOG.md"];
    for (file, text) in texts(&folders, &[".rs", ".md", ".yaml", ".txt", ".json"]) {
        if file.ends_with("crates/values/tests/unit_docs.rs") {
            continue;
        }
        for phrase in [" not built", " not implemented", " not supported"] {
            for (at, _) in text.match_indices(phrase) {
                let before = text[..at].rsplit('\n').next().unwrap_or_default();
                let before = before.trim_end_matches(" is").trim_end_matches(" are");
                let subject = before.rsplit([' ', '"', '`', '(']).next().unwrap_or_default().to_lowercase();
                let said = names.iter().find(|name| subject.starts_with(name.as_str()));
                assert_eq!(said, None, "{}: {}{phrase}", file.display(), before);
            }
        }
    }
}
