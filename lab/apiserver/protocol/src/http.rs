//! Routing of requests, responses and watch streams.

mod auth;
mod body;
mod discovery;
mod log;
mod page;
mod query;
mod resource;
mod resource_version;
mod response;
mod review;
mod route;
mod serve;
mod service;
mod table;
mod watch;

pub use serve::serve;
pub use service::Service;
