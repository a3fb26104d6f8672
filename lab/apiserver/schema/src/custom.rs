//! Custom resources: parsing of a definition's versions, and pruning, defaulting and validation of
//! their objects.

mod columns;
mod format;
pub(super) mod rules;
pub(super) mod schema;
mod values;

use beeline_apiserver_objects::Cause;
use beeline_apiserver_objects::object::{self, array_at, bool_at, str_at, strs_at};
use serde_json::Value;

pub use columns::Column;
pub(crate) use schema::Schema;

/// One version of a kind, as its definition describes it.
#[derive(Debug)]
pub struct CustomResource {
    /// Singular name.
    pub singular: String,
    /// Kind of lists.
    pub list_kind: String,
    /// Categories for kubectl.
    pub categories: Vec<String>,
    /// The version in which objects are stored.
    pub storage_version: String,
    pub(crate) schema: Schema,
    /// The original schema, for OpenAPI.
    pub source: Value,
    /// Additional printer columns.
    pub columns: Vec<Column>,
    /// The fields of the `scale` subresource, if there is one.
    pub scale: Option<ScalePaths>,
    /// Paths that field selectors accept, such as `spec.host`.
    pub selectable: Vec<String>,
    /// Deprecation warning for requests of this version.
    pub deprecation: Option<String>,
    /// The definition is being deleted: objects can no longer be created.
    pub terminating: bool,
    /// The definition.
    pub origin: DefinitionState,
}

/// Identity and state of the definition that a kind was built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionState {
    uid: String,
    generation: Option<i64>,
    terminating: bool,
}

impl DefinitionState {
    /// Whether it is the definition with this uid.
    pub fn is_of(&self, uid: &str) -> bool {
        self.uid == uid
    }

    /// That of this definition.
    pub fn of(definition: &Value) -> Self {
        Self {
            uid: object::uid(definition).to_owned(),
            generation: object::i64_at(definition, "/metadata/generation"),
            terminating: object::is_deleting(definition),
        }
    }
}

/// JSON pointers to the fields of the `scale` subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Desired replicas.
    pub spec_replicas: String,
    /// Actual replicas.
    pub status_replicas: String,
    /// The selector of the pods, as a string.
    pub selector: Option<String>,
}

fn deprecation(definition: &Value, version: &Value) -> String {
    match str_at(version, "/deprecationWarning") {
        "" => format!(
            "{}/{} {} is deprecated",
            str_at(definition, "/spec/group"),
            str_at(version, "/name"),
            str_at(definition, "/spec/names/kind")
        ),
        text => text.to_owned(),
    }
}

fn scale_paths(scale: &Value) -> ScalePaths {
    let pointer = |field: &str| str_at(scale, field).replace('.', "/");
    ScalePaths {
        spec_replicas: pointer("/specReplicasPath"),
        status_replicas: pointer("/statusReplicasPath"),
        selector: Some(pointer("/labelSelectorPath")).filter(|pointer| !pointer.is_empty()),
    }
}

impl CustomResource {
    /// The properties that this version of a definition describes.
    pub fn of(definition: &Value, version: &Value) -> Self {
        let names = &definition["spec"]["names"];
        let storage = array_at(definition, "/spec/versions").iter().find(|one| bool_at(one, "/storage"));
        let source = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
        Self {
            singular: str_at(names, "/singular").to_owned(),
            list_kind: str_at(names, "/listKind").to_owned(),
            categories: strs_at(names, "/categories").into_iter().map(str::to_owned).collect(),
            storage_version: str_at(storage.unwrap_or(version), "/name").to_owned(),
            schema: Schema::of(&source),
            source,
            columns: columns::of(version),
            scale: version.pointer("/subresources/scale").map(scale_paths),
            selectable: array_at(version, "/selectableFields")
                .iter()
                .map(|field| str_at(field, "/jsonPath").trim_start_matches('.').to_owned())
                .collect(),
            deprecation: bool_at(version, "/deprecated").then(|| deprecation(definition, version)),
            terminating: object::is_deleting(definition),
            origin: DefinitionState::of(definition),
        }
    }

    /// Returns the object without unknown fields and with defaults, and the paths of the removed
    /// fields.
    pub fn prune_and_default(&self, object: &Value) -> (Value, Vec<String>) {
        values::prune_and_default(&self.schema, object)
    }

    /// All violations of the schema.
    pub fn check(&self, object: &Value) -> Vec<Cause> {
        rules::check(&self.schema, object)
    }
}
