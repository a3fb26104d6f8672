//! Every test. A test file's name says what it needs: `tests/kernel_*` and
//! `tests/lab_*` need root, everything else runs anywhere.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::leaks::Snapshot;
use crate::steps::{Log, Steps};
use crate::{binaries, committed, process};

/// A test program that takes longer hangs.
const SECONDS_MAX: &str = "900";

/// `cargo xtask test`.
pub fn chore(filter: Option<&str>) -> Result<()> {
    let pure_is_enough = std::env::var("PURE").is_ok_and(|value| value == "1");
    let rooted = !pure_is_enough && process::may_become_root();
    let mut steps = Steps::new(if rooted { 6 } else { 3 });
    if rooted {
        binaries::step(&mut steps)?;
    }
    let programs = steps.run("tests built", build)?;
    lint(&mut steps)?;
    let (pure, with_root): (Vec<_>, Vec<_>) =
        programs.into_iter().partition(|program| program.needs.is_pure());
    let mut failed = misnamed(&pure, &with_root)?;
    failed.extend(run_all(&mut steps, "pure tests", &pure, filter)?);
    if rooted {
        failed.extend(run_with_root(&mut steps, &with_root, filter)?);
    }
    committed::notes().iter().for_each(|note| println!("      note: {note}"));
    verdict(&failed)?;
    if rooted {
        return Ok(());
    }
    did_not_run(&with_root, pure_is_enough)
}

/// Tests whose names hide what they need.
fn misnamed(pure: &[Program], with_root: &[Program]) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for program in pure.iter().chain(with_root) {
        let prefix = program.needs.prefix();
        let wrong = program.list()?.into_iter().filter(|test| !is_named(test, prefix));
        complaints.extend(wrong.map(|test| {
            format!(
                "{}: {test}: a test of this program begins with {prefix} (CONTRIBUTING.md, Tests)",
                program.name
            )
        }));
    }
    Ok(complaints)
}

/// `module::tests::unit_story` begins with `unit_`.
fn is_named(test: &str, prefix: &str) -> bool {
    test.rsplit("::").next().is_some_and(|name| name.starts_with(prefix))
}

/// What a test program needs of the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Kernel,
    Lab,
}

impl Needs {
    fn of(target_kind: &str, target: &str) -> Self {
        match target_kind {
            "test" if target.starts_with("kernel_") => Self::Kernel,
            "test" if target.starts_with("lab_") => Self::Lab,
            _ => Self::Nothing,
        }
    }

    fn is_pure(self) -> bool {
        self == Self::Nothing
    }

    /// How its tests begin.
    fn prefix(self) -> &'static str {
        match self {
            Self::Nothing => "unit_",
            Self::Kernel => "kernel_",
            Self::Lab => "lab_",
        }
    }
}

struct Program {
    /// `package target`, as people know it.
    name: String,
    path: PathBuf,
    folder: PathBuf,
    needs: Needs,
}

impl Program {
    fn from_message(message: &Value) -> Option<Self> {
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            return None;
        }
        let path = PathBuf::from(message["executable"].as_str()?);
        let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf();
        let package = folder.file_name()?.to_string_lossy().into_owned();
        let target = message["target"]["name"].as_str()?;
        let needs = Needs::of(message["target"]["kind"][0].as_str()?, target);
        Some(Self { name: format!("{package} {target}"), path, folder, needs })
    }

    /// The command that runs it, root's where it needs root.
    fn command(&self, filter: Option<&str>) -> Command {
        let mut command = match self.needs {
            Needs::Nothing => Command::new("timeout"),
            Needs::Kernel | Needs::Lab => process::as_root("timeout"),
        };
        command.args(["--kill-after=10", SECONDS_MAX]).arg(&self.path).args(filter);
        // What a passing test says about parts that it skipped is looked for.
        command.arg("--show-output");
        if self.needs == Needs::Lab {
            command.arg("--test-threads=1");
        }
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    fn list(&self) -> Result<Vec<String>> {
        let output = Command::new(&self.path).args(["--list", "--format", "terse"]).output();
        let output = output.with_context(|| format!("{} cannot be started", self.path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }
}

fn build(log: &Log) -> Result<Vec<Program>> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--locked", "--release", "--workspace", "--no-run"]);
    let messages = process::output(cargo.arg("--message-format=json-render-diagnostics"), log)?;
    refuse_warnings(log)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs: Vec<_> = messages.filter_map(|message| Program::from_message(&message)).collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// cargo shows a crate's warnings again even when nothing was compiled.
fn refuse_warnings(log: &Log) -> Result<()> {
    let text = std::fs::read_to_string(log.path()).context("the step's log cannot be read")?;
    match text.lines().find(|line| line.starts_with("warning: `") && line.contains("generated")) {
        Some(line) => bail!("the compiler warns: {line}"),
        None => Ok(()),
    }
}

/// Formatting and lints, each where the toolchain has the tool.
fn lint(steps: &mut Steps) -> Result<()> {
    let tools = [("fmt", "formatting"), ("clippy", "lints")];
    let (present, absent): (Vec<_>, Vec<_>) = tools.into_iter().partition(|(tool, _)| has(tool));
    steps.run("lints", |log| {
        for (tool, _) in &present {
            process::run(process::cargo().args(lint_arguments(tool)), log)?;
        }
        Ok(())
    })?;
    for (tool, what) in absent {
        println!("      {what} not checked: this toolchain has no cargo {tool}");
    }
    Ok(())
}

fn has(tool: &str) -> bool {
    process::cargo().args([tool, "--version"]).output().is_ok_and(|output| output.status.success())
}

fn lint_arguments(tool: &str) -> &'static [&'static str] {
    match tool {
        "fmt" => &["fmt", "--all", "--check"],
        _ => &["clippy", "--locked", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"],
    }
}

fn run_with_root(steps: &mut Steps, programs: &[Program], filter: Option<&str>) -> Result<Vec<String>> {
    let before = Snapshot::take()?;
    let mut failed = run_all(steps, "kernel and lab tests", programs, filter)?;
    process::give_tree_back()?;
    let leaks = before.leaks_since()?;
    if leaks.is_empty() {
        println!("      leak check: nothing was left behind");
    }
    failed.extend(leaks.into_iter().map(|leak| format!("leak check: left behind: {leak}")));
    Ok(failed)
}

/// Runs the programs one after the other; returns the names of what failed.
fn run_all(steps: &mut Steps, name: &str, programs: &[Program], filter: Option<&str>) -> Result<Vec<String>> {
    let results = steps.run(name, |log| {
        programs.iter().map(|program| run(program, filter, log)).collect::<Result<Vec<_>>>()
    })?;
    for result in results.iter().filter(|result| !result.closing_line.contains(" 0 passed; 0 failed")) {
        println!("      {:<28} {}", result.name, result.closing_line);
    }
    let passed: u64 = results.iter().map(|result| result.count("passed")).sum();
    let ignored: u64 = results.iter().map(|result| result.count("ignored")).sum();
    println!("      {name}: {passed} passed, {ignored} ignored");
    for result in &results {
        result.skipped().for_each(|line| println!("      {}: {line}", result.name));
    }
    let failed = results.into_iter().filter(|result| !result.passed);
    Ok(failed.inspect(|result| eprintln!("{}", result.failures())).map(|result| result.name).collect())
}

struct Outcome {
    name: String,
    passed: bool,
    closing_line: String,
    output: String,
}

impl Outcome {
    /// The part of the output that tells what went wrong.
    fn failures(&self) -> &str {
        self.output.find("\nfailures:\n").map_or(&self.output, |start| &self.output[start..])
    }

    /// `3` of `test result: ok. 3 passed; 0 failed; ...`.
    fn count(&self, what: &str) -> u64 {
        let mut words =
            self.closing_line.split(' ').rev().skip_while(|word| word.trim_end_matches(';') != what);
        words.nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// What tests say they did not try.
    fn skipped(&self) -> impl Iterator<Item = &str> {
        self.output.lines().filter(|line| line.starts_with("skipped:"))
    }
}

fn run(program: &Program, filter: Option<&str>, log: &Log) -> Result<Outcome> {
    let result = program.command(filter).output();
    let result = result.with_context(|| format!("{} cannot be started", program.path.display()))?;
    let output =
        format!("{}{}", String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
    std::io::Write::write_all(&mut log.file()?, format!("== {}\n{output}\n", program.name).as_bytes())?;
    let closing = output.lines().rev().find(|line| line.starts_with("test result:"));
    let closing_line = match closing {
        Some(line) => line.to_owned(),
        None => format!("ended with {} before its closing line", result.status),
    };
    Ok(Outcome { name: program.name.clone(), passed: result.status.success(), closing_line, output })
}

fn verdict(failed: &[String]) -> Result<()> {
    if failed.is_empty() {
        return Ok(());
    }
    bail!("{} failed:\n  {}", failed.len(), failed.join("\n  "))
}

fn did_not_run(programs: &[Program], pure_is_enough: bool) -> Result<()> {
    println!("\nNot run, because they need root:");
    for program in programs {
        for test in program.list()? {
            println!("  {}  {test}", program.name);
        }
    }
    if pure_is_enough {
        return Ok(());
    }
    bail!(
        "only the pure tests ran; run as root (or with sudo) for the others, or be content with these: PURE=1"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_the_file_name_says_what_a_test_needs() {
        assert!(Needs::of("test", "kernel_maps") == Needs::Kernel);
        assert!(Needs::of("test", "lab_matrix") == Needs::Lab);
        assert!(Needs::of("lib", "kernel_maps") == Needs::Nothing);
        assert!(Needs::of("test", "replay").is_pure());
    }

    #[test]
    fn unit_a_name_that_hides_its_needs_is_seen() {
        assert!(is_named("tests::unit_a", "unit_") && is_named("unit_a", "unit_"));
        assert!(!is_named("tests::kernel_a", "unit_") && !is_named("unit_tests::a", "unit_"));
    }

    #[test]
    fn unit_the_closing_line_is_counted_and_skips_are_found() {
        let outcome = Outcome {
            name: "p".into(),
            passed: true,
            closing_line: "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out"
                .into(),
            output: "running\nskipped: no bridge\nend\n".into(),
        };
        assert_eq!((outcome.count("passed"), outcome.count("ignored"), outcome.count("lost")), (12, 3, 0));
        assert_eq!(outcome.skipped().collect::<Vec<_>>(), ["skipped: no bridge"]);
    }
}
