//! The CNI plugin: passes the environment and standard input to
//! [`beeline_cni::run`] and prints its output. `beeline-cni install` installs
//! the plugin and its network configuration for a container runtime.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use beeline_cni::install::Install;

/// Larger than any valid network configuration; the rest of the input is ignored.
const INPUT_BYTES_MAX: u64 = 4 << 20;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("install") => install(arguments),
        _ => plugin(),
    }
}

fn install(arguments: impl Iterator<Item = String>) -> ExitCode {
    let installed = Install::parse(arguments).and_then(|install| install.run(Path::new("/proc/self/exe")));
    match installed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("beeline-cni install: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn plugin() -> ExitCode {
    let mut input = Vec::new();
    if let Err(error) = std::io::stdin().take(INPUT_BYTES_MAX).read_to_end(&mut input) {
        // Continues: VERSION needs no input, and the other commands fail to parse it.
        eprintln!("beeline-cni: cannot read standard input: {error}");
    }
    let outcome = beeline_cni::run(|name| std::env::var(name).ok(), &input);
    let written = std::io::stdout().write_all(outcome.output.as_bytes());
    if outcome.success && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
