//! Authentication and authorization of requests.

use beeline_apiserver_admission::Api;
use beeline_apiserver_objects::ApiError;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};

use super::query::Query;
use super::target::Target;
use crate::{
    identity::{Authenticator, ISSUER, User, service_account},
    rbac::{self, Attributes},
};

/// Authenticates the bearer token. There are no anonymous requests.
pub(super) fn authenticate(headers: &HeaderMap, authenticator: &Authenticator) -> Result<User, ApiError> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = given.map(|(_, token)| token.trim()).filter(|token| !token.is_empty());
    match token.map(|token| authenticator.authenticate(token, &[ISSUER])) {
        Some(Ok((user, _))) => Ok(user),
        Some(Err(why)) => {
            tracing::debug!(%why, "invalid bearer token");
            Err(unauthorized())
        }
        None => Err(unauthorized()),
    }
}

fn unauthorized() -> ApiError {
    ApiError::new(401, "Unauthorized", "Unauthorized")
}

/// The effective user: with `Impersonate-User` (`kubectl --as`) the impersonated one, if the user may
/// impersonate it.
pub(super) fn impersonated(headers: &HeaderMap, api: &Api, user: User) -> Result<User, ApiError> {
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let Some(name) = headers.get("impersonate-user").map(text) else { return Ok(user) };
    let groups: Vec<String> = headers.get_all("impersonate-group").iter().map(text).collect();
    let mut asked = vec![match service_account(&name) {
        Some((namespace, name)) => ("serviceaccounts", namespace.to_owned(), name.to_owned()),
        None => ("users", String::new(), name.clone()),
    }];
    asked.extend(groups.iter().map(|group| ("groups", String::new(), group.clone())));
    for (resource, namespace, name) in asked {
        let (verb, resource) = ("impersonate".to_owned(), resource.to_owned());
        let attributes = Attributes { verb, resource, namespace, name, ..Attributes::default() };
        authorize(api, &user, &attributes)?;
    }
    Ok(User::impersonated(&name, groups))
}

/// Refuses requests that the user is not authorized for.
pub(super) fn authorize(api: &Api, user: &User, attributes: &Attributes) -> Result<(), ApiError> {
    let decision = rbac::authorize(api, user, attributes);
    if decision.allowed {
        return Ok(());
    }
    let sentence = rbac::forbidden_message(user, attributes, &decision.reason);
    let resource = match attributes.group.as_str() {
        "" => attributes.resource.clone(),
        group => format!("{}.{group}", attributes.resource),
    };
    let message = match (attributes.path.as_str(), attributes.name.as_str()) {
        ("", "") => format!("{resource} is forbidden: {sentence}"),
        ("", name) => format!("{resource} {name:?} is forbidden: {sentence}"),
        _ => format!("forbidden: {sentence}"),
    };
    let mut error = ApiError::new(403, "Forbidden", message);
    error.details.group = attributes.group.clone();
    error.details.kind = attributes.resource.clone();
    error.details.name = attributes.name.clone();
    Err(error)
}

/// Authorization attributes of a request for an object or collection.
pub(super) fn attributes(method: &Method, target: &Target, query: &Query) -> Attributes {
    let watches = query.flag("watch");
    let verb = match (method.as_str(), &target.name) {
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", None) => "deletecollection",
        ("DELETE", Some(_)) => "delete",
        (_, None) if watches => "watch",
        (_, None) => "list",
        (_, Some(_)) if watches => "watch",
        _ => "get",
    };
    let own = target.kind.plural == "namespaces";
    Attributes {
        verb: verb.to_owned(),
        group: target.kind.group.to_string(),
        resource: target.kind.plural.to_string(),
        subresource: target.subresource.clone().unwrap_or_default(),
        // A Namespace object counts as being in itself.
        namespace: if own { target.name.clone() } else { target.namespace.clone() }.unwrap_or_default(),
        name: target.name.clone().or_else(|| name_from_field_selector(query)).unwrap_or_default(),
        path: String::new(),
    }
}

/// A list or watch with a field selector for one name is authorized for that name.
fn name_from_field_selector(query: &Query) -> Option<String> {
    let name = query.get("fieldSelector").strip_prefix("metadata.name=")?;
    let name = name.strip_prefix('=').unwrap_or(name);
    (!name.contains(',')).then(|| name.to_owned())
}

/// Authorization attributes of a non-resource request.
pub(super) fn path_attributes(method: &Method, path: &str) -> Attributes {
    let verb = method.as_str().to_lowercase();
    Attributes { verb, path: path.to_owned(), ..Attributes::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Signer;
    use crate::tests::cluster;

    fn check_header(header: &str) -> bool {
        let api = cluster();
        let authenticator = Authenticator::new(api, "secret".to_owned(), Signer::generate().unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, header.parse().unwrap());
        authenticate(&headers, &authenticator).is_ok()
    }

    #[test]
    fn unit_only_the_admin_token_authenticates() {
        assert!(check_header("Bearer secret"));
        assert!(check_header("bearer secret"));
        assert!(!check_header("Bearer secre"));
        assert!(!check_header("Bearer secrets"));
        assert!(!check_header("Basic secret"));
        assert!(!check_header("Bearer "));
        assert!(!check_header(""));
    }

    #[test]
    fn unit_requests_map_to_verbs_and_resources() {
        let check = |method: Method, path: &str, query: &str, expected: &str| {
            let target = super::super::routes::tests::target(path).unwrap();
            let one = attributes(&method, &target, &Query::parse(query));
            let shown = format!(
                "{} {}/{}/{} {} {}",
                one.verb, one.group, one.resource, one.subresource, one.namespace, one.name
            );
            assert_eq!(shown, expected, "{path}");
        };
        check(Method::GET, "/api/v1/pods", "", "list /pods/  ");
        check(Method::GET, "/api/v1/pods", "watch=1&fieldSelector=metadata.name%3Da", "watch /pods/  a");
        check(Method::GET, "/api/v1/namespaces/a/pods/b/status", "", "get /pods/status a b");
        check(Method::DELETE, "/api/v1/namespaces/a/pods", "", "deletecollection /pods/ a ");
        check(Method::PATCH, "/apis/apps/v1/namespaces/a/deployments/w", "", "patch apps/deployments/ a w");
        check(Method::DELETE, "/api/v1/namespaces/a", "", "delete /namespaces/ a a");
    }
}
