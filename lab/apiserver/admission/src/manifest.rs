//! Applies manifests of one or several documents and reports the result of each.

use std::fmt;
use std::sync::Arc;

use beeline_apiserver_objects::{ApiError, ObjectKey, PatchKind, object};
use beeline_apiserver_schema::Kind;
use serde_json::{Value, json};

use super::api::Api;
use super::options::{Subresource, WriteOptions};

/// Field manager of manifests that the lab applies.
const MANAGER: &str = "beeline-lab-apply";

/// Result of a manifest. Documents are independent: an invalid one does not stop the others.
#[derive(Clone, Debug, Default)]
pub struct ApplyReport {
    /// Applied objects, in order.
    pub applied: Vec<Applied>,
    /// Documents that were not applied.
    pub problems: Vec<ApplyProblem>,
}

/// One applied object.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Its kind.
    pub kind: Arc<Kind>,
    /// Its namespace and name.
    pub key: ObjectKey,
    /// Its resource version after the apply.
    pub resource_version: u64,
    /// `created`, `configured` or `unchanged`.
    pub action: &'static str,
    /// The object after the apply.
    pub object: Arc<Value>,
}

/// One document that was not applied.
#[derive(Clone, Debug)]
pub struct ApplyProblem {
    /// Name of the manifest, such as its file.
    pub source: String,
    /// Index of the document, from 1.
    pub document: usize,
    /// Kind and name, if they could be read.
    pub object: String,
    /// The reason.
    pub message: String,
}

impl fmt::Display for Applied {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{} {}", self.kind.resource(), self.key.name, self.action)
    }
}

impl fmt::Display for ApplyProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, document, object, message } = self;
        if object.is_empty() {
            return write!(out, "{source}, document {document}: {message}");
        }
        write!(out, "{source}, document {document} ({object}): {message}")
    }
}

impl Api {
    /// Applies every document of a manifest; `source` names it in messages (a file, for example).
    /// Each object is created or merged like `kubectl apply --server-side --force-conflicts`: fields
    /// of an earlier apply that are missing now are removed. `kind: List` is expanded.
    pub fn apply(&self, source: &str, manifest: &str) -> ApplyReport {
        let mut report = ApplyReport::default();
        for (index, document) in split_documents(manifest).into_iter().enumerate() {
            let problem = |object: String, message: String| ApplyProblem {
                source: source.to_owned(),
                document: index + 1,
                object,
                message,
            };
            match parse(&document) {
                Ok(Value::Null) => {}
                Ok(value) => {
                    for object in expand_lists(value) {
                        match self.apply_object(&object) {
                            Ok(applied) => report.applied.push(applied),
                            Err(error) => report.problems.push(problem(describe(&object), error.message)),
                        }
                    }
                }
                Err(message) => report.problems.push(problem(String::new(), message)),
            }
        }
        report
    }

    fn apply_object(&self, object: &Value) -> Result<Applied, ApiError> {
        let (api_version, kind_name) =
            (object::str_at(object, "/apiVersion"), object::str_at(object, "/kind"));
        if api_version.is_empty() || kind_name.is_empty() {
            return Err(ApiError::bad_request("apiVersion and kind are required"));
        }
        let kind = self.kinds().by_type(api_version, kind_name).cloned().ok_or_else(|| {
            let message = format!(
                "no matches for kind {kind_name:?} in version {api_version:?}: the lab does not serve it"
            );
            ApiError::new(404, "NotFound", message)
        })?;
        if object::name(object).is_empty() {
            return self.create_generated(&kind, object);
        }
        let namespace = match object::namespace(object) {
            _ if !kind.namespaced => "",
            "" => "default",
            namespace => namespace,
        };
        let key = ObjectKey::new(namespace, object::name(object));
        let before = self.get_of(&kind, &key).ok();
        let language = PatchKind::Apply { manager: MANAGER.to_owned(), force: true };
        let options = WriteOptions::default();
        let (object, created) = self.patch_of(&kind, Subresource::None, &key, &language, object, &options)?;
        let resource_version = object::resource_version(&object);
        let unchanged = before.is_some_and(|before| object::resource_version(&before) == resource_version);
        let action = if created {
            "created"
        } else if unchanged {
            "unchanged"
        } else {
            "configured"
        };
        Ok(Applied { kind, key, resource_version, action, object })
    }

    fn create_generated(&self, kind: &Arc<Kind>, object: &Value) -> Result<Applied, ApiError> {
        let options = WriteOptions { manager: MANAGER.to_owned(), ..WriteOptions::default() };
        let object = self.create_of(kind, object.clone(), &options)?;
        let (key, resource_version) = (ObjectKey::of(&object), object::resource_version(&object));
        Ok(Applied { kind: kind.clone(), key, resource_version, action: "created", object })
    }
}

/// Splits at the separator lines before parsing, so that a document with a syntax error does not
/// affect the others.
fn split_documents(manifest: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in manifest.lines() {
        let separator = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']));
        if separator {
            documents.push(String::new());
        } else if let Some(last) = documents.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    documents.retain(|document| {
        document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    });
    documents
}

fn parse(document: &str) -> Result<Value, String> {
    serde_saphyr::from_str(document).map_err(|error| format!("the document is not YAML: {error}"))
}

fn expand_lists(value: Value) -> Vec<Value> {
    let is_list = value["apiVersion"] == "v1" && value["kind"] == "List";
    if is_list { object::array_at(&value, "/items").to_vec() } else { vec![value] }
}

fn describe(object: &Value) -> String {
    let (kind, name) = (object::str_at(object, "/kind"), object::name(object));
    let generated = object.pointer("/metadata/generateName").cloned().unwrap_or(json!(""));
    match (kind, name) {
        ("", "") => String::new(),
        (kind, "") => format!("{kind} {}", generated.as_str().unwrap_or_default()).trim_end().to_owned(),
        (kind, name) => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::api;

    const TWO: &str = "# first\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: '1', y: '2'}\n---\n\
                       apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";

    fn actions(report: &ApplyReport) -> Vec<String> {
        report.applied.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unit_documents_are_created_then_unchanged_then_configured() {
        let api = api();
        assert_eq!(actions(&api.apply("two.yaml", TWO)), ["configmaps/a created", "services/web created"]);
        assert_eq!(
            actions(&api.apply("two.yaml", TWO)),
            ["configmaps/a unchanged", "services/web unchanged"]
        );
        let changed = TWO.replace("x: '1', ", "");
        assert_eq!(
            actions(&api.apply("two.yaml", &changed)),
            ["configmaps/a configured", "services/web unchanged"]
        );
        assert_eq!(api.get("configmaps", "default", "a").unwrap()["data"], json!({"y": "2"}));
    }

    #[test]
    fn unit_a_bad_document_is_named_and_the_others_are_applied() {
        let api = api();
        let manifest =
            format!("a: [\n---\n{TWO}---\nkind: Nothing\napiVersion: v9\nmetadata: {{name: none}}\n");
        let report = api.apply("bad.yaml", &manifest);
        assert_eq!(report.applied.len(), 2);
        let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        assert!(problems[0].starts_with("bad.yaml, document 1: the document is not YAML"), "{problems:?}");
        assert!(
            problems[1].starts_with("bad.yaml, document 4 (Nothing none): no matches for kind"),
            "{problems:?}"
        );
    }

    #[test]
    fn unit_invalid_objects_are_named_with_their_field() {
        let api = api();
        let report = api.apply(
            "s.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 0}]}",
        );
        assert!(report.problems[0].to_string().contains("spec.ports[0].port"), "{}", report.problems[0]);
    }
}
