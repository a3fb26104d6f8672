//! The node agent: wires source, plan, sync and kernel together, and serves
//! the node's socket.

pub mod disk;
pub mod drops;
pub mod endpoints;
pub mod http;
pub mod metrics;
pub mod options;
pub mod privileges;
pub mod server;
