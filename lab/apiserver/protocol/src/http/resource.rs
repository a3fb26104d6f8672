//! Requests for objects and collections: maps methods and parameters to operations.

use std::cell::RefCell;
use std::sync::Arc;

use beeline_apiserver_admission::{
    Api, DeleteOptions, ListOptions, Page, Propagation, Subresource, UnknownFields, WatchOptions,
    WriteOptions,
};
use beeline_apiserver_objects::{ApiError, ObjectKey, object};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use super::query::Query;
use super::response::{ApiResponse, ok};
use super::target::Target;
use super::{body, resource_version, table, watch};

/// Header with which tests store objects that Kubernetes would refuse.
const SKIP_VALIDATION: &str = "beeline-lab-skip-validation";

pub(super) fn answer(
    api: &Api,
    parts: &Parts,
    target: &Target,
    query: &Query,
    body: &[u8],
    warnings: &mut Vec<String>,
) -> Result<ApiResponse, ApiError> {
    let collected = RefCell::new(Vec::new());
    let request = Request { api, headers: &parts.headers, target, query, body, warnings: &collected };
    request.add_deprecation_warning();
    let answer = match (&target.name, &target.subresource) {
        (None, _) => request.collection(&parts.method),
        (Some(name), None) => request.object(&parts.method, &request.key(name)),
        (Some(name), Some(part)) => request.subresource(&parts.method, &request.key(name), part),
    };
    warnings.append(&mut collected.into_inner());
    answer
}

struct Request<'a> {
    api: &'a Api,
    headers: &'a HeaderMap,
    target: &'a Target,
    query: &'a Query,
    body: &'a [u8],
    warnings: &'a RefCell<Vec<String>>,
}

impl Request<'_> {
    fn key(&self, name: &str) -> ObjectKey {
        ObjectKey::new(self.target.namespace.clone().unwrap_or_default(), name)
    }

    fn add_deprecation_warning(&self) {
        let custom = self.target.kind.custom.as_ref();
        self.warnings.borrow_mut().extend(custom.and_then(|custom| custom.deprecation.clone()));
    }

    fn collection(&self, method: &Method) -> Result<ApiResponse, ApiError> {
        match *method {
            Method::GET if self.query.flag("watch") => self.watch(""),
            Method::GET => self.list(),
            Method::POST => self.create(),
            Method::DELETE => self.delete_collection(),
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn object(&self, method: &Method, key: &ObjectKey) -> Result<ApiResponse, ApiError> {
        let kind = &self.target.kind;
        match *method {
            Method::GET if self.query.flag("watch") => self.watch(&key.name),
            Method::GET => Ok(object_answer(self.api.get_of(kind, key)?)),
            Method::PUT => self.update(Subresource::None, key),
            Method::PATCH => self.patch(Subresource::None, key),
            Method::DELETE => self.delete(key),
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn subresource(&self, method: &Method, key: &ObjectKey, part: &str) -> Result<ApiResponse, ApiError> {
        let kind = &self.target.kind;
        match (part, method) {
            ("status", _) if !kind.status => Err(ApiError::no_such_path()),
            ("status", &Method::GET) => Ok(object_answer(self.api.get_of(kind, key)?)),
            ("status", &Method::PUT) => self.update(Subresource::Status, key),
            ("status", &Method::PATCH) => self.patch(Subresource::Status, key),
            ("scale", _) if !kind.scale => Err(ApiError::no_such_path()),
            ("scale", &Method::GET) => Ok(ok(self.api.scale_of(kind, key)?)),
            ("scale", &Method::PUT) => {
                let requested = body::object(self.headers, self.body)?;
                Ok(ok(self.api.update_scale(kind, key, &requested, &self.write_options()?)?))
            }
            ("scale", &Method::PATCH) => {
                let (language, change) = body::patch(self.headers, self.body, self.query)?;
                Ok(ok(self.api.patch_scale(kind, key, &language, &change, &self.write_options()?)?))
            }
            ("finalize", &Method::PUT) if kind.is("namespaces") => self.update(Subresource::Finalize, key),
            ("binding", &Method::POST) if kind.is("pods") => self.bind(key),
            ("eviction", &Method::POST) if kind.is("pods") => self.evict(key),
            ("status" | "scale", _) => Err(ApiError::method_not_allowed()),
            _ => Err(ApiError::no_such_path()),
        }
    }

    fn list(&self) -> Result<ApiResponse, ApiError> {
        let options = self.list_options()?;
        let page = self.api.list_of(&self.target.kind, self.target.namespace.as_deref(), &options)?;
        Ok(ApiResponse::Page(self.target.kind.clone(), page))
    }

    fn list_options(&self) -> Result<ListOptions, ApiError> {
        Ok(ListOptions {
            labels: self.query.get("labelSelector").to_owned(),
            fields: self.query.get("fieldSelector").to_owned(),
            limit: self.query.number("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0),
            continue_token: self.query.get("continue").to_owned(),
            resource_version_match: resource_version::of_list(self.query)?,
        })
    }

    fn watch(&self, name: &str) -> Result<ApiResponse, ApiError> {
        let bookmarks = self.query.flag("allowWatchBookmarks");
        let watch = self.watch_options(name, bookmarks).and_then(|options| {
            self.api.watch_of(&self.target.kind, self.target.namespace.as_deref(), &options)
        });
        Ok(ApiResponse::Stream(match watch {
            Ok(watch) => {
                let include = table::Include::of(self.query).unwrap_or_default();
                let table = table::is_requested(self.headers).then(|| (self.target.kind.clone(), include));
                watch::stream(watch, self.query.number("timeoutSeconds"), bookmarks, table)
            }
            // Clients expect 410 Gone inside the watch stream.
            Err(error) if error.code == 410 => watch::error_stream(&error),
            Err(error) => return Err(error),
        }))
    }

    fn watch_options(&self, name: &str, bookmarks: bool) -> Result<WatchOptions, ApiError> {
        let initial = self.query.flag("sendInitialEvents");
        resource_version::check_watch(self.query)?;
        let after = match self.query.get("resourceVersion") {
            // There is only one copy, so "not older than" always holds.
            _ if initial => None,
            "" | "0" => None,
            text => Some(
                text.parse()
                    .map_err(|_| ApiError::bad_request(format!("invalid resource version {text:?}")))?,
            ),
        };
        let mut fields = self.query.get("fieldSelector").to_owned();
        if !name.is_empty() {
            fields = format!("metadata.name={name}");
        }
        let labels = self.query.get("labelSelector").to_owned();
        let initial_events_end = initial && bookmarks;
        Ok(WatchOptions { labels, fields, after, changes_only: false, initial_events_end, bookmarks })
    }

    fn create(&self) -> Result<ApiResponse, ApiError> {
        let mut object = body::object_of_kind(&self.target.kind, self.headers, self.body)?;
        let kind = &self.target.kind;
        self.set_name_from_path(&mut object, None)?;
        if kind.namespaced && self.target.namespace.is_none() {
            return Err(ApiError::method_not_allowed());
        }
        let options = self.write_options()?;
        let created = self.api.create_of(kind, object, &options)?;
        self.add_warnings(&options);
        Ok(ApiResponse::Object(StatusCode::CREATED, created))
    }

    fn update(&self, subresource: Subresource, key: &ObjectKey) -> Result<ApiResponse, ApiError> {
        let mut object = body::object_of_kind(&self.target.kind, self.headers, self.body)?;
        self.set_name_from_path(&mut object, Some(&key.name))?;
        let options = self.write_options()?;
        let updated = self.api.update_of(&self.target.kind, subresource, object, &options)?;
        self.add_warnings(&options);
        Ok(object_answer(updated))
    }

    fn patch(&self, subresource: Subresource, key: &ObjectKey) -> Result<ApiResponse, ApiError> {
        let (language, change) = body::patch(self.headers, self.body, self.query)?;
        let options = self.write_options()?;
        let (object, created) =
            self.api.patch_of(&self.target.kind, subresource, key, &language, &change, &options)?;
        self.add_warnings(&options);
        let code = if created { StatusCode::CREATED } else { StatusCode::OK };
        Ok(ApiResponse::Object(code, object))
    }

    fn delete(&self, key: &ObjectKey) -> Result<ApiResponse, ApiError> {
        let deleted = self.api.delete_of(&self.target.kind, key, &self.delete_options()?)?;
        if !deleted.removed {
            return Ok(object_answer(deleted.object));
        }
        let (kind, uid) = (&self.target.kind, object::uid(&deleted.object));
        let details = json!({"name": key.name, "group": kind.group, "kind": kind.plural, "uid": uid});
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
        });
        Ok(ok(status))
    }

    fn delete_collection(&self) -> Result<ApiResponse, ApiError> {
        let (kind, namespace) = (&self.target.kind, self.target.namespace.as_deref());
        let items =
            self.api.delete_collection(kind, namespace, &self.list_options()?, &self.delete_options()?)?;
        let page = Page {
            items,
            revision: self.api.revision(),
            continue_token: String::new(),
            remaining_item_count: None,
        };
        Ok(ApiResponse::Page(kind.clone(), page))
    }

    fn bind(&self, key: &ObjectKey) -> Result<ApiResponse, ApiError> {
        let binding = body::object(self.headers, self.body)?;
        let node = object::str_at(&binding, "/target/name");
        if node.is_empty() {
            return Err(ApiError::bad_request("a Binding names its node in target.name"));
        }
        self.api.bind(key, node)?;
        Ok(ApiResponse::Json(StatusCode::CREATED, success()))
    }

    fn evict(&self, key: &ObjectKey) -> Result<ApiResponse, ApiError> {
        let eviction = body::optional_object(self.headers, self.body)?;
        let options = delete_options(&eviction["deleteOptions"], self.query)?;
        self.api.delete_of(&self.target.kind, key, &options)?;
        Ok(ApiResponse::Json(StatusCode::CREATED, success()))
    }

    /// Sets name and namespace from the path; refuses others.
    fn set_name_from_path(&self, object: &mut Value, name: Option<&str>) -> Result<(), ApiError> {
        let places = [("name", name), ("namespace", self.target.namespace.as_deref())];
        for (field, expected) in places.into_iter().filter_map(|(field, value)| Some((field, value?))) {
            let given = object::str_at(object, &format!("/metadata/{field}")).to_owned();
            if !given.is_empty() && given != expected {
                let message = format!(
                    "the {field} of the provided object ({given}) does not match the {field} sent on the request ({expected})"
                );
                return Err(ApiError::bad_request(message));
            }
            if object.is_object() {
                object::metadata(object).insert(field.to_owned(), json!(expected));
            }
        }
        Ok(())
    }

    fn write_options(&self) -> Result<WriteOptions, ApiError> {
        let dry_run = match self.query.get("dryRun") {
            "" => false,
            "All" => true,
            other => return Err(ApiError::bad_request(format!("dryRun {other:?} is not known: use All"))),
        };
        let skip = self.headers.get(SKIP_VALIDATION).is_some_and(|value| value == "true");
        let unknown_fields = match self.query.get("fieldValidation") {
            "Ignore" => UnknownFields::Ignore,
            "" | "Warn" => UnknownFields::Warn,
            "Strict" => UnknownFields::Strict,
            other => {
                let message =
                    format!("fieldValidation {other:?} is not known: use one of Ignore, Warn, Strict");
                return Err(ApiError::bad_request(message));
            }
        };
        let manager = body::field_manager(self.headers, self.query)?;
        Ok(WriteOptions {
            skip_validation: skip,
            dry_run,
            unknown_fields,
            manager,
            ..WriteOptions::default()
        })
    }

    /// Adds the warnings of a write to the response.
    fn add_warnings(&self, options: &WriteOptions) {
        self.warnings.borrow_mut().append(&mut options.warnings.borrow_mut());
    }

    fn delete_options(&self) -> Result<DeleteOptions, ApiError> {
        delete_options(&body::optional_object(self.headers, self.body)?, self.query)
    }
}

fn delete_options(body: &Value, query: &Query) -> Result<DeleteOptions, ApiError> {
    let in_query = Some(query.get("propagationPolicy")).filter(|text| !text.is_empty());
    let propagation = match body["propagationPolicy"].as_str().or(in_query).unwrap_or("Background") {
        "Background" => Propagation::Background,
        "Foreground" => Propagation::Foreground,
        "Orphan" => Propagation::Orphan,
        other => {
            let known = "Background, Foreground, Orphan";
            return Err(ApiError::bad_request(format!(
                "propagationPolicy {other:?} is not known: use one of {known}"
            )));
        }
    };
    let in_query = query.number("gracePeriodSeconds").and_then(|seconds| i64::try_from(seconds).ok());
    let text = |pointer: &str| Some(object::str_at(body, pointer).to_owned()).filter(|text| !text.is_empty());
    Ok(DeleteOptions {
        grace_seconds: body["gracePeriodSeconds"].as_i64().or(in_query),
        propagation,
        uid: text("/preconditions/uid"),
        resource_version: text("/preconditions/resourceVersion"),
    })
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

fn object_answer(object: Arc<Value>) -> ApiResponse {
    ApiResponse::Object(StatusCode::OK, object)
}
