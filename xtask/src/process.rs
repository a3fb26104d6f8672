//! Running other programs: into a step's log, and as root where they need it.

use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::steps::Log;

/// cargo as the one that runs this: same toolchain, at the root of the tree.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::top());
    command
}

/// Runs it with its output in the log; an exit status other than 0 is an error.
pub fn run(command: &mut Command, log: &Log) -> Result<()> {
    command.stdin(Stdio::null()).stdout(log.file()?).stderr(log.file()?);
    let status = command.status().with_context(|| format!("{} cannot be started", name(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", name(command));
    }
    Ok(())
}

/// Runs it with its errors in the log and returns what it printed.
pub fn output(command: &mut Command, log: &Log) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(log.file()?)
        .output()
        .with_context(|| format!("{} cannot be started", name(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", name(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} printed something other than text", name(command)))
}

/// After a build: cargo shows a crate's warnings again even when nothing was
/// compiled.
pub fn refuse_warnings(log: &Log) -> Result<()> {
    let text = fs::read_to_string(log.path()).context("the step's log cannot be read")?;
    match text.lines().find(|line| line.starts_with("warning: `") && line.contains("generated")) {
        Some(line) => bail!("the compiler warns: {line}"),
        None => Ok(()),
    }
}

/// Whether this process is root.
pub fn am_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Whether root can be had without asking anybody anything.
pub fn may_become_root() -> bool {
    am_root()
        || Command::new("sudo").args(["-n", "true"]).output().is_ok_and(|output| output.status.success())
}

/// The program as root: itself when we are root, through sudo when not.
pub fn as_root(program: impl AsRef<OsStr>) -> Command {
    if am_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--preserve-env=CI,NO_COLOR,RUST_BACKTRACE", "--"]).arg(program);
    command
}

/// Gives files that root made in the tree back to who owns the tree.
pub fn give_tree_back() -> Result<()> {
    if am_root() {
        return Ok(());
    }
    // SAFETY: getuid and getgid take nothing and cannot fail.
    let owner = unsafe { format!("{}:{}", libc::getuid(), libc::getgid()) };
    let mut find = as_root("find");
    find.arg(paths::top()).args(["-xdev", "-user", "0", "-exec", "chown", "-h", &owner, "{}", "+"]);
    let status = find.status().context("find cannot be started")?;
    if !status.success() {
        bail!("files of root may be left in the tree: find ended with {status}");
    }
    Ok(())
}

/// Writes only what differs, so that nothing is rebuilt for nothing.
pub fn write_if_changed(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))
}

fn name(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
