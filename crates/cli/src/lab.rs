//! `beeline lab ...` executes `beeline-lab` from the directory of this program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

/// Replaces this process with `beeline-lab`; returns only on failure.
pub fn execute(arguments: &[OsString], name: Option<&str>) -> Result<ExitCode> {
    let own = std::env::current_exe().context("cannot determine the path of this program")?;
    let program = own.with_file_name("beeline-lab");
    let mut command = Command::new(&program);
    let (verb, rest) = arguments.split_at(arguments.len().min(1));
    command.args(verb);
    if let Some(name) = name {
        // `beeline --name x lab up` means `beeline lab up --name x`.
        command.arg("--name").arg(name);
    }
    command.args(rest);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}; build it with `make build`", program.display()))
}
