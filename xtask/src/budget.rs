//! The size budget of the eBPF programs, kept in crates/ebpf/budget.txt: a
//! program that grows does so knowingly.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::elf::Size;
use crate::paths;

/// The kernel gives a program 512 bytes; we mean to stay under a quarter.
const STACK_BYTES_MAX: u64 = 512;
/// Another compiler than the recorded one may differ by this much.
const OTHER_COMPILER_PERCENT: u64 = 10;

const HEADER: &str = "\
# What each eBPF program may cost. The build fails when one costs more; to let
# it, record today's sizes: cargo xtask ebpf --accept
#
# instructions and stack_bytes are read from the object (subprograms included);
# verified is what the verifier walked (verified_insns), checked by the kernel
# tests where a number stands.
";

/// The recorded sizes.
#[derive(Default)]
pub struct Budget {
    compiler: String,
    rows: BTreeMap<String, Row>,
}

struct Row {
    size: Size,
    verified: String,
}

impl Budget {
    fn path() -> PathBuf {
        paths::ebpf_crate().join("budget.txt")
    }

    /// Reads the file; an absent one is an empty budget.
    pub fn read() -> Result<Self> {
        let path = Self::path();
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not a budget", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut budget = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            if let Some(compiler) = line.strip_prefix("compiler: ") {
                budget.compiler = compiler.to_owned();
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, instructions, stack, verified] = words[..] else {
                bail!("the line {line:?} has not 4 words")
            };
            let size = Size { instructions: instructions.parse()?, stack_bytes: stack.parse()? };
            budget.rows.insert(name.to_owned(), Row { size, verified: verified.to_owned() });
        }
        Ok(budget)
    }

    /// Records these sizes, verified counts kept where the program did not change.
    pub fn accept(&self, compiler: &str, sizes: &BTreeMap<String, Size>) -> Result<()> {
        let mut text = format!("{HEADER}\ncompiler: {compiler}\n");
        for (name, size) in sizes {
            let old = self.rows.get(name).filter(|row| row.size == *size);
            let verified = old.map_or("-", |row| row.verified.as_str());
            writeln!(text, "{name:<16} {:>6} {:>4} {verified:>7}", size.instructions, size.stack_bytes)
                .expect("writing to a string cannot fail");
        }
        fs::write(Self::path(), text).with_context(|| format!("{} cannot be written", Self::path().display()))
    }

    /// What grew, one sentence each.
    pub fn complaints(&self, compiler: &str, sizes: &BTreeMap<String, Size>) -> Vec<String> {
        let slack = if self.compiler == compiler { 0 } else { OTHER_COMPILER_PERCENT };
        sizes.iter().filter_map(|(name, size)| self.complaint(name, size, slack)).collect()
    }

    fn complaint(&self, name: &str, size: &Size, slack_percent: u64) -> Option<String> {
        let Some(Row { size: budget, .. }) = self.rows.get(name) else {
            return Some(format!("{name} has no budget yet ({} instructions)", size.instructions));
        };
        let over = |value: u64, allowed: u64| value > allowed + allowed * slack_percent / 100;
        if over(size.instructions, budget.instructions) {
            return Some(format!(
                "{name} grew from {} to {} instructions",
                budget.instructions, size.instructions
            ));
        }
        over(size.stack_bytes, budget.stack_bytes).then(|| {
            format!("{name} grew from {} to {} bytes of stack", budget.stack_bytes, size.stack_bytes)
        })
    }
}

/// The table that the build prints.
pub fn table(sizes: &BTreeMap<String, Size>) -> String {
    let mut text = format!("      {:<16} {:>12} {:>8}\n", "program", "instructions", "stack");
    for (name, size) in sizes {
        let note = if size.stack_bytes > STACK_BYTES_MAX / 4 {
            "  over a quarter of the kernel's stack"
        } else {
            ""
        };
        writeln!(text, "      {name:<16} {:>12} {:>6} B{note}", size.instructions, size.stack_bytes)
            .expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(instructions: u64) -> BTreeMap<String, Size> {
        BTreeMap::from([("from_pod".to_owned(), Size { instructions, stack_bytes: 96 })])
    }

    #[test]
    fn unit_growth_is_a_complaint_and_shrinking_is_not() {
        let budget = Budget::parse("compiler: c\nfrom_pod 100 96 -\n").expect("it parses");
        assert!(budget.complaints("c", &sizes(100)).is_empty());
        assert!(budget.complaints("c", &sizes(90)).is_empty());
        assert_eq!(budget.complaints("c", &sizes(101)), ["from_pod grew from 100 to 101 instructions"]);
    }

    #[test]
    fn unit_another_compiler_has_some_slack() {
        let budget = Budget::parse("compiler: c\nfrom_pod 100 96 -\n").expect("it parses");
        assert!(budget.complaints("d", &sizes(110)).is_empty());
        assert_eq!(budget.complaints("d", &sizes(111)).len(), 1);
    }

    #[test]
    fn unit_a_new_program_needs_a_budget() {
        assert_eq!(
            Budget::default().complaints("c", &sizes(5)),
            ["from_pod has no budget yet (5 instructions)"]
        );
    }
}
