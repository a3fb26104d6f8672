//! What people type: `beeline`.

use std::process::ExitCode;

fn main() -> ExitCode {
    beeline_cli::run(std::env::args_os().collect())
}
