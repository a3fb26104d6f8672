//! The packet path over the native body.

mod host;
mod hostile;
mod outside;
mod paths;
mod shares;
mod world;
