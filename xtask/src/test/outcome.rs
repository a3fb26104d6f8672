//! What came of a batch of tests.

use std::process::ExitStatus;

/// A batch, run.
#[derive(Debug)]
pub struct Outcome {
    /// Of the batch.
    pub name: String,
    /// Every test of it passed.
    pub passed: bool,
    /// The runner's last word.
    pub closing_line: String,
    output: String,
}

impl Outcome {
    /// From what the batch printed.
    pub fn read(name: &str, status: ExitStatus, output: String) -> Self {
        let closing = output.lines().rev().find(|line| line.starts_with("test result:"));
        let closing_line = match closing {
            Some(line) => line.to_owned(),
            None => format!("ended with {status} before its closing line"),
        };
        Self { name: name.to_owned(), passed: status.success(), closing_line, output }
    }

    /// The part of the output that tells what went wrong.
    pub fn failures(&self) -> &str {
        self.output.find("\nfailures:\n").map_or(&self.output, |start| &self.output[start..])
    }

    /// `3` of `test result: ok. 3 passed; 0 failed; ...`.
    pub fn count(&self, what: &str) -> u64 {
        let words = self.closing_line.split(' ').rev();
        let mut words = words.skip_while(|word| word.trim_end_matches(';') != what);
        words.nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// What tests say they did not try.
    pub fn skipped(&self) -> impl Iterator<Item = &str> {
        self.output.lines().filter(|line| line.starts_with("skipped:"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn unit_the_closing_line_is_counted_and_skips_are_found() {
        let output = "running\nskipped: no bridge\n\
            test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 1s\n";
        let outcome = Outcome::read("p", ExitStatus::from_raw(0), output.to_owned());
        assert!(outcome.passed);
        assert_eq!((outcome.count("passed"), outcome.count("ignored"), outcome.count("lost")), (12, 3, 0));
        assert_eq!(outcome.skipped().collect::<Vec<_>>(), ["skipped: no bridge"]);
    }

    #[test]
    fn unit_a_program_that_dies_has_failed() {
        let outcome = Outcome::read("p", ExitStatus::from_raw(9), "test a ... ".to_owned());
        assert!(!outcome.passed && outcome.count("passed") == 0);
        assert!(outcome.closing_line.contains("before its closing line"), "{}", outcome.closing_line);
        assert_eq!(outcome.failures(), "test a ... ");
    }
}
