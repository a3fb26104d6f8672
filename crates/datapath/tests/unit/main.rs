//! The packet path over the native body.

mod hostile;
mod paths;
mod world;
