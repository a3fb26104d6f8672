//! The lab's embedded API server and controllers: in memory, not for production.
//!
//! [`ApiServer`] owns the [`Api`] (semantics of requests), runs the controllers that a cluster needs,
//! and serves HTTPS on any number of listeners. Layers from the top: `server`, `http` (protocol),
//! `api` (semantics), `store` (objects and their history). The `controllers` use `api` directly, like
//! `http`.
//!
//! Differences from Kubernetes: core events and `events.k8s.io` events are separate objects;
//! NetworkPolicies, Ingresses and PodDisruptionBudgets are stored but not enforced; RBAC has no check
//! for privilege escalation; CEL rules of custom resources are not evaluated (applying some returns a
//! warning); custom resource versions are converted by changing `apiVersion` only; OpenAPI has no
//! descriptions of built-in kinds; protobuf requests are accepted, but responses are JSON.

mod admission;
mod allocate;
mod api;
mod apply;
mod controllers;
mod credentials;
mod custom;
mod defaults;
mod error;
mod fields;
mod http;
mod identity;
mod kinds;
mod kubeconfig;
mod logs;
mod object;
mod openapi;
mod patch;
mod protobuf;
mod rbac;
mod remote;
mod selector;
mod server;
mod service;
mod store;
mod tls;
mod validate;

pub use api::{
    Api, DeleteOptions, ListOptions, Page, PatchKind, Propagation, ResourceVersionMatch, WatchOptions,
};
pub use apply::{Applied, ApplyProblem, ApplyReport};
pub use credentials::Credentials;
pub use error::{ApiError, Cause, Details};
pub use kinds::{Kind, Kinds};
pub use logs::{LogQuery, LogSource, PodLogs};
pub use object::ObjectKey;
pub use remote::RemoteApi;
pub use server::{ApiServer, Certificate, Component, Config, ServeHandle, StartError};
pub use store::{EventKind, Watch, WatchEvent};
