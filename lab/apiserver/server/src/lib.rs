//! The lab's embedded API server and controllers: in memory, not for production.
//!
//! [`ApiServer`] owns the [`Api`] (semantics of requests), runs the controllers that a cluster needs,
//! and serves HTTPS on any number of listeners. Each part uses only those below it: `server`, then
//! `controllers` beside `protocol`, `admission` (the [`Api`]), `storage`, `schema`, `objects`.
//!
//! Differences from Kubernetes: core events and `events.k8s.io` events are separate objects;
//! NetworkPolicies, Ingresses and PodDisruptionBudgets are stored but not enforced; RBAC has no check
//! for privilege escalation; CEL rules of custom resources are not evaluated (applying some returns a
//! warning); custom resource versions are converted by changing `apiVersion` only; OpenAPI has no
//! descriptions of built-in kinds; protobuf requests are accepted, but responses are JSON.

mod api_server;
mod config;
mod credentials;
mod remote;

pub use beeline_apiserver_admission::{
    Api, Applied, ApplyProblem, ApplyReport, DeleteOptions, ListOptions, Page, Propagation,
    ResourceVersionMatch, WatchOptions,
};
pub use beeline_apiserver_controllers::Component;
pub use beeline_apiserver_objects::{ApiError, Cause, Details, KindNames, ObjectKey, PatchKind};
pub use beeline_apiserver_protocol::{Certificate, LogQuery, LogSource, PodLogs};
pub use beeline_apiserver_schema::{Kind, Kinds};
pub use beeline_apiserver_storage::{EventKind, Watch, WatchEvent};

pub use api_server::{ApiServer, ServeHandle};
pub use config::{Config, StartError};
pub use credentials::Credentials;
pub use remote::RemoteApi;
