//! Create, update and patch.

use std::cell::RefCell;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Api;
use super::fields::{self, ServerSideApply};
use crate::admission;
use crate::api::PatchKind;
use crate::fields::Entry;
use crate::object::{self, ObjectKey};
use crate::store::Store;
use crate::{ApiError, Cause, Kind, defaults, patch, validate};

/// The part of an object that a request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subresource {
    None,
    Status,
    /// `spec.finalizers` of a Namespace.
    Finalize,
    /// Fields that only the server's own controllers may set, such as `spec.nodeName`.
    Internal,
}

/// Options of a write.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    pub skip_validation: bool,
    pub dry_run: bool,
    /// How unknown fields are reported. They are never stored.
    pub unknown_fields: UnknownFields,
    /// Warnings about an accepted write.
    pub warnings: RefCell<Vec<String>>,
    /// Field manager; empty for the server's own controllers.
    pub manager: String,
    /// Subresource recorded in the managed fields where the request does not write it directly
    /// (`scale`).
    pub subresource_name: &'static str,
    /// Managed fields to store, if already computed (server-side apply).
    pub applied: Option<Vec<Entry>>,
}

/// How unknown fields are reported: the query parameter `fieldValidation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum UnknownFields {
    #[default]
    Ignore,
    Warn,
    Strict,
}

/// How often a new name is generated if the previous one exists.
const NAME_TRIES: usize = 8;

impl Api {
    pub(crate) fn create_of(
        &self,
        kind: &Arc<Kind>,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        if let Some(remote) = self.remote() {
            return remote.create(self, kind, object);
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
        admission::check_type(kind, &mut object)?;
        admission::check_namespace_field(kind, &mut object)?;
        if !object::str_at(&object, "/metadata/resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        check_creatable(kind)?;
        self.set_generated_name(store, kind, &mut object)?;
        let (mut object, unknown) = prune(kind, object, skip)?;
        check_unknown(kind, unknown, options)?;
        admission::check_namespace_exists(store, &self.kinds(), kind, &object)?;
        admission::set_priority(store, &self.kinds(), kind, &mut object)?;
        admission::prepare_for_create(kind, &mut object);
        defaults::apply(kind, &mut object);
        let key = ObjectKey::of(&object);
        if !skip {
            fail_on_causes(kind, &key.name, validate::object(kind, &object, None))?;
        }
        warn(kind, &object, options);
        if store.get(kind, &key).is_some() {
            return Err(ApiError::already_exists(kind, &key.name));
        }
        fields::update_managed_fields(kind, Subresource::None, None, &mut object, Vec::new(), options);
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
        let Some(name) = admission::service_account::account_name(pod).map(str::to_owned) else {
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
        admission::service_account::admit(pod, &account);
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

    pub(crate) fn update_of(
        &self,
        kind: &Arc<Kind>,
        subresource: Subresource,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        if let Some(remote) = self.remote() {
            return remote.update(self, kind, subresource, object);
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
        admission::check_type(kind, &mut object)?;
        admission::check_namespace_field(kind, &mut object)?;
        let key = ObjectKey::of(&object);
        let current = get_existing(store, kind, &key)?;
        admission::check_precondition(kind, &current, &object)?;
        let managers = fields::managed_fields(&object, &current);
        let (object, unknown) = prune(kind, object, skip)?;
        check_unknown(kind, unknown, options)?;
        let mut object = admission::prepare_for_update(kind, subresource, &current, object);
        defaults::apply(kind, &mut object);
        if subresource == Subresource::None {
            admission::keep_assigned_values(kind, &mut object, &current);
        }
        if !skip && subresource != Subresource::Internal {
            let causes = match subresource {
                Subresource::Status => validate::status(kind, &object),
                _ => validate::object(kind, &object, Some(&current)),
            };
            fail_on_causes(kind, &key.name, causes)?;
        }
        fields::update_managed_fields(kind, subresource, Some(&current), &mut object, managers, options);
        self.allocate(kind, &mut object, Some(&current), skip, options.dry_run)?;
        if subresource == Subresource::None {
            warn(kind, &object, options);
        }
        if admission::is_unchanged(&object, &current) {
            return Ok(current);
        }
        admission::update_generation(kind, &mut object, &current);
        if options.dry_run {
            return Ok(Arc::new(object));
        }
        let stored = self.put_locked(store, kind, object);
        if admission::can_be_removed(kind, &stored) {
            return Ok(self.remove_locked(store, kind, &key).unwrap_or(stored));
        }
        Ok(stored)
    }

    /// Applies a patch. The flag is true if the object was created.
    pub(crate) fn patch_of(
        &self,
        kind: &Arc<Kind>,
        subresource: Subresource,
        key: &ObjectKey,
        language: &PatchKind,
        change: &Value,
        options: &WriteOptions,
    ) -> Result<(Arc<Value>, bool), ApiError> {
        if let Some(remote) = self.remote() {
            return remote.patch(self, kind, subresource, key, language, change);
        }
        let mut store = self.lock();
        let found = get_existing(&store, kind, key).ok();
        if let PatchKind::Apply { manager, force } = language {
            let request = ServerSideApply { kind, subresource, key, change, force: *force };
            let own = WriteOptions { manager: manager.clone(), ..options.clone() };
            let done = self.server_side_apply(&mut store, &request, found, &own);
            options.warnings.replace(own.warnings.into_inner());
            return done;
        }
        let current = found.ok_or_else(|| ApiError::not_found(kind, &key.name))?;
        let changed = patch::apply(&current, language, change)?;
        check_patched_name(kind, key, &changed)?;
        let changed = self.with_checked_version(kind, &current, changed, change, language)?;
        let shown = changed.clone();
        let stored = self.update_locked(&mut store, kind, subresource, changed, options);
        Ok((stored.map_err(|error| patch_error(error, &shown))?, false))
    }

    /// A resourceVersion in the patch is a precondition.
    fn with_checked_version(
        &self,
        kind: &Kind,
        current: &Value,
        changed: Value,
        change: &Value,
        language: &PatchKind,
    ) -> Result<Value, ApiError> {
        let expected_version = match language {
            PatchKind::Json => object::str_at(&changed, "/metadata/resourceVersion"),
            _ => object::str_at(change, "/metadata/resourceVersion"),
        };
        if !expected_version.is_empty()
            && expected_version != object::str_at(current, "/metadata/resourceVersion")
        {
            return Err(ApiError::conflict(kind, object::name(current), admission::MODIFIED));
        }
        Ok(changed)
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
fn get_existing(store: &Store, kind: &Kind, key: &ObjectKey) -> Result<Arc<Value>, ApiError> {
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

/// The object without its unknown fields, and their paths.
pub(super) fn prune(kind: &Kind, object: Value, skip: bool) -> Result<(Value, Vec<String>), ApiError> {
    if let Some(custom) = kind.custom.as_ref().filter(|_| !skip) {
        return Ok(custom.prune_and_default(&object));
    }
    let Some(prune) = kind.prune.filter(|_| !skip) else { return Ok((object, Vec::new())) };
    let pruned = prune(&object).map_err(|error| {
        let (version, kind_name) = (&kind.version, &kind.kind);
        ApiError::bad_request(format!(
            "{kind_name} in version {version:?} cannot be handled as a {kind_name}: {error}"
        ))
    })?;
    let mut unknown = Vec::new();
    object::collect_missing(&object, &pruned, "", &mut unknown);
    Ok((pruned, unknown))
}

const STRICT: &str = "strict decoding error: ";

/// Errors in the result of a patch are reported as errors of the patch.
fn patch_error(error: ApiError, patched: &Value) -> ApiError {
    let Some(at) = error.message.find(STRICT).filter(|_| error.code == 400) else { return error };
    let cause = Cause::invalid("patch", patched, &error.message[at..]);
    let mut error = ApiError::new(422, "Invalid", format!(" \"\" is invalid: {cause}"));
    error.details.causes = vec![cause];
    error
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
        let warnings = crate::custom::warnings(object);
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        options.warnings.borrow_mut().extend(warnings);
    }
}

fn fail_on_causes(kind: &Kind, name: &str, causes: Vec<Cause>) -> Result<(), ApiError> {
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, name, causes)) }
}

pub(super) fn check_patched_name(kind: &Kind, key: &ObjectKey, changed: &Value) -> Result<(), ApiError> {
    if ObjectKey::of(changed) == *key {
        return Ok(());
    }
    let message = format!("the patch would change the name or namespace of {} {key}", kind.resource());
    Err(ApiError::bad_request(message))
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
