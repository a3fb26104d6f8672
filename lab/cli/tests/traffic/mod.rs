//! Connectivity tests: a small cluster ([`cluster`]), probes ([`probe`],
//! [`matrix`]) sent by the test process with sockets in the lab's network
//! namespaces, and captures ([`capture`], [`packet`]).

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
