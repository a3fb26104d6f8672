//! Traffic for the tests of whole packets' ways: a small cluster
//! ([`cluster`]), probes through it ([`probe`], [`matrix`]) that this process
//! makes itself with sockets inside the lab's namespaces, and captures of
//! what travelled ([`capture`], [`packet`]).

#![allow(dead_code, reason = "not every test crate uses all of it")]
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

pub mod capture;
pub mod cluster;
pub mod errors;
pub mod frame;
pub mod matrix;
pub mod packet;
pub mod ping;
pub mod probe;
