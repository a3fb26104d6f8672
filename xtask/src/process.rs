//! Runs other programs: with their output in a step's log, as root where they need it.

use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::steps::Log;

/// The cargo that runs this program, at the root of the repository.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::top());
    command
}

/// Whether `cargo NAME` exists.
pub fn has_cargo_command(name: &str) -> bool {
    cargo().args([name, "--version"]).output().is_ok_and(|output| output.status.success())
}

/// Runs the command with its output in the log; an exit status other than 0 is an error.
pub fn run(command: &mut Command, log: &Log) -> Result<()> {
    command.stdin(Stdio::null()).stdout(log.file()?).stderr(log.file()?);
    let status = command.status().with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", name(command));
    }
    Ok(())
}

/// Runs the command with its standard error in the log; returns its standard output.
pub fn output(command: &mut Command, log: &Log) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(log.file()?)
        .output()
        .with_context(|| format!("cannot start {}", name(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", name(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("the output of {} is not UTF-8", name(command)))
}

/// Fails when the build in the log had warnings. cargo repeats the warnings of
/// a crate that needed no compiling.
pub fn refuse_warnings(log: &Log) -> Result<()> {
    let text = fs::read_to_string(log.path()).context("cannot read the step's log")?;
    match text.lines().find(|line| line.starts_with("warning: `") && line.contains("generated")) {
        Some(line) => bail!("the build has warnings: {line}"),
        None => Ok(()),
    }
}

/// Whether this process is root.
pub fn am_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Whether this process is root or can become it without a password.
pub fn may_become_root() -> bool {
    am_root()
        || Command::new("sudo").args(["-n", "true"]).output().is_ok_and(|output| output.status.success())
}

/// A command that runs the program as root, through sudo if this process is not root.
pub fn as_root(program: impl AsRef<OsStr>) -> Command {
    if am_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--preserve-env=CI,NO_COLOR,RUST_BACKTRACE", "--"]).arg(program);
    command
}

/// Makes this user the owner of the files in the repository that root created.
pub fn restore_owner() -> Result<()> {
    if am_root() {
        return Ok(());
    }
    // SAFETY: getuid and getgid take nothing and cannot fail.
    let owner = unsafe { format!("{}:{}", libc::getuid(), libc::getgid()) };
    let mut find = as_root("find");
    find.arg(paths::top()).args(["-xdev", "-user", "0", "-exec", "chown", "-h", &owner, "{}", "+"]);
    let status = find.status().context("cannot start find")?;
    if !status.success() {
        bail!("the repository may still contain files of root: find ended with {status}");
    }
    Ok(())
}

/// Writes a file only if its content changes, so that cargo does not rebuild what depends on it.
pub fn write_if_changed(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// The command line of a command, for messages.
pub fn name(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
