//! A virtual machine in QEMU, and the test results from its second serial port.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};

use super::packages::Qemu;
use crate::process;
use crate::steps::Log;
use crate::test::{Outcome, Program};

/// Timeout of a run: emulated, the tests take ten times as long.
const SECONDS_MAX: u32 = 1800;
const MEGABYTES: &str = "512";

/// A kernel and what it boots with.
pub struct Machine {
    /// `6.1`.
    pub series: &'static str,
    pub qemu: Qemu,
    pub image: PathBuf,
    pub initramfs: PathBuf,
}

/// What ran in a machine.
#[derive(Debug)]
pub struct Report {
    /// The output of `uname -r` in the machine.
    pub release: String,
    pub outcomes: Vec<Outcome>,
}

impl Machine {
    /// Boots the machine and waits until it powers off.
    ///
    /// # Errors
    ///
    /// A test failed or did not run.
    pub fn run(&self, programs: &[Program], log: &Log) -> Result<Report> {
        let serial = self.initramfs.with_file_name("serial");
        let ended = process::run(&mut self.command(&serial), log);
        let text = String::from_utf8_lossy(&fs::read(&serial).unwrap_or_default()).replace('\r', "");
        fs::write(log.path(), fs::read_to_string(log.path()).unwrap_or_default() + &text)
            .context("cannot write the step's log")?;
        ended.with_context(|| format!("Linux {} did not power off within {SECONDS_MAX} s", self.series))?;
        let report = Report::read(&text)
            .with_context(|| format!("Linux {} did not run every test program", self.series))?;
        report.check(programs)?;
        Ok(report)
    }

    fn command(&self, serial: &Path) -> Command {
        let mut command = self.qemu.command(SECONDS_MAX);
        command
            .args(["-machine", "pc", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", MEGABYTES])
            .args(["-display", "none", "-vga", "none", "-nic", "none", "-no-reboot", "-monitor", "none"])
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-serial", "stdio", "-serial"])
            .arg(format!("file:{}", serial.display()));
        command
    }
}

impl Report {
    /// Parses the output of the second serial port; see `init.sh`.
    fn read(text: &str) -> Result<Self> {
        let mut parts = text.split("\n=== ");
        let first = parts.next().unwrap_or_default();
        let release = first.strip_prefix("=== release ").context("no test was started")?.trim().to_owned();
        let mut outcomes = Vec::new();
        let mut begun: Option<(&str, &str)> = None;
        for part in parts {
            match (part.strip_prefix("status "), begun.take()) {
                (Some(status), Some((name, output))) => {
                    let code = status
                        .trim()
                        .parse::<i32>()
                        .context("the exit status of a test program is not a number")?;
                    outcomes.push(Outcome::read(name, ExitStatus::from_raw(code << 8), output.to_owned()));
                }
                (None, None) if part.trim() == "end" => return Ok(Self { release, outcomes }),
                (None, None) => begun = Some(part.split_once('\n').unwrap_or((part, ""))),
                _ => bail!("unexpected line {:?}", part.lines().next()),
            }
        }
        bail!("it ended during {}", begun.map_or("the start of a program", |(name, _)| name))
    }

    fn check(&self, programs: &[Program]) -> Result<()> {
        if let Some(outcome) = self.outcomes.iter().find(|outcome| !outcome.passed) {
            bail!("{}: {}\n{}", outcome.name, outcome.closing_line, outcome.failures());
        }
        let (passed, expected) =
            (self.passed(), programs.iter().map(|one| one.tests.len() as u64).sum::<u64>());
        if passed != expected {
            bail!("{passed} of {expected} tests passed");
        }
        Ok(())
    }

    /// Number of tests that passed.
    pub fn passed(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.count("passed")).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIAL: &str = "=== release 6.1.0\n=== kernel-a\nrunning 2 tests\nskipped: no TCX\n\
        test result: ok. 2 passed; 0 failed; 0 ignored\n\n=== status 0\n=== end\n";

    #[test]
    fn unit_the_serial_output_is_parsed() {
        let report = Report::read(SERIAL).unwrap();
        assert_eq!((report.release.as_str(), report.passed()), ("6.1.0", 2));
        assert_eq!(report.outcomes[0].skipped().collect::<Vec<_>>(), ["skipped: no TCX"]);
        report.check(&[]).expect_err("two tests passed, and none was expected");
    }

    #[test]
    fn unit_a_failure_or_an_early_end_is_an_error() {
        let failed = SERIAL.replace("status 0", "status 101");
        assert!(Report::read(&failed).unwrap().check(&[]).unwrap_err().to_string().contains("kernel-a"));
        for end in ["=== status", "=== end"] {
            let short = &SERIAL[..SERIAL.find(end).unwrap()];
            assert!(Report::read(short).is_err(), "{short}");
        }
        assert!(Report::read("").is_err());
    }
}
