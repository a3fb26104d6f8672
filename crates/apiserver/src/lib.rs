//! The lab's embedded Kubernetes API and controllers; in memory, not for production.
//!
//! [`ApiServer`] is the whole: it owns the [`Api`] (what a request does to an object), runs the
//! controllers a cluster needs, and serves HTTPS on any number of listeners. Reads top-down:
//! `server` -> `http` (protocol) -> `api` (semantics) -> `store` (objects and their history);
//! `controllers` stand beside `http` as another user of `api`.
//!
//! Where it differs from Kubernetes, and says so: `events.k8s.io` and core events are two sets of
//! objects; network policies, ingresses and disruption budgets are stored, and nobody acts on them;
//! whoever may write roles may write any (no check of escalation);
//! CEL rules of custom kinds are not evaluated (whoever applies some is warned), and their versions
//! convert by name alone; OpenAPI holds no prose about built-in kinds; bodies in protobuf are read, but
//! answers are JSON.

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
