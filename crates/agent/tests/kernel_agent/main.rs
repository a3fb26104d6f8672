//! The real agent in namespaces of the test's own, with a real API server and
//! the plugin: a pod's life, the agent's deaths, and bad days.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod drift;
mod failures;
mod lifecycle;
mod restarts;
mod world;
