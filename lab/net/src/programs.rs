//! Paths of the programs that a lab runs, which are in the same directory as
//! this one, and how users call them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::paths::{DEFAULT_NAME, LabName};

/// Paths of the programs.
pub struct Programs {
    /// This program.
    pub own: PathBuf,
    /// The node agent.
    pub agent: PathBuf,
    /// The CNI plugin.
    pub plugin: PathBuf,
}

impl Programs {
    /// Finds them; the error names the missing one.
    pub fn find() -> Result<Programs> {
        let own = std::env::current_exe().context("cannot determine the path of this executable")?;
        let beside = |name: &str| {
            let path = own.with_file_name(name);
            if !path.exists() {
                bail!(
                    "{} not found: it must be in the same directory as beeline-lab; build it with: make build",
                    path.display()
                );
            }
            Ok(path)
        };
        Ok(Programs { agent: beside("beeline-agent")?, plugin: beside("beeline-cni")?, own })
    }
}

/// A command line as it can be run in the current directory.
pub fn typed(verb: &str, name: &LabName) -> String {
    let beeline = match (std::env::current_exe(), std::env::current_dir()) {
        (Ok(own), Ok(here)) => typed_beeline(&own, &here, std::env::var_os("PATH")),
        _ => "beeline".to_owned(),
    };
    let named = if name.as_str() == DEFAULT_NAME { String::new() } else { format!(" --name {name}") };
    format!("{beeline} lab {verb}{named}")
}

/// In a source tree: the wrapper script at its root. If installed: its name if
/// it is in PATH, otherwise its path.
fn typed_beeline(own: &Path, here: &Path, search: Option<OsString>) -> String {
    let directory = own.parent().unwrap_or(Path::new("/"));
    let root = directory.ancestors().nth(2).filter(|_| directory.ends_with("target/release"));
    match root.filter(|root| root.join("beeline").is_file()) {
        Some(root) if root == here => "./beeline".to_owned(),
        Some(root) => root.join("beeline").display().to_string(),
        None if search.is_some_and(|all| std::env::split_paths(&all).any(|one| one == directory)) => {
            "beeline".to_owned()
        }
        None => directory.join("beeline").display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_shown_commands_can_be_run_as_printed() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        std::fs::write(root.join("beeline"), "").unwrap();
        let built = root.join("target/release/beeline-lab");
        assert_eq!(typed_beeline(&built, root, None), "./beeline");
        let wrapper = root.join("beeline").display().to_string();
        assert_eq!(typed_beeline(&built, Path::new("/"), None), wrapper);

        let installed = Path::new("/usr/local/bin/beeline-lab");
        let found = Some("/bin:/usr/local/bin".into());
        assert_eq!(typed_beeline(installed, root, found), "beeline");
        assert_eq!(typed_beeline(installed, root, Some("/bin".into())), "/usr/local/bin/beeline");
    }
}
