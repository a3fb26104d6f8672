//! The HTTPS protocol: TLS, authentication, authorization, routes, and the bodies of requests and
//! responses.

pub(crate) mod http;
pub(crate) mod identity;
pub(crate) mod kubeconfig;
mod logs;
mod rbac;
pub(crate) mod tls;

pub use logs::{LogQuery, LogSource, PodLogs};
pub use tls::Certificate;

#[cfg(test)]
mod tests;
