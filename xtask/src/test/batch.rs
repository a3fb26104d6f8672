//! The test programs that cargo built, and the tests of one that run together.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Outcome;
use crate::process;
use crate::steps::Log;

/// A batch that takes longer hangs.
const SECONDS_MAX: &str = "900";

/// What a test needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    Kernel,
    Lab,
}

impl Needs {
    /// By the name after its modules; none if that does not tell.
    pub fn of(test: &str) -> Option<Self> {
        let name = test.rsplit("::").next()?;
        let prefixes = [("unit_", Self::Nothing), ("kernel_", Self::Kernel), ("lab_", Self::Lab)];
        prefixes.into_iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, needs)| needs)
    }
}

/// A program full of tests.
pub struct Program {
    /// `package target`, as people know it.
    pub name: String,
    pub path: PathBuf,
    /// Where it runs.
    pub folder: PathBuf,
    pub tests: Vec<String>,
}

impl Program {
    /// From what cargo printed, in the order of the names.
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
        let package = folder.file_name()?.to_string_lossy().into_owned();
        let target = message["target"]["name"].as_str()?;
        Some(Self { name: format!("{package} {target}"), path, folder, tests: Vec::new() })
    }

    fn list(&self) -> Result<Vec<String>> {
        let output = Command::new(&self.path).args(["--list", "--format", "terse"]).output();
        let output = output.with_context(|| format!("{} cannot be started", self.path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }
}

/// Tests of one program that need the same.
pub struct Batch {
    pub name: String,
    pub needs: Needs,
    pub tests: Vec<String>,
    path: PathBuf,
    folder: PathBuf,
}

impl Batch {
    /// These tests of that program.
    pub fn new(program: &Program, needs: Needs, tests: Vec<String>) -> Self {
        let Program { name, path, folder, .. } = program;
        Self { name: name.clone(), needs, tests, path: path.clone(), folder: folder.clone() }
    }

    /// Runs them, with these variables; what they print goes to the log.
    pub fn run(&self, log: &Log, environment: &[String]) -> Result<Outcome> {
        let result = self.command(environment).output();
        let result = result.with_context(|| format!("{} cannot be started", self.path.display()))?;
        let output =
            format!("{}{}", String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
        log.file()?
            .write_all(format!("== {}\n{output}\n", self.name).as_bytes())
            .context("the step's log cannot be written")?;
        Ok(Outcome::read(&self.name, result.status, output))
    }

    /// Root's where it needs root.
    fn command(&self, environment: &[String]) -> Command {
        let mut command = match self.needs {
            Needs::Nothing => Command::new("env"),
            Needs::Kernel | Needs::Lab => process::as_root("env"),
        };
        // sudo would keep neither TMPDIR nor PATH.
        command.args(environment).args(["timeout", "--kill-after=10", SECONDS_MAX]).arg(&self.path);
        // What a passing test says about parts that it skipped is looked for.
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
    fn unit_the_last_part_of_the_name_counts() {
        assert_eq!(Needs::of("tests::unit_a"), Some(Needs::Nothing));
        assert_eq!(Needs::of("kernel_a"), Some(Needs::Kernel));
        assert_eq!(Needs::of("day::lab_a"), Some(Needs::Lab));
        assert_eq!(Needs::of("unit_tests::a"), None);
    }
}
