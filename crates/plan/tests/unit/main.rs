//! The planner with reconciler and tables in memory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod frontends;
mod limits;
mod maglev;
mod order;
mod stories;
mod world;
