//! Results of the reconciler.

/// Result of one flush, resync or comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries written.
    pub written: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// Entries that were changed by others (resync and comparison only), as
    /// counted by `beeline_drift_total`.
    pub drift: u64,
    /// Pending and failed changes in all tables.
    pub outstanding: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: Report) {
        self.written += other.written;
        self.deleted += other.deleted;
        self.drift += other.drift;
        self.outstanding = other.outstanding;
    }
}

/// Number of entries of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableCount {
    /// Table name.
    pub name: &'static str,
    /// Capacity in entries.
    pub capacity: u32,
    /// Entries in the table, as far as known.
    pub entries: u64,
    /// Entries in the desired state.
    pub desired: u64,
    /// Changes not attempted yet, or waiting for another table.
    pub pending: u64,
    /// Changes that failed (the table is full, or the kernel returned an
    /// error).
    pub failed: u64,
}

/// Why a table differs from its desired state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncProblem {
    /// Table name.
    pub table: &'static str,
    /// Number of affected entries.
    pub entries: u64,
    /// The problem, its cause, and the next step.
    pub message: String,
}
