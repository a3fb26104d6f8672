//! The node agent: wires source, plan, sync and kernel together, and serves
//! the node's socket.
//!
//! Start reading at `run` (start-up order), then `threads` (event sources),
//! `engine` (the state and everything that changes it), `host` and `datapath`
//! (what it acts on).

pub mod configuration;
pub mod datapath;
pub mod disk;
pub mod drops;
pub mod endpoints;
pub mod engine;
pub mod health_check_node_port;
pub mod host;
pub mod http;
pub mod memory;
pub mod metrics;
pub mod options;
pub mod privileges;
pub mod run;
pub mod server;
pub mod shared;
mod snat_ports;
pub mod stale_sockets;
pub mod state;
pub mod takeover;
pub mod threads;
