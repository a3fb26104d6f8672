//! Server-side printing: tables for kubectl.

mod cells;
mod columns;

use std::sync::Arc;

use beeline_apiserver_admission::Page;
use beeline_apiserver_objects::{
    ApiError,
    object::{self, str_at},
};
use beeline_apiserver_schema::{Kind, Kinds};
use http::HeaderMap;
use http::header::ACCEPT;
use serde_json::{Value, json};

use super::query::Query;

use columns::Column;

/// Whether the client prefers a table.
pub(super) fn is_requested(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let first = accept.split(',').next().unwrap_or_default();
    first.contains("as=Table") && first.contains("application/json") && first.contains("g=meta.k8s.io")
}

/// How much of the object a row includes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Include {
    Nothing,
    #[default]
    Metadata,
    Object,
}

impl Include {
    pub fn of(query: &Query) -> Result<Self, ApiError> {
        match query.get("includeObject") {
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            "None" => Ok(Self::Nothing),
            other => Err(ApiError::bad_request(format!(
                "includeObject {other:?} is not known: use one of None, Metadata, Object"
            ))),
        }
    }
}

/// One object as a table; the object itself if its kind is not served.
pub(super) fn of_object(kinds: &Kinds, object: &Value, include: Include) -> Value {
    match kinds.by_type(str_at(object, "/apiVersion"), str_at(object, "/kind")) {
        Some(kind) => of_one(kind, object, include),
        None => object.clone(),
    }
}

/// One object of this kind as a table.
pub(super) fn of_one(kind: &Kind, object: &Value, include: Include) -> Value {
    of_objects(kind, [object], json!({"resourceVersion": object["metadata"]["resourceVersion"]}), include)
}

/// A list as a table.
pub(super) fn of_page(kind: &Kind, page: &Page, include: Include) -> Value {
    of_objects(kind, page.items.iter().map(Arc::as_ref), super::page::metadata(page), include)
}

fn of_objects<'a>(
    kind: &Kind,
    objects: impl IntoIterator<Item = &'a Value>,
    metadata: Value,
    include: Include,
) -> Value {
    let (definitions, rows): (Vec<Value>, Vec<Value>) = match &kind.custom {
        Some(custom) => {
            let name = Column::new("Name", "string", |object| json!(object::name(object)));
            let definitions = std::iter::once(name.definition()).chain(custom.columns.iter().map(definition));
            let cells = |object: &Value| -> Vec<Value> {
                let name = std::iter::once(json!(object::name(object)));
                name.chain(custom.columns.iter().map(|column| column.cell(object))).collect()
            };
            let rows = objects.into_iter().map(|object| row(cells(object), object, include));
            (definitions.collect(), rows.collect())
        }
        None => {
            let columns = columns::of(kind);
            let cells = |object: &Value| columns.iter().map(|column| (column.cell)(object)).collect();
            let rows = objects.into_iter().map(|object| row(cells(object), object, include));
            (columns.iter().map(Column::definition).collect(), rows.collect())
        }
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

fn definition(column: &beeline_apiserver_schema::custom::Column) -> Value {
    let kind = if column.kind == "date" { "string" } else { &column.kind };
    json!({
        "name": column.name, "type": kind, "format": column.format, "description": column.description,
        "priority": column.priority,
    })
}

fn row(cells: Vec<Value>, object: &Value, include: Include) -> Value {
    let beside = match include {
        Include::Nothing => Value::Null,
        Include::Object => object.clone(),
        Include::Metadata => json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
        }),
    };
    json!({"cells": cells, "object": beside})
}

#[cfg(test)]
mod tests;
