//! The generated pages below docs/: each is printed by a program that knows,
//! and a test of that program's room fails while the page says otherwise.

use anyhow::Result;

use crate::steps::{Log, Steps};
use crate::{binaries, paths, process};

/// Program, the flag that prints the page, the page.
const PAGES: &[(&str, &[&str], &str)] = &[("beeline-agent", &["--print-metrics-doc"], "docs/metrics.md")];

/// `cargo xtask docs`.
pub fn chore() -> Result<()> {
    let mut steps = Steps::new(3);
    binaries::step(&mut steps)?;
    steps.run("generated pages", |log| PAGES.iter().try_for_each(|page| write(page, log)))
}

fn write((program, arguments, page): &(&str, &[&str], &str), log: &Log) -> Result<()> {
    let mut command = std::process::Command::new(paths::binary(program));
    let text = process::output(command.args(*arguments), log)?;
    process::write_if_changed(&paths::top().join(page), text.as_bytes())
}
