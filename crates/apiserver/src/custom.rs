//! CustomResourceDefinitions and their objects: parsing of definitions, pruning, defaulting and
//! validation of objects, and the set of served kinds.
//!
//! CEL rules (`x-kubernetes-validations`) are stored but not evaluated; applying a definition that
//! has some returns a warning.

mod columns;
mod definition;
mod format;
mod registry;
mod rules;
mod schema;
mod values;

use std::sync::Arc;

use serde_json::Value;

pub(crate) use columns::Column;
pub(crate) use definition::{check as check_definition, complete as complete_definition, warnings};
pub(crate) use registry::{CLEANUP, refresh};
pub(crate) use schema::Schema;

use crate::kinds::{NameRule, priority};
use crate::object::{self, array_at, bool_at, str_at, strs_at};
use crate::{Cause, Kind};

/// One version of a kind, as its definition describes it.
#[derive(Debug)]
pub(crate) struct CustomResource {
    pub singular: String,
    pub list_kind: String,
    pub categories: Vec<String>,
    /// The version in which objects are stored.
    pub storage_version: String,
    pub schema: Schema,
    /// The original schema, for OpenAPI.
    pub source: Value,
    pub columns: Vec<Column>,
    pub scale: Option<ScalePaths>,
    /// Paths that field selectors accept, such as `spec.host`.
    pub selectable: Vec<String>,
    /// Deprecation warning for requests of this version.
    pub deprecation: Option<String>,
    /// The definition is being deleted: objects can no longer be created.
    pub terminating: bool,
    pub origin: DefinitionState,
}

/// Identity and state of the definition that a kind was built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DefinitionState {
    uid: String,
    generation: Option<i64>,
    terminating: bool,
}

impl DefinitionState {
    /// Whether it is the definition with this uid.
    pub fn is_of(&self, uid: &str) -> bool {
        self.uid == uid
    }

    fn of(definition: &Value) -> Self {
        Self {
            uid: object::uid(definition).to_owned(),
            generation: object::i64_at(definition, "/metadata/generation"),
            terminating: object::is_deleting(definition),
        }
    }
}

/// JSON pointers to the fields of the `scale` subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub spec_replicas: String,
    pub status_replicas: String,
    /// The selector of the pods, as a string.
    pub selector: Option<String>,
}

/// Kinds of an accepted definition, one per version, the preferred version first.
fn kinds_of(definition: &Value) -> Vec<Kind> {
    let mut versions: Vec<&Value> = array_at(definition, "/spec/versions").iter().collect();
    versions.retain(|version| bool_at(version, "/served"));
    versions.sort_by_key(|version| priority(str_at(version, "/name")));
    versions.into_iter().map(|version| kind_of(definition, version)).collect()
}

fn kind_of(definition: &Value, version: &Value) -> Kind {
    let names = &definition["spec"]["names"];
    let string = |field: &str| names[field].as_str().unwrap_or_default().to_owned();
    let owned = |pointer: &str| strs_at(names, pointer).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let custom = custom_of(definition, version);
    Kind {
        group: str_at(definition, "/spec/group").to_owned().into(),
        version: str_at(version, "/name").to_owned().into(),
        kind: string("kind").into(),
        plural: string("plural").into(),
        short_names: owned("/shortNames").into_iter().map(Into::into).collect(),
        namespaced: str_at(definition, "/spec/scope") == "Namespaced",
        status: version.pointer("/subresources/status").is_some(),
        scale: custom.scale.is_some(),
        in_category_all: custom.categories.iter().any(|one| one == "all"),
        name_rule: NameRule::Subdomain1123,
        objects_max: None,
        prune: None,
        describe: None,
        custom: Some(Arc::new(custom)),
    }
}

fn custom_of(definition: &Value, version: &Value) -> CustomResource {
    let names = &definition["spec"]["names"];
    let storage = array_at(definition, "/spec/versions").iter().find(|one| bool_at(one, "/storage"));
    let source = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
    CustomResource {
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

#[cfg(test)]
mod tests;
