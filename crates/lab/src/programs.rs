//! The programs that a lab runs: they stand beside this one.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Where they are.
pub struct Programs {
    /// This program.
    pub own: PathBuf,
    /// The node agent.
    pub agent: PathBuf,
    /// The CNI plugin.
    pub plugin: PathBuf,
}

impl Programs {
    /// Finds them, or says which is missing.
    pub fn find() -> Result<Programs> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let beside = |name: &str| {
            let path = own.with_file_name(name);
            if !path.exists() {
                bail!(
                    "{} is missing: it belongs beside beeline-lab; build it with: make build",
                    path.display()
                );
            }
            Ok(path)
        };
        Ok(Programs { agent: beside("beeline-agent")?, plugin: beside("beeline-cni")?, own })
    }
}
