//! JSON state files, replaced atomically.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Replaces the file atomically: a reader, and the next agent after a crash,
/// sees either the old or the new content. The file is not synced to disk,
/// which would add disk latency to every CNI call. Pods do not survive a power
/// loss either, and a file that is truncated by one is set aside at the next
/// start. The cluster state that must survive is in the journal of
/// `beeline_source`, which is synced whenever it is rewritten whole; the lines
/// appended since then may be lost with the power.
pub fn write<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    write_temporary(&temporary, value)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}; check the disk and the directory's owner", path.display()))
}

/// Reads the file. `None` if it does not exist.
pub fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("cannot open {}", path.display()))?,
    };
    let value = serde_json::from_reader(BufReader::new(file));
    value
        .map(Some)
        .with_context(|| format!("{} is corrupt; move it away and restart the agent", path.display()))
}

fn write_temporary<T: Serialize>(temporary: &Path, value: &T) -> io::Result<()> {
    let file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(temporary)?;
    let mut writer = BufWriter::new(file);
    serde_json::to_writer(&mut writer, value)?;
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_what_is_written_is_read_and_damage_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.json");
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), None);
        write(&path, &vec![1, 2]).unwrap();
        write(&path, &vec![3]).unwrap();
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), Some(vec![3]));
        fs::write(&path, "[3").unwrap();
        assert!(format!("{:#}", read::<Vec<u32>>(&path).unwrap_err()).contains("x.json"));
    }
}
