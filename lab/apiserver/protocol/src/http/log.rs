//! `pods/NAME/log`: selects the container and returns its log.

use std::convert::Infallible;

use axum::body::Body;
use beeline_apiserver_admission::Api;
use beeline_apiserver_objects::{
    ApiError, ObjectKey,
    object::{array_at, str_at},
};
use futures::StreamExt;
use http::Method;
use serde_json::Value;

use super::query::Query;
use super::response::ApiResponse;
use super::target::Target;
use crate::{LogQuery, PodLogs};

/// Whether the request is for a log.
pub(super) fn is_log_request(target: &Target) -> bool {
    target.kind.plural == "pods"
        && target.kind.group.is_empty()
        && target.subresource.as_deref() == Some("log")
}

pub(super) fn answer(
    api: &Api,
    logs: Option<&dyn PodLogs>,
    method: &Method,
    target: &Target,
    query: &Query,
) -> Result<ApiResponse, ApiError> {
    if method != Method::GET {
        return Err(ApiError::method_not_allowed());
    }
    let key =
        ObjectKey::new(target.namespace.clone().unwrap_or_default(), target.name.clone().unwrap_or_default());
    let pod = api.get_of(&target.kind, &key)?;
    let options = log_query(&pod, &key, query)?;
    let logs =
        logs.ok_or_else(|| ApiError::new(503, "ServiceUnavailable", "this server has no logs of pods"))?;
    let log = logs.open(&options).ok_or_else(|| no_log_error(&pod, &options))?;
    Ok(ApiResponse::Log(Body::from_stream(log.map(Ok::<_, Infallible>))))
}

fn log_query(pod: &Value, key: &ObjectKey, query: &Query) -> Result<LogQuery, ApiError> {
    let number = |name: &str| match query.get(name) {
        "" => Ok(None),
        text => match text.parse::<i64>() {
            Ok(number) if number >= 0 => Ok(Some(number.unsigned_abs())),
            _ => Err(ApiError::bad_request(format!(
                "{name}: invalid value {text:?}: must be a whole number from 0"
            ))),
        },
    };
    let since_time = Some(query.get("sinceTime").to_owned()).filter(|time| !time.is_empty());
    let since_seconds = number("sinceSeconds")?;
    if since_time.is_some() && since_seconds.is_some() {
        return Err(ApiError::bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    if let Some(time) =
        since_time.as_deref().filter(|time| time.parse::<k8s_openapi::jiff::Timestamp>().is_err())
    {
        return Err(ApiError::bad_request(format!(
            "sinceTime: {time:?} is not a time such as 2006-01-02T15:04:05Z"
        )));
    }
    Ok(LogQuery {
        namespace: key.namespace.clone(),
        pod: key.name.clone(),
        container: container(pod, key, query.get("container"))?,
        previous: query.flag("previous"),
        follow: query.flag("follow"),
        timestamps: query.flag("timestamps"),
        tail_lines: number("tailLines")?,
        since_seconds,
        since_time,
        limit_bytes: number("limitBytes")?,
    })
}

/// The container: the named one, or the only one.
fn container(pod: &Value, key: &ObjectKey, named: &str) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<String> {
        array_at(pod, list).iter().map(|container| str_at(container, "/name").to_owned()).collect()
    };
    let (main, init) = (names("/spec/containers"), names("/spec/initContainers"));
    if named.is_empty() {
        if let [only] = main.as_slice()
            && init.is_empty()
        {
            return Ok(only.clone());
        }
        let mut choice = format!("choose one of: [{}]", main.join(" "));
        if !init.is_empty() {
            choice += &format!(" or one of the init containers: [{}]", init.join(" "));
        }
        let message = format!("a container name must be specified for pod {}, {choice}", key.name);
        return Err(ApiError::bad_request(message));
    }
    if main.iter().chain(&init).any(|name| name == named) {
        return Ok(named.to_owned());
    }
    Err(ApiError::bad_request(format!("container {named} is not valid for pod {}", key.name)))
}

/// Error for a log that does not exist.
fn no_log_error(pod: &Value, query: &LogQuery) -> ApiError {
    let LogQuery { pod: name, container, .. } = query;
    if query.previous {
        let message = format!("previous terminated container {container:?} in pod {name:?} not found");
        return ApiError::bad_request(message);
    }
    let mut statuses = array_at(pod, "/status/containerStatuses")
        .iter()
        .chain(array_at(pod, "/status/initContainerStatuses"));
    let status = statuses.find(|status| str_at(status, "/name") == container);
    let reason = status.map(|status| str_at(status, "/state/waiting/reason")).unwrap_or_default();
    let reason = if reason.is_empty() { "it has not been scheduled yet" } else { reason };
    ApiError::bad_request(format!("container {container:?} in pod {name:?} is waiting to start: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(pod: &Value, query: &str, expected: &str) {
        let shown = match log_query(pod, &ObjectKey::new("n", "p"), &Query::parse(query)) {
            Ok(options) => {
                format!("{} {:?} {:?}", options.container, options.tail_lines, options.since_seconds)
            }
            Err(error) => format!("{} {}", error.code, error.message),
        };
        assert_eq!(shown, expected, "{query}");
    }

    #[test]
    fn unit_a_log_names_its_container_unless_there_is_one() {
        let one = json!({"spec": {"containers": [{"name": "a"}]}});
        check(&one, "", "a None None");
        check(&one, "container=a&tailLines=5&sinceSeconds=9", "a Some(5) Some(9)");
        check(&one, "container=b", "400 container b is not valid for pod p");
        check(&one, "tailLines=-1", "400 tailLines: invalid value \"-1\": must be a whole number from 0");
        check(&one, "sinceTime=x", "400 sinceTime: \"x\" is not a time such as 2006-01-02T15:04:05Z");
        let two = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        check(&two, "container=i", "i None None");
        let words = "400 a container name must be specified for pod p, \
                     choose one of: [a b] or one of the init containers: [i]";
        check(&two, "", words);
    }
}
