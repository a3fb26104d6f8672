//! One run of the tests, told from others that go on beside it: by a number in
//! the names of its labs and cgroups, and by a temporary folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::bare;
use crate::leaks::Snapshot;
use crate::process;

/// Tells the tests the number of their run.
const VARIABLE: &str = "BEELINE_TEST_RUN";

/// A run of the tests.
pub struct Run {
    id: String,
    folder: PathBuf,
    /// `PATH` of the tests; none = as it is.
    path: Option<PathBuf>,
    before: Snapshot,
}

impl Run {
    /// Makes its folder, and looks at the machine.
    pub fn begin() -> Result<Run> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id =
            format!("{:06x}", (u64::from(std::process::id()) << 10 ^ time.as_millis() as u64) & 0xff_ffff);
        let folder = std::env::temp_dir().join(format!("beeline-run-{id}"));
        let (temporary, commands) = (folder.join("tmp"), folder.join("bin"));
        for folder in [&folder, &temporary, &commands] {
            fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let path = match bare::fill(&commands)? {
            Some(_) => Some(commands),
            None => {
                println!("      note: no dpkg: the tests see every tool of this machine");
                None
            }
        };
        Ok(Run { id, folder, path, before: Snapshot::take()? })
    }

    /// A name for a lab that is this run's.
    pub fn lab(&self, purpose: &str) -> String {
        format!("{}-{purpose}", self.id)
    }

    /// What its tests find in their environment, `NAME=VALUE`.
    pub fn environment(&self) -> Vec<String> {
        let mut variables =
            vec![format!("{VARIABLE}={}", self.id), format!("TMPDIR={}", self.folder.join("tmp").display())];
        variables.extend(self.path.as_ref().map(|path| format!("PATH={}", path.display())));
        variables
    }

    /// What it has left on the machine; its folder goes.
    pub fn end(self) -> Result<Vec<String>> {
        let leaks = self.before.leaks_since(&self.id)?;
        let mut remove = process::as_root("rm");
        let removed = remove.args(["-rf", "--one-file-system"]).arg(Path::new(&self.folder)).status();
        removed.with_context(|| format!("cannot remove {}", self.folder.display()))?;
        Ok(leaks)
    }
}
