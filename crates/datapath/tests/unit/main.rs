//! The packet path over the native body.

mod hostile;
mod outside;
mod paths;
mod shares;
mod world;
