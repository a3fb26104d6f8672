//! Questions that are asked as objects and never stored: whose token this is, who may do what, and a
//! service account's request for a token.

use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use super::query::Query;
use super::{Answer, auth, body};
use crate::identity::{Authenticator, Bound, Claims, ISSUER, User};
use crate::object::{self, ObjectKey, strings, text};
use crate::rbac::{self, Attributes};
use crate::{Api, ApiError, Cause};

/// Group, plural, kind, whether in a namespace.
pub(super) const RESOURCES: &[(&str, &str, &str, bool)] = &[
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", false),
    ("authentication.k8s.io", "tokenreviews", "TokenReview", false),
    ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview", true),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", false),
];

/// Bounds of a token's life, as Kubernetes has them.
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
const SECONDS_DEFAULT: i64 = 3600;

/// A question's path, taken apart.
pub(super) struct Target {
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    subresource: &'static str,
    namespace: String,
    name: String,
}

/// The question that a path asks; none for objects that are stored.
pub(super) fn target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (group, namespace, plural) = match parts.as_slice() {
        ["api", "v1", "namespaces", namespace, "serviceaccounts", name, "token"] => {
            return Some(Target {
                group: "authentication.k8s.io",
                plural: "serviceaccounts",
                kind: "TokenRequest",
                subresource: "token",
                namespace: super::query::decode(namespace),
                name: super::query::decode(name),
            });
        }
        ["apis", group, "v1", "namespaces", namespace, plural] => (group, *namespace, plural),
        ["apis", group, "v1", plural] => (group, "", plural),
        _ => return None,
    };
    let found = RESOURCES.iter().find(|(one, name, _, namespaced)| {
        one == group && name == plural && *namespaced != namespace.is_empty()
    });
    found.map(|&(group, plural, kind, _)| Target {
        group,
        plural,
        kind,
        subresource: "",
        namespace: super::query::decode(namespace),
        name: String::new(),
    })
}

/// Who asks what, and of whom.
pub(super) struct Asked<'a> {
    pub api: &'a Api,
    pub door: &'a Authenticator,
    pub user: &'a User,
    pub target: &'a Target,
}

impl Asked<'_> {
    pub fn answer(
        &self,
        method: &Method,
        headers: &HeaderMap,
        query: &Query,
        text: &[u8],
    ) -> Result<Answer, ApiError> {
        let target = self.target;
        if method != Method::POST {
            return Err(ApiError::method_not_allowed());
        }
        auth::check(self.api, self.user, &target.attributes())?;
        let mut question = body::object(headers, text)?;
        self.check_type(&mut question)?;
        let status = match target.kind {
            "TokenRequest" => {
                default_request(&mut question);
                self.token(&question, query.text("dryRun") == "All")?
            }
            "TokenReview" => self.whose(&question),
            "SelfSubjectReview" => json!({"userInfo": self.user.to_json()}),
            "SelfSubjectRulesReview" => self.rules(&question)?,
            "SelfSubjectAccessReview" => self.may(self.user, &question)?,
            _ => self.may(&subject(&question)?, &question)?,
        };
        question["status"] = status;
        Ok(Answer::Json(StatusCode::CREATED, question))
    }

    fn check_type(&self, question: &mut Value) -> Result<(), ApiError> {
        let Some(fields) = question.as_object_mut() else {
            return Err(ApiError::bad_request(format!("a {} must be a JSON object", self.target.kind)));
        };
        object::default_to(fields, "kind", self.target.kind);
        object::default_to(fields, "apiVersion", format!("{}/v1", self.target.group));
        object::default_to(fields, "metadata", json!({}));
        if fields["kind"] != self.target.kind {
            let (given, expected) = (&fields["kind"], self.target.kind);
            let message =
                format!("kind in the data ({given}) does not match the expected one ({expected:?})");
            return Err(ApiError::bad_request(message));
        }
        Ok(())
    }

    fn whose(&self, question: &Value) -> Value {
        let asked = strings(question, "/spec/audiences");
        let audiences = if asked.is_empty() { vec![ISSUER] } else { asked };
        match self.door.user(text(question, "/spec/token"), &audiences) {
            Ok((user, meant)) => json!({"authenticated": true, "user": user.to_json(), "audiences": meant}),
            Err(why) => json!({"authenticated": false, "user": {}, "error": why}),
        }
    }

    fn may(&self, user: &User, question: &Value) -> Result<Value, ApiError> {
        let wanted = wanted(question)?;
        if self.target.kind == "LocalSubjectAccessReview" && wanted.namespace != self.target.namespace {
            let why = "must match metadata.namespace";
            let cause = Cause::invalid("spec.resourceAttributes.namespace", &json!(wanted.namespace), why);
            return Err(self.invalid("", cause));
        }
        let decision = rbac::decide(self.api, user, &wanted);
        let mut status = json!({"allowed": decision.allowed});
        if !decision.reason.is_empty() {
            status["reason"] = json!(decision.reason);
        }
        Ok(status)
    }

    fn rules(&self, question: &Value) -> Result<Value, ApiError> {
        let namespace = text(question, "/spec/namespace");
        if namespace.is_empty() {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        let rules = rbac::rules_of(self.api, self.user, namespace);
        let (of_paths, of_resources): (Vec<Value>, Vec<Value>) =
            rules.into_iter().partition(|rule| rule.get("nonResourceURLs").is_some());
        Ok(json!({"resourceRules": of_resources, "nonResourceRules": of_paths, "incomplete": false}))
    }

    fn token(&self, request: &Value, dry_run: bool) -> Result<Value, ApiError> {
        let (namespace, name) = (&self.target.namespace, &self.target.name);
        let account = self.api.get("serviceaccounts", namespace, name)?;
        let seconds = object::number(request, "/spec/expirationSeconds").unwrap_or(SECONDS_DEFAULT);
        let refuse = |why: &str| {
            Err(self.invalid(name, Cause::invalid("spec.expirationSeconds", &json!(seconds), why)))
        };
        if seconds < SECONDS_MIN {
            return refuse("may not specify a duration less than 10 minutes");
        }
        if seconds > SECONDS_MAX {
            return refuse("may not specify a duration larger than 2^32 seconds");
        }
        let audiences = strings(request, "/spec/audiences").into_iter().map(str::to_owned).collect();
        let now = object::seconds_since_epoch();
        let mut claims = Claims::new(namespace, bound(&account), audiences, now, seconds);
        self.bind(&mut claims, &request["spec"]["boundObjectRef"])?;
        let token = if dry_run { String::new() } else { self.door.signer().sign(&claims) };
        Ok(json!({"token": token, "expirationTimestamp": object::format_seconds(claims.expires)}))
    }

    /// Ties the token's life to the object that the request names.
    fn bind(&self, claims: &mut Claims, reference: &Value) -> Result<(), ApiError> {
        if reference.is_null() {
            return Ok(());
        }
        let (kind, name) = (text(reference, "/kind"), text(reference, "/name"));
        let (plural, namespace) = match (text(reference, "/apiVersion"), kind) {
            ("v1", "Pod") => ("pods", claims.namespace.as_str()),
            ("v1", "Secret") => ("secrets", &*claims.namespace),
            ("v1", "Node") => ("nodes", ""),
            (version, _) => {
                let message = format!(
                    "cannot bind token for serviceaccount to {version}, Kind={kind}: a Pod, a Secret or a Node of v1 can be named"
                );
                return Err(ApiError::bad_request(message));
            }
        };
        let found = self.api.get(plural, namespace, name)?;
        let uid = text(reference, "/uid");
        if !uid.is_empty() && uid != object::uid(&found) {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might \
                 have been deleted and then recreated"
            );
            return Err(ApiError::conflict(&*self.api.kind(plural)?, name, &why));
        }
        let bound = Some(bound(&found));
        match kind {
            "Secret" => claims.secret = bound,
            "Node" => claims.node = bound,
            _ => {
                let own = text(&found, "/spec/serviceAccountName");
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

    fn node_of(&self, pod: &Value) -> Option<Bound> {
        let node = Some(text(pod, "/spec/nodeName")).filter(|name| !name.is_empty())?;
        self.api.get("nodes", "", node).ok().map(|node| self::bound(&node))
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
        // The token of a service account is a part of it, so of the core group.
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

fn bound(object: &Value) -> Bound {
    Bound { name: object::name(object).to_owned(), uid: object::uid(object).to_owned() }
}

fn default_request(request: &mut Value) {
    let spec = object::child(request, "spec");
    object::default_to(spec, "expirationSeconds", SECONDS_DEFAULT);
    if strings(request, "/spec/audiences").is_empty() {
        object::child(request, "spec").insert("audiences".to_owned(), json!([ISSUER]));
    }
}

fn subject(question: &Value) -> Result<User, ApiError> {
    let (name, groups) = (text(question, "/spec/user"), strings(question, "/spec/groups"));
    if name.is_empty() && groups.is_empty() {
        return Err(ApiError::bad_request("at least one of spec.user or spec.groups must be specified"));
    }
    let groups = groups.into_iter().map(str::to_owned).collect();
    Ok(User { name: name.to_owned(), groups, uid: text(question, "/spec/uid").to_owned(), ..User::default() })
}

fn wanted(question: &Value) -> Result<Attributes, ApiError> {
    let spec = &question["spec"];
    let of = |part: &str, field: &str| text(spec, &format!("/{part}/{field}")).to_owned();
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
