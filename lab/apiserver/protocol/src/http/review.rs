//! Resources that are created but never stored: token and access reviews, and token requests of
//! service accounts.

use beeline_apiserver_admission::Api;
use beeline_apiserver_objects::{
    ApiError, Cause, ObjectKey,
    object::{self, str_at, strs_at},
};
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use super::params::PathParams;
use super::query::Query;
use super::response::ApiResponse;
use super::{auth, body};
use crate::{
    identity::{Authenticator, BoundObject, Claims, ISSUER, User},
    rbac::{self, Attributes},
};

/// Group, plural, kind, whether namespaced.
pub(super) type Resource = (&'static str, &'static str, &'static str, bool);

/// Group, plural, kind, whether namespaced.
pub(super) const RESOURCES: &[Resource] = &[
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", false),
    ("authentication.k8s.io", "tokenreviews", "TokenReview", false),
    ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview", true),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", false),
];

/// The token of a service account, a subresource.
pub(super) const TOKEN_REQUEST: Resource = ("authentication.k8s.io", "serviceaccounts", "TokenRequest", true);

/// The route of a resource.
pub(super) fn route(&(group, plural, kind, namespaced): &Resource) -> String {
    match kind {
        "TokenRequest" => format!("/api/v1/namespaces/{{namespace}}/{plural}/{{name}}/token"),
        _ if namespaced => format!("/apis/{group}/v1/namespaces/{{namespace}}/{plural}"),
        _ => format!("/apis/{group}/v1/{plural}"),
    }
}

/// Limits of a token's lifetime, as in Kubernetes.
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
const SECONDS_DEFAULT: i64 = 3600;

/// What a review is about.
pub(super) struct Target {
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    subresource: &'static str,
    namespace: String,
    name: String,
}

impl Target {
    pub fn of(&(group, plural, kind, _): &Resource, path: &PathParams) -> Self {
        let subresource = if kind == "TokenRequest" { "token" } else { "" };
        let (namespace, name) = (path.get("namespace").to_owned(), path.get("name").to_owned());
        Self { group, plural, kind, subresource, namespace, name }
    }
}

/// A review request.
pub(super) struct ReviewRequest<'a> {
    pub api: &'a Api,
    pub authenticator: &'a Authenticator,
    pub user: &'a User,
    pub target: &'a Target,
}

impl ReviewRequest<'_> {
    pub fn answer(
        &self,
        method: &Method,
        headers: &HeaderMap,
        query: &Query,
        text: &[u8],
    ) -> Result<ApiResponse, ApiError> {
        let target = self.target;
        if method != Method::POST {
            return Err(ApiError::method_not_allowed());
        }
        auth::authorize(self.api, self.user, &target.attributes())?;
        let mut review = body::object(headers, text)?;
        self.check_type(&mut review)?;
        let status = match target.kind {
            "TokenRequest" => {
                default_request(&mut review);
                self.token_request(&review, query.get("dryRun") == "All")?
            }
            "TokenReview" => self.token_review(&review),
            "SelfSubjectReview" => json!({"userInfo": self.user.to_json()}),
            "SelfSubjectRulesReview" => self.rules_review(&review)?,
            "SelfSubjectAccessReview" => self.access_review(self.user, &review)?,
            _ => self.access_review(&subject(&review)?, &review)?,
        };
        review["status"] = status;
        Ok(ApiResponse::Json(StatusCode::CREATED, review))
    }

    fn check_type(&self, review: &mut Value) -> Result<(), ApiError> {
        let Some(fields) = review.as_object_mut() else {
            return Err(ApiError::bad_request(format!("a {} must be a JSON object", self.target.kind)));
        };
        object::set_default(fields, "kind", self.target.kind);
        object::set_default(fields, "apiVersion", format!("{}/v1", self.target.group));
        object::set_default(fields, "metadata", json!({}));
        if fields["kind"] != self.target.kind {
            let (given, expected) = (&fields["kind"], self.target.kind);
            let message =
                format!("kind in the data ({given}) does not match the expected one ({expected:?})");
            return Err(ApiError::bad_request(message));
        }
        Ok(())
    }

    fn token_review(&self, review: &Value) -> Value {
        let requested = strs_at(review, "/spec/audiences");
        let audiences = if requested.is_empty() { vec![ISSUER] } else { requested };
        match self.authenticator.authenticate(str_at(review, "/spec/token"), &audiences) {
            Ok((user, accepted)) => {
                json!({"authenticated": true, "user": user.to_json(), "audiences": accepted})
            }
            Err(why) => json!({"authenticated": false, "user": {}, "error": why}),
        }
    }

    fn access_review(&self, user: &User, review: &Value) -> Result<Value, ApiError> {
        let attributes = requested_attributes(review)?;
        if self.target.kind == "LocalSubjectAccessReview" && attributes.namespace != self.target.namespace {
            let why = "must match metadata.namespace";
            let cause =
                Cause::invalid("spec.resourceAttributes.namespace", &json!(attributes.namespace), why);
            return Err(self.invalid("", cause));
        }
        let decision = rbac::authorize(self.api, user, &attributes);
        let mut status = json!({"allowed": decision.allowed});
        if !decision.reason.is_empty() {
            status["reason"] = json!(decision.reason);
        }
        Ok(status)
    }

    fn rules_review(&self, review: &Value) -> Result<Value, ApiError> {
        let namespace = str_at(review, "/spec/namespace");
        if namespace.is_empty() {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        let rules = rbac::rules_for(self.api, self.user, namespace);
        let (of_paths, of_resources): (Vec<Value>, Vec<Value>) =
            rules.into_iter().partition(|rule| rule.get("nonResourceURLs").is_some());
        Ok(json!({"resourceRules": of_resources, "nonResourceRules": of_paths, "incomplete": false}))
    }

    fn token_request(&self, request: &Value, dry_run: bool) -> Result<Value, ApiError> {
        let (namespace, name) = (&self.target.namespace, &self.target.name);
        let account = self.api.get("serviceaccounts", namespace, name)?;
        let seconds = object::i64_at(request, "/spec/expirationSeconds").unwrap_or(SECONDS_DEFAULT);
        let refuse = |why: &str| {
            Err(self.invalid(name, Cause::invalid("spec.expirationSeconds", &json!(seconds), why)))
        };
        if seconds < SECONDS_MIN {
            return refuse("may not specify a duration less than 10 minutes");
        }
        if seconds > SECONDS_MAX {
            return refuse("may not specify a duration larger than 2^32 seconds");
        }
        let audiences = strs_at(request, "/spec/audiences").into_iter().map(str::to_owned).collect();
        let now = object::seconds_since_epoch();
        let mut claims = Claims::new(namespace, bound_object(&account), audiences, now, seconds);
        self.bind(&mut claims, &request["spec"]["boundObjectRef"])?;
        let token = if dry_run { String::new() } else { self.authenticator.signer().sign(&claims) };
        Ok(json!({"token": token, "expirationTimestamp": object::format_time(claims.expires_at)}))
    }

    /// Binds the token to the object that the request references.
    fn bind(&self, claims: &mut Claims, reference: &Value) -> Result<(), ApiError> {
        if reference.is_null() {
            return Ok(());
        }
        let (kind, name) = (str_at(reference, "/kind"), str_at(reference, "/name"));
        let (plural, namespace) = match (str_at(reference, "/apiVersion"), kind) {
            ("v1", "Pod") => ("pods", claims.namespace.as_str()),
            ("v1", "Secret") => ("secrets", &*claims.namespace),
            ("v1", "Node") => ("nodes", ""),
            (version, _) => {
                let message = format!(
                    "cannot bind token for serviceaccount to {version}, Kind={kind}: only v1 Pods, Secrets and Nodes can be bound"
                );
                return Err(ApiError::bad_request(message));
            }
        };
        let found = self.api.get(plural, namespace, name)?;
        let uid = str_at(reference, "/uid");
        if !uid.is_empty() && uid != object::uid(&found) {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might \
                 have been deleted and then recreated"
            );
            return Err(ApiError::conflict(&*self.api.kind(plural)?, name, &why));
        }
        let bound = Some(bound_object(&found));
        match kind {
            "Secret" => claims.secret = bound,
            "Node" => claims.node = bound,
            _ => {
                let own = str_at(&found, "/spec/serviceAccountName");
                if own != self.target.name {
                    let account = ObjectKey::new("", &*self.target.name);
                    let message = format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        account.name
                    );
                    return Err(ApiError::bad_request(message));
                }
                claims.pod = bound;
                claims.node = self.node_of(&found);
            }
        }
        Ok(())
    }

    fn node_of(&self, pod: &Value) -> Option<BoundObject> {
        let node = Some(str_at(pod, "/spec/nodeName")).filter(|name| !name.is_empty())?;
        self.api.get("nodes", "", node).ok().map(|node| self::bound_object(&node))
    }

    fn invalid(&self, name: &str, cause: Cause) -> ApiError {
        let Target { group, kind, .. } = self.target;
        let mut error = ApiError::new(422, "Invalid", format!("{kind}.{group} {name:?} is invalid: {cause}"));
        error.details.group = (*group).to_owned();
        error.details.kind = (*kind).to_owned();
        error.details.name = name.to_owned();
        error.details.causes = vec![cause];
        error
    }
}

impl Target {
    fn attributes(&self) -> Attributes {
        // The subresource `token` belongs to the core group, like the service account.
        let group = if self.subresource.is_empty() { self.group } else { "" };
        Attributes {
            verb: "create".to_owned(),
            group: group.to_owned(),
            resource: self.plural.to_owned(),
            subresource: self.subresource.to_owned(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            path: String::new(),
        }
    }
}

fn bound_object(object: &Value) -> BoundObject {
    BoundObject { name: object::name(object).to_owned(), uid: object::uid(object).to_owned() }
}

fn default_request(request: &mut Value) {
    let spec = object::child_mut(request, "spec");
    object::set_default(spec, "expirationSeconds", SECONDS_DEFAULT);
    if strs_at(request, "/spec/audiences").is_empty() {
        object::child_mut(request, "spec").insert("audiences".to_owned(), json!([ISSUER]));
    }
}

fn subject(review: &Value) -> Result<User, ApiError> {
    let (name, groups) = (str_at(review, "/spec/user"), strs_at(review, "/spec/groups"));
    if name.is_empty() && groups.is_empty() {
        return Err(ApiError::bad_request("at least one of spec.user or spec.groups must be specified"));
    }
    let groups = groups.into_iter().map(str::to_owned).collect();
    Ok(User { name: name.to_owned(), groups, uid: str_at(review, "/spec/uid").to_owned(), ..User::default() })
}

fn requested_attributes(review: &Value) -> Result<Attributes, ApiError> {
    let spec = &review["spec"];
    let of = |part: &str, field: &str| str_at(spec, &format!("/{part}/{field}")).to_owned();
    match (spec["resourceAttributes"].is_object(), spec["nonResourceAttributes"].is_object()) {
        (true, false) => {
            let of = |field: &str| of("resourceAttributes", field);
            Ok(Attributes {
                verb: of("verb"),
                group: of("group"),
                resource: of("resource"),
                subresource: of("subresource"),
                namespace: of("namespace"),
                name: of("name"),
                path: String::new(),
            })
        }
        (false, true) => {
            let of = |field: &str| of("nonResourceAttributes", field);
            Ok(Attributes { verb: of("verb"), path: of("path"), ..Attributes::default() })
        }
        _ => Err(ApiError::bad_request(
            "exactly one of spec.nonResourceAttributes or spec.resourceAttributes must be specified",
        )),
    }
}
