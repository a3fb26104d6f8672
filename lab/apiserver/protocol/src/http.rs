//! Routing of requests, responses and watch streams.

mod auth;
mod body;
mod client_path;
mod discovery;
mod document;
mod handle;
mod log;
mod page;
mod params;
mod query;
mod resource;
mod resource_version;
mod response;
mod review;
mod routes;
mod serve;
mod state;
mod table;
mod target;
mod watch;

pub use serve::{Service, serve};
