//! State files that outlive the agent. An unusable file is set aside and
//! reported; the agent continues without it.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use beeline_kernel::sysctl::SavedSetting;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::disk;
use crate::endpoints::State;

/// Addresses and attachments.
const ENDPOINTS: &str = "endpoints.json";
/// Sysctls of the node before Beeline changed them.
const SYSCTLS: &str = "sysctls.json";

/// The state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory; creates it if it does not exist.
    pub fn open(path: &Path) -> anyhow::Result<StateDir> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
            format!("cannot create the state directory {}; see --state-dir", path.display())
        })?;
        Ok(StateDir { path: path.to_owned() })
    }

    /// Locks the directory against other agents, until the returned value is
    /// dropped.
    pub fn lock(&self) -> anyhow::Result<Flock<File>> {
        let path = self.path.join("agent.lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
            anyhow::anyhow!(
                "{} is locked by another agent ({error}); only one agent may run on a node",
                path.display()
            )
        })
    }

    /// The last written attachments. `None` if there are none or the file is
    /// unusable.
    pub fn endpoints(&self) -> Option<State> {
        self.read(ENDPOINTS)
    }

    /// Writes the attachments.
    pub fn set_endpoints(&self, state: &State) -> anyhow::Result<()> {
        disk::write(&self.path.join(ENDPOINTS), state)
    }

    /// Sets the file of attachments aside.
    pub fn discard_endpoints(&self, error: &anyhow::Error) {
        self.set_aside(ENDPOINTS, error);
    }

    /// The node's sysctls before Beeline changed them.
    pub fn sysctls(&self) -> Vec<SavedSetting> {
        self.read(SYSCTLS).unwrap_or_default()
    }

    /// Writes the previous sysctls.
    pub fn set_sysctls(&self, previous: &[SavedSetting]) -> anyhow::Result<()> {
        self.write(SYSCTLS, &previous)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        disk::read(&self.path.join(name)).unwrap_or_else(|error| {
            self.set_aside(name, &error);
            None
        })
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> anyhow::Result<()> {
        disk::write(&self.path.join(name), value)
    }

    fn set_aside(&self, name: &str, error: &anyhow::Error) {
        let (path, aside) = (self.path.join(name), self.path.join(format!("{name}.unusable")));
        match fs::rename(&path, &aside) {
            Ok(()) => {
                warn!("{} is unusable and was renamed to {}: {error:#}", path.display(), aside.display())
            }
            Err(also) => warn!("{} is unusable: {error:#}; cannot rename it: {also}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_a_second_agent_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let held = state.lock().unwrap();
        assert!(state.lock().unwrap_err().to_string().contains("another agent"));
        drop(held);
        state.lock().unwrap();
    }

    #[test]
    fn unit_an_unusable_file_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(&directory.path().join("a/b")).unwrap();
        assert!(state.endpoints().is_none() && state.sysctls().is_empty());
        let previous = vec![SavedSetting { name: "net.ipv4.ip_forward".into(), value: "0".into() }];
        state.set_sysctls(&previous).unwrap();
        assert_eq!(state.sysctls(), previous);
        fs::write(directory.path().join("a/b/sysctls.json"), "{torn").unwrap();
        assert!(state.sysctls().is_empty());
        assert!(directory.path().join("a/b/sysctls.json.unusable").exists());
    }
}
