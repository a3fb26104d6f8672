//! Objects in memory and their history.

mod store;

pub use store::{EventKind, Watch, WatchEvent};
pub use store::{SharedStore, Store, WatchStart};
