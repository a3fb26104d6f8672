//! Kernel parameters (sysctl), by their dotted names, in the network namespace
//! of the calling thread.
//!
//! As in sysctl(8), a dot inside a component (`eth0.100`) is written as a
//! slash: `net.ipv4.conf.eth0/100.rp_filter`.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a parameter could not be read or written.
#[derive(Debug, Error)]
#[error("cannot {operation} sysctl {name}: {source}")]
pub struct SysctlError {
    operation: &'static str,
    name: String,
    /// The error of the system call.
    pub source: io::Error,
}

/// A parameter and its value before it was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSetting {
    /// Dotted name.
    pub name: String,
    /// The previous value.
    pub value: String,
}

/// The value of a parameter, without the trailing newline.
pub fn get(name: &str) -> Result<String, SysctlError> {
    let read = path(name).and_then(std::fs::read_to_string);
    read.map(|text| text.trim_end().to_owned()).map_err(failed("read", name))
}

/// Sets a parameter. It is not written if it has this value.
pub fn set(name: &str, value: &str) -> Result<(), SysctlError> {
    set_and_save(name, value, &mut Vec::new())
}

/// Sets a parameter. If its value changes, adds the previous value to `saved`,
/// unless `saved` has one for this parameter.
pub fn set_and_save(name: &str, value: &str, saved: &mut Vec<SavedSetting>) -> Result<(), SysctlError> {
    let before = get(name)?;
    if before == value {
        return Ok(());
    }
    path(name).and_then(|path| std::fs::write(path, value)).map_err(failed("write", name))?;
    if !saved.iter().any(|known| known.name == name) {
        saved.push(SavedSetting { name: name.to_owned(), value: before });
    }
    Ok(())
}

/// Restores the values that [`set_and_save`] saved, the last one first. Tries
/// all and returns every error. It is no error if a parameter no longer
/// exists, for example because its device was deleted.
pub fn restore(saved: &[SavedSetting]) -> Vec<SysctlError> {
    let mut errors = Vec::new();
    for setting in saved.iter().rev() {
        match set(&setting.name, &setting.value) {
            Err(error) if error.source.kind() != io::ErrorKind::NotFound => errors.push(error),
            _ => {}
        }
    }
    errors
}

fn path(name: &str) -> io::Result<PathBuf> {
    let swapped: String = name
        .chars()
        .map(|letter| match letter {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    if swapped.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a dotted sysctl name"));
    }
    Ok(PathBuf::from("/proc/sys").join(swapped))
}

fn failed(operation: &'static str, name: &str) -> impl FnOnce(io::Error) -> SysctlError {
    let name = name.to_owned();
    move |source| SysctlError { operation, name, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_names_become_paths_and_cannot_leave_proc_sys() {
        let found = path("net.ipv4.conf.eth0/100.rp_filter").unwrap();
        assert_eq!(found, PathBuf::from("/proc/sys/net/ipv4/conf/eth0.100/rp_filter"));
        for bad in ["", ".a", "a..b", "a.//.b"] {
            assert!(path(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn unit_reads_and_names_what_is_missing() {
        assert!(!get("kernel.osrelease").unwrap().is_empty());
        let error = get("net.no.such").unwrap_err().to_string();
        assert!(error.contains("net.no.such"), "{error}");
    }
}
