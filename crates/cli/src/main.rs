//! The command line tool `beeline`.

use std::process::ExitCode;

fn main() -> ExitCode {
    beeline_cli::run(std::env::args_os().collect())
}
