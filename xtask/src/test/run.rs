//! One run of the tests. Its ID in the names of its labs and cgroups, and a
//! temporary folder of its own, separate it from concurrent runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::minimal_path;
use crate::leaks::Snapshot;
use crate::process;

/// The environment variable with the ID of the run.
const VARIABLE: &str = "BEELINE_TEST_RUN";

/// A run of the tests.
pub struct Run {
    id: String,
    folder: PathBuf,
    /// `PATH` of the tests; none leaves it unchanged.
    path: Option<PathBuf>,
    before: Snapshot,
}

impl Run {
    /// Creates the folder of the run and takes a snapshot of the machine.
    pub fn begin() -> Result<Run> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id =
            format!("{:06x}", (u64::from(std::process::id()) << 10 ^ time.as_millis() as u64) & 0xff_ffff);
        let folder = std::env::temp_dir().join(format!("beeline-run-{id}"));
        let (temporary, commands) = (folder.join("tmp"), folder.join("bin"));
        for folder in [&folder, &temporary, &commands] {
            fs::create_dir(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let path = match minimal_path::fill(&commands)? {
            Some(_) => Some(commands),
            None => {
                println!(
                    "      skipped: the minimal PATH (there is no dpkg): the tests see every command of this machine"
                );
                None
            }
        };
        Ok(Run { id, folder, path, before: Snapshot::take()? })
    }

    /// The name of a lab of this run.
    pub fn lab(&self, purpose: &str) -> String {
        format!("{}-{purpose}", self.id)
    }

    /// Environment variables of the tests, `NAME=VALUE`.
    pub fn environment(&self) -> Vec<String> {
        let mut variables =
            vec![format!("{VARIABLE}={}", self.id), format!("TMPDIR={}", self.folder.join("tmp").display())];
        variables.extend(self.path.as_ref().map(|path| format!("PATH={}", path.display())));
        variables
    }

    /// Removes the folder of the run; returns what the run left on the machine.
    pub fn end(self) -> Result<Vec<String>> {
        let leaks = self.before.leaks_since(&self.id)?;
        let mut remove = process::as_root("rm");
        let removed = remove.args(["-rf", "--one-file-system"]).arg(Path::new(&self.folder)).status();
        removed.with_context(|| format!("cannot remove {}", self.folder.display()))?;
        Ok(leaks)
    }
}
