//! The eBPF programs: built for the kernel, measured, put where `kernel`
//! embeds them from.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::{Log, Steps};
use crate::toolchain::Toolchain;
use crate::{budget, elf, paths, process};

/// `cargo xtask ebpf`.
pub fn chore(accept: bool) -> Result<()> {
    let mut steps = Steps::new(1);
    let built = steps.run("eBPF programs", build)?;
    print!("{}", built.table());
    if accept {
        return built.accept();
    }
    built.check()
}

/// The step for other chores: builds, prints the sizes, refuses growth.
pub fn step(steps: &mut Steps) -> Result<()> {
    let built = steps.run("eBPF programs", build)?;
    print!("{}", built.table());
    built.check()
}

/// What the build made.
pub struct Built {
    compiler: String,
    sizes: std::collections::BTreeMap<String, elf::Size>,
}

impl Built {
    fn table(&self) -> String {
        budget::table(&self.sizes)
    }

    fn accept(&self) -> Result<()> {
        budget::Budget::read()?.accept(&self.compiler, &self.sizes)
    }

    fn check(&self) -> Result<()> {
        let complaints = budget::Budget::read()?.complaints(&self.compiler, &self.sizes);
        if complaints.is_empty() {
            return Ok(());
        }
        bail!(
            "the eBPF programs are over their budget: {}. If that is meant, record it: cargo xtask ebpf --accept",
            complaints.join("; ")
        )
    }
}

fn build(log: &Log) -> Result<Built> {
    let toolchain = Toolchain::find()?;
    let mut cargo = toolchain.cargo_build();
    cargo.args(["--locked", "--message-format=json-render-diagnostics"]);
    let messages = process::output(&mut cargo, log)?;
    let object = executable(&messages).context("the eBPF crate built no program")?;
    let bytes = fs::read(&object).with_context(|| format!("{} cannot be read", object.display()))?;
    let sizes =
        elf::program_sizes(&bytes).with_context(|| format!("{} cannot be measured", object.display()))?;
    process::write_if_changed(&paths::ebpf_object(), &bytes)?;
    Ok(Built { compiler: toolchain.version, sizes })
}

fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back()
}
