//! The last known cluster state on disk: a journal of changes, one JSON line
//! each, compacted when it has doubled in size. Writing costs O(change), and no
//! copy of the state is kept in memory.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use beeline_model::{Change, Kind, Object, ObjectName};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::warn;

/// Name of the journal in the state directory.
pub const FILE_NAME: &str = "cluster.journal";
/// Version of the file format.
const FORMAT: u32 = 1;
/// Lines queued for writing; then the watches block.
const QUEUE_LINES_MAX: usize = 16_384;
/// Maximum time before a line is written.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// The journal is compacted when it has doubled and grown by at least this.
const REWRITE_SLACK_BYTES: u64 = 4 << 20;
/// Above this size the journal is abandoned: such a cluster needs the API
/// server at start.
const FILE_BYTES_MAX: u64 = 1 << 30;

#[derive(Serialize, Deserialize)]
struct Header {
    beeline_journal: u32,
}

/// Why the journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// An I/O error.
    #[error("cannot read or write the journal {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system error.
        error: io::Error,
    },
    /// The file has another format.
    #[error("the file {} is not a journal of format {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
}

/// Records changes. Clones write to the same file.
#[derive(Clone, Debug)]
pub struct Journal {
    lines: Option<SyncSender<Vec<u8>>>,
}

impl Journal {
    /// Appends to the journal in this directory; without a directory nothing is
    /// recorded.
    pub fn open(dir: Option<&Path>) -> Journal {
        let Some(dir) = dir else { return Journal { lines: None } };
        let (lines, queue) = sync_channel(QUEUE_LINES_MAX);
        let dir = dir.to_owned();
        let started = std::thread::Builder::new().name("journal".into()).spawn(move || {
            if let Err(error) = write_all(&dir, &queue) {
                warn!("{error}; after a restart the agent cannot start without the API server");
            }
        });
        Journal { lines: started.ok().map(|_| lines) }
    }

    /// Records a change. Does nothing if the writer has stopped.
    pub fn record(&self, change: &Change) {
        if let (Some(lines), Ok(mut line)) = (&self.lines, serde_json::to_vec(change)) {
            line.push(b'\n');
            let _ = lines.send(line);
        }
    }
}

fn write_all(dir: &Path, queue: &Receiver<Vec<u8>>) -> Result<(), JournalError> {
    let path = dir.join(FILE_NAME);
    let failed = |error| JournalError::Io { path: path.clone(), error };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    // Compact the existing journal first: its last line may be truncated.
    let mut base = rewrite(dir)?;
    let mut size = base;
    let mut out = BufWriter::with_capacity(256 << 10, append(&path).map_err(failed)?);
    let mut flushed = Instant::now();
    loop {
        match queue.recv_timeout(FLUSH_INTERVAL.saturating_sub(flushed.elapsed())) {
            Ok(line) => {
                out.write_all(&line).map_err(failed)?;
                size += line.len() as u64;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return out.flush().map_err(failed),
        }
        // Flush also while lines keep arriving: on a busy cluster the file
        // would be minutes old otherwise.
        if flushed.elapsed() >= FLUSH_INTERVAL {
            out.flush().map_err(failed)?;
            flushed = Instant::now();
        }
        if size > base * 2 + REWRITE_SLACK_BYTES {
            out.flush().map_err(failed)?;
            base = rewrite(dir)?;
            size = base;
            out = BufWriter::with_capacity(256 << 10, append(&path).map_err(failed)?);
        }
        if size > FILE_BYTES_MAX {
            return Err(failed(io::Error::other("it is larger than 1 GiB")));
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Replaces the journal atomically with a compacted one; returns its size in
/// bytes. An unusable file is replaced by an empty journal.
fn rewrite(dir: &Path) -> Result<u64, JournalError> {
    let path = dir.join(FILE_NAME);
    let changes = load(dir).unwrap_or_else(|error| {
        warn!("{error}; starting a new journal");
        Vec::new()
    });
    let write = || -> io::Result<u64> {
        let temporary = dir.join(format!("{FILE_NAME}.new"));
        let _ = fs::remove_file(&temporary);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let mut out = BufWriter::new(file);
        serde_json::to_writer(&mut out, &Header { beeline_journal: FORMAT })?;
        out.write_all(b"\n")?;
        for change in &changes {
            serde_json::to_writer(&mut out, change)?;
            out.write_all(b"\n")?;
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(&path)?.metadata().map(|data| data.len())
    };
    write().map_err(|error| JournalError::Io { path: path.clone(), error })
}

/// The state in the journal, as one full listing per known kind; empty if there
/// is no journal. A truncated last line is ignored.
pub fn load(dir: &Path) -> Result<Vec<Change>, JournalError> {
    let path = dir.join(FILE_NAME);
    let failed = |error| JournalError::Io { path: path.clone(), error };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut lines = BufReader::new(file).split(b'\n');
    let header = lines.next().transpose().map_err(failed)?.unwrap_or_default();
    if !serde_json::from_slice::<Header>(&header).is_ok_and(|h| h.beeline_journal == FORMAT) {
        return Err(JournalError::Format { path });
    }
    let mut state = State::default();
    for (number, line) in lines.enumerate() {
        let line = line.map_err(failed)?;
        match serde_json::from_slice(&line) {
            Ok(change) => state.apply(change),
            Err(error) => {
                warn!(line = number + 2, %error, "invalid line in the journal {}: ignoring the rest", path.display());
                break;
            }
        }
    }
    Ok(state.into_changes())
}

/// The state after all changes.
#[derive(Default)]
struct State {
    kinds: BTreeMap<Kind, BTreeMap<ObjectName, (Object, bool)>>,
}

impl State {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Apply(object) => {
                let objects = self.kinds.entry(object.kind()).or_default();
                objects.insert(object.name(), (*object, true));
            }
            Change::Delete(kind, name) => drop(self.kinds.entry(kind).or_default().remove(&name)),
            Change::ResetStart(kind) => {
                self.kinds.entry(kind).or_default().values_mut().for_each(|(_, listed)| *listed = false);
            }
            Change::ResetEnd(kind) => self.kinds.entry(kind).or_default().retain(|_, (_, listed)| *listed),
        }
    }

    fn into_changes(self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (kind, objects) in self.kinds {
            changes.push(Change::ResetStart(kind));
            changes.extend(objects.into_values().map(|(object, _)| Change::Apply(Box::new(object))));
            changes.push(Change::ResetEnd(kind));
        }
        changes
    }
}

#[cfg(test)]
mod tests;
