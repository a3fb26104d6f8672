//! The query parameters `resourceVersion` and `resourceVersionMatch`.

use beeline_apiserver_admission::ResourceVersionMatch;
use beeline_apiserver_objects::{ApiError, Cause};
use serde_json::json;

use super::query::Query;

/// Resource version match of a list.
pub(super) fn of_list(query: &Query) -> Result<ResourceVersionMatch, ApiError> {
    let (version, version_match) = (query.get("resourceVersion"), query.get("resourceVersionMatch"));
    if !query.get("continue").is_empty() && !matches!(version, "" | "0") {
        let message = "specifying resource version is not allowed when using continue";
        return Err(ApiError::bad_request(message));
    }
    check_match(query, "list")?;
    let revision = match version {
        "" | "0" => return Ok(ResourceVersionMatch::MostRecent),
        text => parse(text)?,
    };
    let has_limit = query.number("limit").is_some_and(|limit| limit > 0);
    // Without `resourceVersionMatch`, a paginated list is exact and others are not older than the
    // version.
    Ok(if version_match == "Exact" || version_match.is_empty() && has_limit {
        ResourceVersionMatch::Exact(revision)
    } else {
        ResourceVersionMatch::NotOlderThan(revision)
    })
}

/// Refuses a watch with contradictory parameters.
pub(super) fn check_watch(query: &Query) -> Result<(), ApiError> {
    let version_match = query.get("resourceVersionMatch");
    if query.get("sendInitialEvents").is_empty() {
        if !version_match.is_empty() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(invalid(Cause::forbidden("resourceVersionMatch", why)));
        }
        return Ok(());
    }
    if version_match != "NotOlderThan" {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(invalid(Cause::forbidden("resourceVersionMatch", why)));
    }
    Ok(())
}

fn check_match(query: &Query, verb: &str) -> Result<(), ApiError> {
    if !query.get("sendInitialEvents").is_empty() {
        let why = format!("sendInitialEvents is forbidden for {verb}");
        return Err(invalid(Cause::forbidden("sendInitialEvents", why)));
    }
    let (version, version_match) = (query.get("resourceVersion"), query.get("resourceVersionMatch"));
    let forbid = |why: &str| Err(invalid(Cause::forbidden("resourceVersionMatch", why)));
    match version_match {
        "" => Ok(()),
        _ if !query.get("continue").is_empty() => {
            forbid("resourceVersionMatch is forbidden when continue is provided")
        }
        _ if version.is_empty() => {
            forbid("resourceVersionMatch is forbidden unless resourceVersion is provided")
        }
        "Exact" if version == "0" => {
            forbid("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"")
        }
        "Exact" | "NotOlderThan" => Ok(()),
        other => {
            let known = ["Exact", "NotOlderThan", ""];
            Err(invalid(Cause::unsupported("resourceVersionMatch", &json!(other), &known)))
        }
    }
}

fn parse(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        let why = "strconv.ParseUint: parsing a resource version: invalid syntax";
        ApiError::bad_request(format!("resourceVersion: Invalid value: {text:?}: {why}"))
    })
}

fn invalid(cause: Cause) -> ApiError {
    let mut error =
        ApiError::new(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {cause}"));
    error.details.group = "meta.k8s.io".to_owned();
    error.details.kind = "ListOptions".to_owned();
    error.details.causes = vec![cause];
    error
}
