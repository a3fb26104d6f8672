//! Helm's own library, as the tests use it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The objects of the chart under these values, or what Helm says is wrong; none where Helm is not.
pub fn render(values: &Value) -> Option<Result<Vec<Value>, String>> {
    let library = top().join(".tools/helm");
    if !library.exists() {
        println!("skipped: Helm's library is not here; `make test` installs it with pip");
        return None;
    }
    let mut command = Command::new("python3");
    command.arg(top().join("tools/helm/template.py")).arg(top().join("charts/beeline"));
    let output = command.arg(values.to_string()).env("PYTHONPATH", library).output().expect("python3 starts");
    if !output.status.success() {
        return Some(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let templates: serde_json::Map<String, Value> =
        serde_json::from_slice(&output.stdout).expect("the script prints JSON");
    let manifests = templates.iter().filter(|(name, _)| name.ends_with(".yaml"));
    let texts = manifests.flat_map(|(_, text)| text.as_str().expect("a text").split("\n---\n"));
    Some(Ok(texts.map(|text| serde_saphyr::from_str(text).expect("YAML")).collect()))
}
