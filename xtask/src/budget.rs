//! The size budget of the eBPF programs, kept in crates/ebpf/budget.txt: a
//! program that grows does so knowingly.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::elf::Size;
use crate::paths;

/// The kernel's limits; we mean to stay under a quarter of them.
const STACK_BYTES_MAX: u64 = 512;
const VERIFIED_MAX: u64 = 1_000_000;
/// Another compiler than the recorded one may differ by this much.
const OTHER_COMPILER_PERCENT: u64 = 10;
/// Another kernel's verifier walks other paths.
const OTHER_KERNEL_PERCENT: u64 = 25;

const HEADER: &str = "\
# What each eBPF program may cost. The build fails when one costs more; to let
# it, record today's costs as root: cargo xtask ebpf --accept
#
# name, instructions and bytes of stack as they stand in the object
# (subprograms included), instructions that the kernel's verifier walked.
";

/// What was measured.
#[derive(Default)]
pub struct Costs {
    /// Of the object.
    pub compiler: String,
    /// By program.
    pub sizes: BTreeMap<String, Size>,
    /// Empty where nobody was root to load them.
    pub kernel: String,
    /// By program.
    pub loaded: BTreeMap<String, Loaded>,
}

/// What the kernel made of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Instructions that the verifier walked.
    pub verified: u64,
    /// Bytes of machine code; 0 = interpreted.
    pub machine_bytes: u64,
}

/// The recorded costs.
#[derive(Default)]
pub struct Budget {
    compiler: String,
    kernel: String,
    rows: BTreeMap<String, Row>,
}

struct Row {
    size: Size,
    /// None: nobody was root when it was recorded.
    verified: Option<u64>,
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
            } else if let Some(kernel) = line.strip_prefix("kernel: ") {
                budget.kernel = kernel.to_owned();
            } else {
                let (name, row) = Row::parse(line).with_context(|| format!("the line {line:?}"))?;
                budget.rows.insert(name, row);
            }
        }
        Ok(budget)
    }

    /// The text that records these costs; what was not measured now stays as
    /// it was where the program did not change.
    fn record(&self, costs: &Costs) -> String {
        let kernel = if costs.loaded.is_empty() { &self.kernel } else { &costs.kernel };
        let mut text = format!("{HEADER}\ncompiler: {}\nkernel: {kernel}\n", costs.compiler);
        for (name, size) in &costs.sizes {
            let known = self.rows.get(name).filter(|row| row.size == *size).and_then(|row| row.verified);
            let verified = costs.loaded.get(name).map(|loaded| loaded.verified).or(known);
            let verified = verified.map_or("-".to_owned(), |count| count.to_string());
            writeln!(text, "{name:<16} {:>6} {:>4} {verified:>7}", size.instructions, size.stack_bytes)
                .expect("writing to a string cannot fail");
        }
        text
    }

    /// Records these costs.
    pub fn accept(&self, costs: &Costs) -> Result<()> {
        let path = Self::path();
        fs::write(&path, self.record(costs)).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// What grew, one sentence each.
    pub fn complaints(&self, costs: &Costs) -> Vec<String> {
        let slack = if self.compiler == costs.compiler { 0 } else { OTHER_COMPILER_PERCENT };
        let sizes = costs.sizes.iter().filter_map(|(name, size)| self.of_object(name, size, slack));
        let slack = if self.kernel == costs.kernel { slack } else { slack + OTHER_KERNEL_PERCENT };
        let loaded = costs.loaded.iter();
        let loaded = loaded.filter_map(|(name, loaded)| self.of_kernel(name, loaded.verified, slack));
        sizes.chain(loaded).collect()
    }

    fn of_object(&self, name: &str, size: &Size, slack_percent: u64) -> Option<String> {
        let Some(Row { size: budget, .. }) = self.rows.get(name) else {
            return Some(format!("{name} has no budget yet ({} instructions)", size.instructions));
        };
        grew(name, "instructions", budget.instructions, size.instructions, slack_percent)
            .or_else(|| grew(name, "bytes of stack", budget.stack_bytes, size.stack_bytes, slack_percent))
    }

    fn of_kernel(&self, name: &str, verified: u64, slack_percent: u64) -> Option<String> {
        if verified > VERIFIED_MAX / 4 {
            return Some(format!(
                "{name} takes {verified} verified instructions, over a quarter of the kernel's limit"
            ));
        }
        let budget = self.rows.get(name)?.verified?;
        grew(name, "verified instructions", budget, verified, slack_percent)
    }
}

impl Row {
    fn parse(line: &str) -> Result<(String, Self)> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, instructions, stack, verified] = words[..] else { bail!("it has not 4 words") };
        let size = Size { instructions: instructions.parse()?, stack_bytes: stack.parse()? };
        let verified = if verified == "-" { None } else { Some(verified.parse()?) };
        Ok((name.to_owned(), Self { size, verified }))
    }
}

fn grew(name: &str, what: &str, from: u64, to: u64, slack_percent: u64) -> Option<String> {
    (to > from + from * slack_percent / 100).then(|| format!("{name} grew from {from} to {to} {what}"))
}

impl Costs {
    /// Prints them.
    pub fn tell(&self) {
        print!("{}", self.table());
        if self.loaded.is_empty() {
            println!("      not held against the verifier: loading the programs needs root");
        }
    }

    fn table(&self) -> String {
        let mut text = format!(
            "      {:<16} {:>12} {:>8} {:>10} {:>14}\n",
            "program", "instructions", "stack", "verified", "machine code"
        );
        for (name, size) in &self.sizes {
            let loaded = self.loaded.get(name);
            let shown = |value: fn(&Loaded) -> u64| loaded.map_or("-".to_owned(), |it| value(it).to_string());
            let note = if size.stack_bytes > STACK_BYTES_MAX / 4 {
                "  over a quarter of the kernel's stack"
            } else {
                ""
            };
            writeln!(
                text,
                "      {name:<16} {:>12} {:>6} B {:>10} {:>12} B{note}",
                size.instructions,
                size.stack_bytes,
                shown(|it| it.verified),
                shown(|it| it.machine_bytes)
            )
            .expect("writing to a string cannot fail");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(instructions: u64) -> Costs {
        let size = Size { instructions, stack_bytes: 96 };
        Costs {
            compiler: "c".into(),
            sizes: BTreeMap::from([("from_pod".to_owned(), size)]),
            ..Costs::default()
        }
    }

    fn loaded(verified: u64) -> Costs {
        let loaded = Loaded { verified, machine_bytes: 800 };
        Costs { kernel: "k".into(), loaded: BTreeMap::from([("from_pod".to_owned(), loaded)]), ..costs(100) }
    }

    fn budget() -> Budget {
        Budget::parse("# a comment\ncompiler: c\nkernel: k\nfrom_pod 100 96 5000\n").expect("it parses")
    }

    #[test]
    fn unit_growth_is_a_complaint_and_shrinking_is_not() {
        assert!(budget().complaints(&costs(100)).is_empty());
        assert!(budget().complaints(&costs(90)).is_empty());
        assert_eq!(budget().complaints(&costs(101)), ["from_pod grew from 100 to 101 instructions"]);
    }

    #[test]
    fn unit_the_verifiers_work_is_part_of_the_budget() {
        assert!(budget().complaints(&loaded(5_000)).is_empty());
        assert_eq!(
            budget().complaints(&loaded(5_001)),
            ["from_pod grew from 5000 to 5001 verified instructions"]
        );
        let limit = budget().complaints(&loaded(250_001));
        assert!(limit[0].contains("over a quarter of the kernel's limit"), "{limit:?}");
    }

    #[test]
    fn unit_another_compiler_or_kernel_has_some_slack() {
        let other = |instructions| Costs { compiler: "d".into(), ..costs(instructions) };
        assert!(budget().complaints(&other(110)).is_empty());
        assert_eq!(budget().complaints(&other(111)).len(), 1);
        let elsewhere = |verified| Costs { kernel: "l".into(), ..loaded(verified) };
        assert!(budget().complaints(&elsewhere(6_250)).is_empty());
        assert_eq!(budget().complaints(&elsewhere(6_251)).len(), 1);
    }

    #[test]
    fn unit_a_new_program_needs_a_budget() {
        assert_eq!(Budget::default().complaints(&costs(5)), ["from_pod has no budget yet (5 instructions)"]);
    }

    #[test]
    fn unit_what_is_recorded_is_read_back_and_a_stale_count_is_not_kept() {
        let recorded = Budget::parse(&Budget::default().record(&loaded(7_000))).expect("it parses");
        assert!(recorded.complaints(&loaded(7_000)).is_empty());
        let kept = Budget::parse(&recorded.record(&costs(100))).expect("it parses");
        assert_eq!(kept.rows["from_pod"].verified, Some(7_000));
        let changed = Budget::parse(&recorded.record(&costs(120))).expect("it parses");
        assert_eq!(changed.rows["from_pod"].verified, None);
    }
}
