//! The managed fields after a write.

use beeline_apiserver_objects::fields::{self, Entry, Manager, Type};
use beeline_apiserver_schema::Kind;
use serde_json::Value;

use super::options::{Subresource, WriteOptions};

/// The type of a kind's objects, for merging.
pub(super) fn type_of(kind: &Kind) -> Type<'_> {
    match &kind.custom {
        Some(custom) => Type::Custom(&custom.source),
        None => Type::of_kind(&kind.kind),
    }
}

/// The manager that a write is recorded under.
pub(super) fn manager(kind: &Kind, subresource: Subresource, options: &WriteOptions) -> Manager {
    let part = match subresource {
        Subresource::None | Subresource::Internal => options.subresource_name,
        Subresource::Status => "status",
        Subresource::Finalize => "finalize",
    };
    // The server's own controllers write under the name that they have in Kubernetes.
    let name = if options.manager.is_empty() { "kube-controller-manager" } else { &options.manager };
    Manager::new(name, part, kind.status)
}

/// Managed fields before a write: those in the request if it has any, else the stored ones.
pub(super) fn of(object: &Value, current: &Value) -> Vec<Entry> {
    if fields::is_reset(object) {
        return Vec::new();
    }
    let given = fields::read(object);
    if given.is_empty() { fields::read(current) } else { given }
}

/// Updates the managed fields of an object that is about to be stored.
pub(super) fn update(
    kind: &Kind,
    subresource: Subresource,
    before: Option<&Value>,
    object: &mut Value,
    managers: Vec<Entry>,
    options: &WriteOptions,
) {
    let known = before.map(fields::read).unwrap_or_default();
    match &options.applied {
        Some(applied) => fields::write(object, applied.clone(), &known),
        // Bindings, owner references and similar internal writes have no manager, as in Kubernetes.
        None if subresource == Subresource::Internal => fields::write(object, known.clone(), &known),
        None => {
            let manager = manager(kind, subresource, options);
            fields::track(type_of(kind), &kind.api_version(), before, object, managers, &manager);
        }
    }
}
