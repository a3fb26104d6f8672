//! `beeline-lab`: see [`beeline_lab::verbs`].

use std::process::ExitCode;

fn main() -> ExitCode {
    beeline_lab::verbs::run()
}
