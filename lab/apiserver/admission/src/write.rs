//! Create and update.

use std::sync::Arc;

use beeline_apiserver_objects::{ApiError, Cause, ObjectKey, object};
use beeline_apiserver_schema::{Kind, defaults, definition, validate};
use beeline_apiserver_storage::Store;
use serde_json::{Value, json};

use super::api::Api;
use super::options::{Subresource, UnknownFields, WriteOptions};
use super::prune::STRICT;
use super::{managed_fields, prune, server_fields, service_account};

/// How often a new name is generated if the previous one exists.
const NAME_TRIES: usize = 8;

impl Api {
    /// Creates an object.
    pub fn create_of(
        &self,
        kind: &Arc<Kind>,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        if let Some(remote) = self.remote() {
            return Ok(self.mirror_written(kind, remote.create(kind, object)?));
        }
        let mut store = self.lock();
        self.create_locked(&mut store, kind, object, options)
    }

    pub(crate) fn create_locked(
        &self,
        store: &mut Store,
        kind: &Arc<Kind>,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        let skip = options.skip_validation || self.skip_validation;
        server_fields::check_type(kind, &mut object)?;
        server_fields::check_namespace_field(kind, &mut object)?;
        if !object::str_at(&object, "/metadata/resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        check_creatable(kind)?;
        self.set_generated_name(store, kind, &mut object)?;
        let (mut object, unknown) = prune::unknown_fields(kind, object, skip)?;
        check_unknown(kind, unknown, options)?;
        server_fields::check_namespace_exists(store, &self.kinds(), kind, &object)?;
        server_fields::set_priority(store, &self.kinds(), kind, &mut object)?;
        server_fields::prepare_for_create(kind, &mut object);
        defaults::apply(kind, &mut object);
        let key = ObjectKey::of(&object);
        if !skip {
            fail_on_causes(kind, &key.name, validate::object(kind, &object, None))?;
        }
        warn(kind, &object, options);
        if store.get(kind, &key).is_some() {
            return Err(ApiError::already_exists(kind, &key.name));
        }
        managed_fields::update(kind, Subresource::None, None, &mut object, Vec::new(), options);
        if kind.is("pods") && !skip {
            self.admit_service_account(store, kind, &mut object, options.dry_run)?;
        }
        self.allocate(kind, &mut object, None, skip, options.dry_run)?;
        if options.dry_run {
            return Ok(Arc::new(object));
        }
        evict_oldest(store, kind);
        Ok(self.put_locked(store, kind, object))
    }

    /// Applies the admission of service accounts to a new pod. The account `default` is created here
    /// if its controller has not done so yet; in Kubernetes, clients have to wait for it.
    fn admit_service_account(
        &self,
        store: &mut Store,
        kind: &Kind,
        pod: &mut Value,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        let Some(name) = service_account::account_name(pod).map(str::to_owned) else {
            return Ok(());
        };
        let accounts = self.kind("serviceaccounts")?;
        let key = ObjectKey::new(object::namespace(pod), &*name);
        let account = match store.get(&accounts, &key).cloned() {
            Some(found) => found,
            None if name != "default" => {
                let why =
                    format!("error looking up service account {key}: serviceaccount {name:?} not found");
                return Err(ApiError::forbidden(kind, object::name(pod), &why));
            }
            None => {
                let account = json!({"metadata": {"name": name, "namespace": key.namespace}});
                let options = WriteOptions { dry_run, ..WriteOptions::default() };
                self.create_locked(store, &accounts, account, &options)?
            }
        };
        service_account::admit(pod, &account);
        Ok(())
    }

    fn set_generated_name(&self, store: &Store, kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
        let prefix = object::str_at(object, "/metadata/generateName").to_owned();
        if !object::name(object).is_empty() {
            return Ok(());
        }
        if prefix.is_empty() {
            let cause = Cause::required("metadata.name", "name or generateName is required");
            return Err(ApiError::invalid(kind, "", vec![cause]));
        }
        // Names that become label values have at most 63 characters.
        let prefix: String = prefix.chars().take(58).collect();
        for _ in 0..NAME_TRIES {
            let name = format!("{prefix}{}", object::random_suffix());
            let taken = store.get(kind, &ObjectKey::new(object::namespace(object), &name)).is_some();
            object::metadata(object).insert("name".to_owned(), name.into());
            if !taken {
                break;
            }
        }
        Ok(())
    }

    /// Replaces a part of an object.
    pub fn update_of(
        &self,
        kind: &Arc<Kind>,
        subresource: Subresource,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        if let Some(remote) = self.remote() {
            return Ok(self.mirror_written(kind, remote.update(kind, subresource, object)?));
        }
        let mut store = self.lock();
        self.update_locked(&mut store, kind, subresource, object, options)
    }

    pub(crate) fn update_locked(
        &self,
        store: &mut Store,
        kind: &Arc<Kind>,
        subresource: Subresource,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        let skip = options.skip_validation || self.skip_validation;
        server_fields::check_type(kind, &mut object)?;
        server_fields::check_namespace_field(kind, &mut object)?;
        let key = ObjectKey::of(&object);
        let current = get_existing(store, kind, &key)?;
        server_fields::check_precondition(kind, &current, &object)?;
        let managers = managed_fields::of(&object, &current);
        let (object, unknown) = prune::unknown_fields(kind, object, skip)?;
        check_unknown(kind, unknown, options)?;
        let mut object = server_fields::prepare_for_update(kind, subresource, &current, object);
        defaults::apply(kind, &mut object);
        if subresource == Subresource::None {
            server_fields::keep_assigned_values(kind, &mut object, &current);
        }
        if !skip && subresource != Subresource::Internal {
            let causes = match subresource {
                Subresource::Status => validate::status(kind, &object),
                _ => validate::object(kind, &object, Some(&current)),
            };
            fail_on_causes(kind, &key.name, causes)?;
        }
        managed_fields::update(kind, subresource, Some(&current), &mut object, managers, options);
        self.allocate(kind, &mut object, Some(&current), skip, options.dry_run)?;
        if subresource == Subresource::None {
            warn(kind, &object, options);
        }
        if server_fields::is_unchanged(&object, &current) {
            return Ok(current);
        }
        server_fields::update_generation(kind, &mut object, &current);
        if options.dry_run {
            return Ok(Arc::new(object));
        }
        let stored = self.put_locked(store, kind, object);
        if server_fields::can_be_removed(kind, &stored) {
            return Ok(self.remove_locked(store, kind, &key).unwrap_or(stored));
        }
        Ok(stored)
    }

    fn allocate(
        &self,
        kind: &Kind,
        object: &mut Value,
        before: Option<&Value>,
        lenient: bool,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        if !kind.is("services") {
            return Ok(());
        }
        let mut allocators = self.allocators();
        let undo = dry_run.then(|| allocators.clone());
        let result = allocators.assign(object, before);
        if let Some(undo) = undo {
            *allocators = undo;
        }
        match result {
            Err(causes) if !lenient => Err(ApiError::invalid(kind, object::name(object), causes)),
            _ => Ok(()),
        }
    }

    /// Stores an object. A CustomResourceDefinition also updates the served kinds.
    pub(crate) fn put_locked(&self, store: &mut Store, kind: &Arc<Kind>, object: Value) -> Arc<Value> {
        let stored = store.put(kind, kind.to_storage(object));
        if kind.is("customresourcedefinitions") {
            self.refresh_kinds(store, kind);
            return store.get(kind, &ObjectKey::of(&stored)).cloned().unwrap_or(stored);
        }
        kind.to_served_version(&stored)
    }

    /// Removes an object and releases its addresses and ports.
    pub(crate) fn remove_locked(
        &self,
        store: &mut Store,
        kind: &Arc<Kind>,
        key: &ObjectKey,
    ) -> Option<Arc<Value>> {
        let removed = store.remove(kind, key)?;
        if kind.is("services") {
            self.allocators().release(key);
        }
        if kind.is("customresourcedefinitions") {
            self.refresh_kinds(store, kind);
        }
        Some(kind.to_served_version(&removed))
    }
}

/// The stored object in this version of its kind.
pub(super) fn get_existing(store: &Store, kind: &Kind, key: &ObjectKey) -> Result<Arc<Value>, ApiError> {
    let found = store.get(kind, key).map(|object| kind.to_served_version(object));
    found.ok_or_else(|| ApiError::not_found(kind, &key.name))
}

fn check_creatable(kind: &Kind) -> Result<(), ApiError> {
    if kind.custom.as_ref().is_none_or(|custom| !custom.terminating) {
        return Ok(());
    }
    let message = "create not allowed while custom resource definition is terminating";
    Err(ApiError::new(405, "MethodNotAllowed", message))
}

fn check_unknown(kind: &Kind, unknown: Vec<String>, options: &WriteOptions) -> Result<(), ApiError> {
    let messages = unknown.iter().map(|path| format!("unknown field {path:?}"));
    match options.unknown_fields {
        UnknownFields::Warn => options.warnings.borrow_mut().extend(messages),
        UnknownFields::Strict if !unknown.is_empty() => {
            let (version, kind_name) = (&kind.version, &kind.kind);
            let list = messages.collect::<Vec<_>>().join(", ");
            return Err(ApiError::bad_request(format!(
                "{kind_name} in version {version:?} cannot be handled as a {kind_name}: {STRICT}{list}"
            )));
        }
        _ => {}
    }
    Ok(())
}

/// Adds warnings about an accepted object.
fn warn(kind: &Kind, object: &Value, options: &WriteOptions) {
    if kind.is("customresourcedefinitions") {
        let warnings = definition::warnings(object);
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        options.warnings.borrow_mut().extend(warnings);
    }
}

fn fail_on_causes(kind: &Kind, name: &str, causes: Vec<Cause>) -> Result<(), ApiError> {
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, name, causes)) }
}

/// Removes the oldest object of a kind with a limited number of objects.
fn evict_oldest(store: &mut Store, kind: &Arc<Kind>) {
    if kind.objects_max.is_none_or(|max| store.count(kind) < max) {
        return;
    }
    let oldest = store.list(kind, None, None).min_by_key(|(_, value)| object::resource_version(value));
    if let Some(key) = oldest.map(|(key, _)| key.clone()) {
        store.remove(kind, &key);
    }
}
