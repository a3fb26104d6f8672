//! The outcome of a batch of tests.

use std::process::ExitStatus;

/// The outcome of a batch.
#[derive(Debug)]
pub struct Outcome {
    /// The name of the batch.
    pub name: String,
    /// Whether every test passed.
    pub passed: bool,
    /// The line `test result: ...`.
    pub closing_line: String,
    output: String,
}

impl Outcome {
    /// Parses the output of the batch.
    pub fn read(name: &str, status: ExitStatus, output: String) -> Self {
        let closing = output.lines().rev().find(|line| line.starts_with("test result:"));
        let closing_line = match closing {
            Some(line) => line.to_owned(),
            None => format!("ended with {status} before the line of the result"),
        };
        Self { name: name.to_owned(), passed: status.success(), closing_line, output }
    }

    /// The part of the output that is about failed tests.
    pub fn failures(&self) -> &str {
        self.output.find("\nfailures:\n").map_or(&self.output, |start| &self.output[start..])
    }

    /// `3` of `test result: ok. 3 passed; 0 failed; ...`.
    pub fn count(&self, what: &str) -> u64 {
        let words = self.closing_line.split(' ').rev();
        let mut words = words.skip_while(|word| word.trim_end_matches(';') != what);
        words.nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// The lines in which tests say what they skipped.
    pub fn skipped(&self) -> impl Iterator<Item = &str> {
        self.output.lines().filter(|line| line.starts_with("skipped:"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn unit_the_counts_and_skipped_lines_are_found() {
        let output = "running\nskipped: no bridge\n\
            test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 1s\n";
        let outcome = Outcome::read("p", ExitStatus::from_raw(0), output.to_owned());
        assert!(outcome.passed);
        assert_eq!((outcome.count("passed"), outcome.count("ignored"), outcome.count("unknown")), (12, 3, 0));
        assert_eq!(outcome.skipped().collect::<Vec<_>>(), ["skipped: no bridge"]);
    }

    #[test]
    fn unit_a_program_that_is_killed_has_failed() {
        let outcome = Outcome::read("p", ExitStatus::from_raw(9), "test a ... ".to_owned());
        assert!(!outcome.passed && outcome.count("passed") == 0);
        assert!(outcome.closing_line.contains("before the line of the result"), "{}", outcome.closing_line);
        assert_eq!(outcome.failures(), "test a ... ");
    }
}
