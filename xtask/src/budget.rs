//! The size budget of the eBPF programs, in crates/ebpf/budget.txt: a program
//! that exceeds it fails the build.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::elf::Size;
use crate::paths;

/// The kernel's limits. Programs are meant to stay below a quarter of them.
const STACK_BYTES_MAX: u64 = 512;
const VERIFIED_MAX: u64 = 1_000_000;
/// Tolerance when the compiler is not the recorded one.
const OTHER_COMPILER_PERCENT: u64 = 10;
/// Further tolerance when the kernel is not the recorded one: its verifier prunes differently.
const OTHER_KERNEL_PERCENT: u64 = 25;

const HEADER: &str = "\
# The maximum size of each eBPF program. The build fails when one exceeds it. To
# record the present sizes, as root: cargo xtask ebpf --accept
#
# name, instructions and bytes of stack in the object (subprograms included),
# instructions that the kernel's verifier processed.
";

/// Measured sizes.
#[derive(Default)]
pub struct Costs {
    /// The compiler of the object.
    pub compiler: String,
    /// By name of the program.
    pub sizes: BTreeMap<String, Size>,
    /// Major and minor version of the kernel; empty if the programs were not loaded.
    pub kernel: String,
    /// By name of the program; empty if they were not loaded, which needs root.
    pub loaded: BTreeMap<String, Loaded>,
}

/// A program in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Instructions that the verifier processed.
    pub verified: u64,
    /// Bytes of machine code; 0 if it is interpreted.
    pub machine_bytes: u64,
}

/// The recorded sizes.
#[derive(Default)]
pub struct Budget {
    compiler: String,
    kernel: String,
    rows: BTreeMap<String, Row>,
}

struct Row {
    size: Size,
    /// None if it was recorded without root.
    verified: Option<u64>,
}

impl Budget {
    fn path() -> PathBuf {
        paths::ebpf_crate().join("budget.txt")
    }

    /// Reads the file. A missing one is an empty budget.
    pub fn read() -> Result<Self> {
        let path = Self::path();
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
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

    /// The file's text for these sizes. A verifier count that was not measured
    /// is kept if the program's size is unchanged.
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

    /// Records these sizes.
    pub fn accept(&self, costs: &Costs) -> Result<()> {
        let path = Self::path();
        fs::write(&path, self.record(costs)).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Programs over their budget, one sentence each.
    pub fn problems(&self, costs: &Costs) -> Vec<String> {
        let tolerance = if self.compiler == costs.compiler { 0 } else { OTHER_COMPILER_PERCENT };
        let sizes = costs.sizes.iter().filter_map(|(name, size)| self.of_object(name, size, tolerance));
        let tolerance =
            if self.kernel == costs.kernel { tolerance } else { tolerance + OTHER_KERNEL_PERCENT };
        let loaded = costs.loaded.iter();
        let loaded = loaded.filter_map(|(name, loaded)| self.of_kernel(name, loaded.verified, tolerance));
        sizes.chain(loaded).collect()
    }

    fn of_object(&self, name: &str, size: &Size, tolerance_percent: u64) -> Option<String> {
        let Some(Row { size: budget, .. }) = self.rows.get(name) else {
            return Some(format!("{name} has no budget yet ({} instructions)", size.instructions));
        };
        grew(name, "instructions", budget.instructions, size.instructions, tolerance_percent)
            .or_else(|| grew(name, "bytes of stack", budget.stack_bytes, size.stack_bytes, tolerance_percent))
    }

    fn of_kernel(&self, name: &str, verified: u64, tolerance_percent: u64) -> Option<String> {
        if verified > VERIFIED_MAX / 4 {
            return Some(format!(
                "the verifier processed {verified} instructions of {name}, over a quarter of the kernel's limit"
            ));
        }
        let budget = self.rows.get(name)?.verified?;
        grew(name, "verified instructions", budget, verified, tolerance_percent)
    }
}

impl Row {
    fn parse(line: &str) -> Result<(String, Self)> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, instructions, stack, verified] = words[..] else { bail!("it does not have 4 fields") };
        let size = Size { instructions: instructions.parse()?, stack_bytes: stack.parse()? };
        let verified = if verified == "-" { None } else { Some(verified.parse()?) };
        Ok((name.to_owned(), Self { size, verified }))
    }
}

fn grew(name: &str, what: &str, from: u64, to: u64, tolerance_percent: u64) -> Option<String> {
    (to > from + from * tolerance_percent / 100).then(|| format!("{name} grew from {from} to {to} {what}"))
}

impl Costs {
    /// The sizes as a table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "      {:<16} {:>12} {:>8} {:>10} {:>14}\n",
            "program", "instructions", "stack", "verified", "machine code"
        );
        for (name, size) in &self.sizes {
            let loaded = self.loaded.get(name);
            let shown = |value: fn(&Loaded) -> u64| loaded.map_or("-".to_owned(), |it| value(it).to_string());
            let note = if size.stack_bytes > STACK_BYTES_MAX / 4 {
                "  over a quarter of the kernel's limit for the stack"
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
        if self.loaded.is_empty() {
            text += "      skipped: the verifier's count (loading the programs needs root)\n";
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
    fn unit_growth_is_a_problem_and_shrinking_is_not() {
        assert!(budget().problems(&costs(100)).is_empty());
        assert!(budget().problems(&costs(90)).is_empty());
        assert_eq!(budget().problems(&costs(101)), ["from_pod grew from 100 to 101 instructions"]);
    }

    #[test]
    fn unit_the_verifiers_count_is_part_of_the_budget() {
        assert!(budget().problems(&loaded(5_000)).is_empty());
        assert_eq!(
            budget().problems(&loaded(5_001)),
            ["from_pod grew from 5000 to 5001 verified instructions"]
        );
        let limit = budget().problems(&loaded(250_001));
        assert!(limit[0].contains("over a quarter of the kernel's limit"), "{limit:?}");
    }

    #[test]
    fn unit_another_compiler_or_kernel_has_some_tolerance() {
        let other = |instructions| Costs { compiler: "d".into(), ..costs(instructions) };
        assert!(budget().problems(&other(110)).is_empty());
        assert_eq!(budget().problems(&other(111)).len(), 1);
        let elsewhere = |verified| Costs { kernel: "l".into(), ..loaded(verified) };
        assert!(budget().problems(&elsewhere(6_250)).is_empty());
        assert_eq!(budget().problems(&elsewhere(6_251)).len(), 1);
    }

    #[test]
    fn unit_a_new_program_needs_a_budget() {
        assert_eq!(Budget::default().problems(&costs(5)), ["from_pod has no budget yet (5 instructions)"]);
    }

    #[test]
    fn unit_what_is_recorded_is_read_back_and_a_stale_count_is_not_kept() {
        let recorded = Budget::parse(&Budget::default().record(&loaded(7_000))).expect("it parses");
        assert!(recorded.problems(&loaded(7_000)).is_empty());
        let kept = Budget::parse(&recorded.record(&costs(100))).expect("it parses");
        assert_eq!(kept.rows["from_pod"].verified, Some(7_000));
        let changed = Budget::parse(&recorded.record(&costs(120))).expect("it parses");
        assert_eq!(changed.rows["from_pod"].verified, None);
    }
}
