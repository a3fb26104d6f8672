//! What the reconciler did and what it could not do.

/// What one flush or resync did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries written.
    pub written: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// Entries that were not as we left them (resync only): what
    /// `beeline_drift_total` counts.
    pub drift: u64,
    /// Changes that are still to be done, in all tables.
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

/// How far one table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableCount {
    /// Table name.
    pub name: &'static str,
    /// Capacity in entries, as the layout says.
    pub capacity: u32,
    /// Entries that are in the table, as far as we know.
    pub entries: u64,
    /// Entries that should be in the table.
    pub desired: u64,
    /// Changes not tried yet, or waiting for another table.
    pub pending: u64,
    /// Changes that failed (the table is full, the kernel refused).
    pub failed: u64,
}

/// Why part of a table is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncProblem {
    /// Table name.
    pub table: &'static str,
    /// How many entries have the problem.
    pub entries: u64,
    /// What, why, and the next step.
    pub message: String,
}
