//! Reads manifests from files and directories before anything is created.
//! Syntax errors are reported with file and line.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::protocol::Manifest;

/// Extensions of manifest files.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads the arguments of `-f`: files, directories (their manifests in name
/// order) and `-` for standard input. Every document is parsed; all errors are
/// reported, and any error rejects everything.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Manifest>> {
    let (manifests, mistakes) = load_good(paths)?;
    if !mistakes.is_empty() {
        bail!("nothing was applied:\n{}", mistakes.join("\n"));
    }
    Ok(manifests)
}

/// The same without the files with syntax errors, whose errors are returned as
/// well.
pub fn load_good(paths: &[PathBuf]) -> Result<(Vec<Manifest>, Vec<String>)> {
    let (mut good, mut all_mistakes) = (Vec::new(), Vec::new());
    for manifest in read(paths)? {
        let mistakes = mistakes(&manifest.source, &manifest.text);
        if mistakes.is_empty() {
            good.push(manifest);
        }
        all_mistakes.extend(mistakes);
    }
    Ok((good, all_mistakes))
}

fn read(paths: &[PathBuf]) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            manifests.push(standard_input()?);
        } else if path.is_dir() {
            manifests.extend(directory(path)?);
        } else {
            manifests.push(file(path)?);
        }
    }
    Ok(manifests)
}

fn standard_input() -> Result<Manifest> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read manifests from standard input")?;
    Ok(Manifest { source: "standard input".into(), text })
}

fn directory(path: &Path) -> Result<Vec<Manifest>> {
    let entries =
        fs::read_dir(path).with_context(|| format!("cannot read the directory {}", path.display()))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| ENDINGS.iter().any(|known| end == *known)))
        .filter(|path| path.is_file())
        .collect();
    if files.is_empty() {
        bail!("directory {} contains no manifests (files ending in .yaml, .yml or .json)", path.display());
    }
    files.sort();
    files.iter().map(|path| file(path)).collect()
}

fn file(path: &Path) -> Result<Manifest> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read the manifest {}", path.display()))?;
    Ok(Manifest { source: path.display().to_string(), text })
}

/// Syntax errors, one message each.
fn mistakes(source: &str, text: &str) -> Vec<String> {
    documents(text).iter().filter_map(|document| mistake(source, document)).collect()
}

fn mistake(source: &str, document: &str) -> Option<String> {
    let error = match serde_saphyr::from_str::<serde_json::Value>(document) {
        Ok(value) if value.is_object() || value.is_null() => return None,
        Ok(_) => {
            let line = document.lines().take_while(|line| line.trim().is_empty()).count() + 1;
            return Some(format!("{source}, line {line}: not a Kubernetes object: not a YAML mapping"));
        }
        Err(error) => error,
    };
    let location_text =
        error.location().map(|location| format!(", line {}", location.line())).unwrap_or_default();
    Some(format!("{source}{location_text}: invalid YAML: {}", error.without_snippet()))
}

/// The documents of a file, each preceded by as many empty lines as there are
/// before it, so that line numbers of errors are those of the file.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for (number, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            documents.push("\n".repeat(number + 1));
        } else if let Some(last) = documents.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    let says_something = |document: &String| {
        document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    };
    documents.retain(says_something);
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_errors_have_file_and_line() {
        let text = "kind: A\n---\n# two\nkind: B\nspec: [1, 2\n---\nkind: C\n---\njust words\n";
        let found = mistakes("x.yaml", text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("x.yaml, line "), "{found:?}");
        assert!(found[1].starts_with("x.yaml, line 9: not a Kubernetes object"), "{found:?}");
        assert!(mistakes("x.yaml", "a: b\n--- # again\nc: d\n").is_empty());
    }

    #[test]
    fn unit_an_indentation_error_has_its_line() {
        let text = "kind: A\n---\nkind: B\nmetadata:\n  name: b\n labels: {}\n";
        let found = mistakes("x.yaml", text);
        assert!(found.len() == 1 && found[0].starts_with("x.yaml, line 6: invalid YAML"), "{found:?}");
    }

    #[test]
    fn unit_a_directory_yields_only_its_manifests_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("b.yml", "b: 1"), ("a.yaml", "a: 1"), ("README.md", "["), ("c.json", "{}")] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let manifests = load(&[directory.path().to_owned()]).unwrap();
        let texts: Vec<&str> = manifests.iter().map(|manifest| manifest.text.as_str()).collect();
        assert_eq!(texts, ["a: 1", "b: 1", "{}"]);
    }

    #[test]
    fn unit_an_invalid_file_does_not_affect_the_others() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("a.yaml", "a: 1"), ("b.yaml", "b: ["), ("c.yaml", "c: 1")] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let paths = [directory.path().to_owned()];
        let (good, mistakes) = load_good(&paths).unwrap();
        let texts: Vec<&str> = good.iter().map(|manifest| manifest.text.as_str()).collect();
        assert_eq!(texts, ["a: 1", "c: 1"]);
        assert!(mistakes.len() == 1 && mistakes[0].contains("b.yaml, line 1"), "{mistakes:?}");
        assert!(load(&paths).is_err());
    }

    #[test]
    fn unit_missing_paths_are_named() {
        let empty = tempfile::tempdir().unwrap();
        let error = load(&[empty.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains("contains no manifests"), "{error}");
        let missing = empty.path().join("none.yaml");
        let error = load(&[missing]).unwrap_err().to_string();
        assert!(error.contains("none.yaml"), "{error}");
    }
}
