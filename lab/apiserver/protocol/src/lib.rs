//! The HTTPS protocol: TLS, authentication, authorization, routes, and the bodies of requests and
//! responses.

pub mod http;
pub mod identity;
pub mod kubeconfig;
mod logs;
mod rbac;
pub mod tls;

pub use logs::{LogQuery, LogSource, PodLogs};
pub use tls::Certificate;

#[cfg(test)]
mod tests;
