//! The generated pages below docs/: each is written by the test that checks
//! it, when `BEELINE_WRITE_DOCS` is set.

use anyhow::Result;

use crate::process;
use crate::steps::Steps;

/// `cargo xtask docs`.
pub fn chore() -> Result<()> {
    let mut steps = Steps::new(1);
    steps.run("generated pages", |log| {
        let mut cargo = process::cargo();
        cargo.args(["test", "--locked", "--release", "--workspace", "--", "docs_page"]);
        process::run(cargo.env("BEELINE_WRITE_DOCS", "1"), log)
    })
}
