//! Deletion of CustomResourceDefinitions: deletes their objects first.

use beeline_apiserver_admission::{Api, CLEANUP, DeleteOptions, ListOptions, Subresource, WriteOptions};
use beeline_apiserver_objects::{ApiError, ObjectKey, object};
use serde_json::{Value, json};

use super::controller::Controller;

const DEFINITIONS: &str = "customresourcedefinitions";

pub(super) struct CustomResourceController;

impl Controller for CustomResourceController {
    fn name(&self) -> &'static str {
        "customresource"
    }

    fn watches(&self) -> &'static [&'static str] {
        &[DEFINITIONS]
    }

    fn keys_for_event(&self, _: &Api, _: &str, object: &Value) -> Vec<ObjectKey> {
        vec![ObjectKey::of(object)]
    }

    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
        let Ok(definition) = api.get(DEFINITIONS, "", &key.name) else { return Ok(()) };
        let finalizers = object::strs_at(&definition, "/metadata/finalizers");
        if !object::is_deleting(&definition) || !finalizers.contains(&CLEANUP) {
            return Ok(());
        }
        let left = delete_contents(api, object::uid(&definition))?;
        if left > 0 {
            let why = format!("{} still has {left} objects that are being deleted", key.name);
            return Err(ApiError::new(409, "Conflict", why));
        }
        let rest: Vec<&str> = finalizers.into_iter().filter(|one| *one != CLEANUP).collect();
        let mut next = Value::clone(&definition);
        object::metadata(&mut next).insert("finalizers".to_owned(), json!(rest));
        api.update_of(&api.kind(DEFINITIONS)?, Subresource::Internal, next, &WriteOptions::default())
            .map(|_| ())
    }
}

/// Deletes all objects of a definition and returns how many are left. A definition that was not
/// accepted has none.
fn delete_contents(api: &Api, definition_uid: &str) -> Result<usize, ApiError> {
    let kinds = api.kinds();
    let is_its_own =
        |custom: &beeline_apiserver_schema::custom::CustomResource| custom.origin.is_of(definition_uid);
    let Some(kind) = kinds.iter().find(|kind| kind.custom.as_deref().is_some_and(is_its_own)) else {
        return Ok(0);
    };
    api.delete_collection(kind, None, &ListOptions::default(), &DeleteOptions::default())?;
    Ok(api.list_of(kind, None, &ListOptions::default())?.items.len())
}
