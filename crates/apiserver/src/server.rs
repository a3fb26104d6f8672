//! The server: objects, controllers and listeners, or a mirror of a remote server with controllers.

mod api_server;
mod config;
mod credentials;
mod remote;

pub use api_server::{ApiServer, ServeHandle};
pub use config::{Config, StartError};
pub use credentials::Credentials;
pub use remote::RemoteApi;
