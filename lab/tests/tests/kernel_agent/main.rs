//! The real agent in network namespaces of the test, with a real API server and
//! the CNI plugin: pod lifecycle, restarts of the agent, drift and failures.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod drift;
mod failures;
mod lifecycle;
mod restarts;
mod world;
