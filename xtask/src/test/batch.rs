//! Test executables, and the tests of one executable that run together.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Outcome;
use crate::steps::Log;
use crate::{paths, process};

/// Timeout of a batch.
const SECONDS_MAX: &str = "900";

/// What a test needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    Kernel,
    Lab,
}

impl Needs {
    /// From the last segment of the test's path; none if it has no known prefix.
    pub fn of(test: &str) -> Option<Self> {
        let name = test.rsplit("::").next()?;
        let prefixes = [("unit_", Self::Nothing), ("kernel_", Self::Kernel), ("lab_", Self::Lab)];
        prefixes.into_iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, needs)| needs)
    }
}

/// A test executable.
pub struct Program {
    /// `package target`; the packages of the lab are `lab/...`.
    pub name: String,
    pub path: PathBuf,
    /// Its working directory: that of the package.
    pub folder: PathBuf,
    pub tests: Vec<String>,
}

impl Program {
    /// Reads cargo's messages; sorted by name.
    pub fn read_all(messages: &str) -> Result<Vec<Self>> {
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut programs: Vec<Self> = messages.filter_map(|message| Self::read(&message)).collect();
        programs.sort_by(|a, b| a.name.cmp(&b.name));
        for program in &mut programs {
            program.tests = program.list()?;
        }
        Ok(programs)
    }

    fn read(message: &Value) -> Option<Self> {
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            return None;
        }
        let path = PathBuf::from(message["executable"].as_str()?);
        let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf();
        let package = package_name(&folder);
        let target = message["target"]["name"].as_str()?;
        Some(Self { name: format!("{package} {target}"), path, folder, tests: Vec::new() })
    }

    fn list(&self) -> Result<Vec<String>> {
        let output = Command::new(&self.path).args(["--list", "--format", "terse"]).output();
        let output = output.with_context(|| format!("cannot start {}", self.path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }
}

/// The folder of a package, relative to `crates/` or to the root.
fn package_name(folder: &Path) -> String {
    let relative = folder.strip_prefix(paths::top()).unwrap_or(folder);
    relative.strip_prefix("crates").unwrap_or(relative).display().to_string()
}

/// Tests of one program with the same needs.
pub struct Batch {
    pub name: String,
    pub needs: Needs,
    pub tests: Vec<String>,
    path: PathBuf,
    folder: PathBuf,
}

impl Batch {
    /// These tests of this program.
    pub fn new(program: &Program, needs: Needs, tests: Vec<String>) -> Self {
        let Program { name, path, folder, .. } = program;
        Self { name: name.clone(), needs, tests, path: path.clone(), folder: folder.clone() }
    }

    /// Runs the tests with these environment variables, with their output in the log.
    pub fn run(&self, log: &Log, environment: &[String]) -> Result<Outcome> {
        let result = self.command(environment).output();
        let result = result.with_context(|| format!("cannot start {}", self.path.display()))?;
        let output =
            format!("{}{}", String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
        log.file()?
            .write_all(format!("== {}\n{output}\n", self.name).as_bytes())
            .context("cannot write the step's log")?;
        Ok(Outcome::read(&self.name, result.status, output))
    }

    /// As root if the tests need it.
    fn command(&self, environment: &[String]) -> Command {
        let mut command = match self.needs {
            Needs::Nothing => Command::new("env"),
            Needs::Kernel | Needs::Lab => process::as_root("env"),
        };
        // sudo keeps neither TMPDIR nor PATH.
        command.args(environment).args(["timeout", "--kill-after=10", SECONDS_MAX]).arg(&self.path);
        // The lines of passing tests that begin with `skipped:` are shown.
        command.args(["--show-output", "--exact"]).args(&self.tests);
        if self.needs == Needs::Lab {
            command.arg("--test-threads=1");
        }
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_the_last_segment_of_the_path_says_what_a_test_needs() {
        assert_eq!(Needs::of("tests::unit_a"), Some(Needs::Nothing));
        assert_eq!(Needs::of("kernel_a"), Some(Needs::Kernel));
        assert_eq!(Needs::of("day::lab_a"), Some(Needs::Lab));
        assert_eq!(Needs::of("unit_tests::a"), None);
    }

    #[test]
    fn unit_equal_folders_of_product_and_lab_have_different_names() {
        assert_eq!(package_name(&paths::top().join("crates/cli")), "cli");
        assert_eq!(package_name(&paths::top().join("lab/cli")), "lab/cli");
    }
}
