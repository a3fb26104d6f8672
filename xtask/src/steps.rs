//! Numbered steps with elapsed time, each with a log of its own:
//! `[3/6] eBPF programs 0:42`. The numbers continue those of the bootstrap.
//!
//! While a step runs, a terminal shows one line that is rewritten; anything
//! else (a pipe, a CI log) gets a line every quarter of a minute.

use std::fs::{self, File};
use std::io::{IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::paths;

/// How much of a failed step's log is shown.
const LINES_SHOWN: usize = 30;

/// How often the line on a terminal is rewritten.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

/// Erases a terminal's line from the cursor to its end (ECMA-48 EL).
const ERASE: &str = "\x1b[K";

/// The steps of one chore.
pub struct Steps {
    done: usize,
    total: usize,
}

impl Steps {
    /// `own` steps, after those of the bootstrap.
    pub fn new(own: usize) -> Self {
        let before =
            std::env::var("BEELINE_STEPS_BEFORE").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        Self { done: before, total: before + own }
    }

    /// Runs one step. What it writes to `Log` is shown only when it fails.
    pub fn run<T>(&mut self, name: &str, work: impl FnOnce(&Log) -> Result<T>) -> Result<T> {
        self.done += 1;
        let log = Log::create(&format!("{}-{}", self.done, name.replace([' ', '/'], "-")))?;
        let clock = Clock::start(format!("[{}/{}] {name}", self.done, self.total), log.progress.clone());
        let result = work(&log);
        clock.stop();
        result.map_err(|error| {
            log.show_end();
            error.context(format!("the step \"{name}\" failed; the whole log: {}", log.path.display()))
        })
    }
}

/// How far a step has come, in words: `118 of 243 crates`.
type Progress = Arc<Mutex<String>>;

/// Where a step's commands write.
pub struct Log {
    path: PathBuf,
    progress: Progress,
}

impl Log {
    fn create(name: &str) -> Result<Self> {
        let path = paths::logs().join(format!("{name}.log"));
        fs::create_dir_all(paths::logs())
            .and_then(|()| File::create(&path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, progress: Progress::default() })
    }

    /// The log as a file to append to.
    pub fn file(&self) -> Result<File> {
        File::options()
            .append(true)
            .open(&self.path)
            .map_err(|error| anyhow!("cannot open {}: {error}", self.path.display()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shows how far the step has come, beside its elapsed time.
    pub fn progress(&self, text: String) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn show_end(&self) {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!();
        for line in &lines[lines.len().saturating_sub(LINES_SHOWN)..] {
            eprintln!("{line}");
        }
    }
}

/// Prints a running step's line.
struct Clock {
    stop: mpsc::Sender<()>,
    ticker: thread::JoinHandle<()>,
}

impl Clock {
    fn start(line: String, progress: Progress) -> Self {
        let (stop, stopped) = mpsc::channel();
        let started = Instant::now();
        let ticker = thread::spawn(move || {
            let on_terminal = stdout().is_terminal();
            let interval = if on_terminal { TERMINAL_INTERVAL } else { LINE_INTERVAL };
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let progress = progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let text = running(&line, started.elapsed(), &progress);
                print(&if on_terminal { format!("\r{text}{ERASE}") } else { format!("{text}\n") });
            }
            let text = running(&line, started.elapsed(), "");
            print(&if on_terminal { format!("\r{text}{ERASE}\n") } else { format!("{text}\n") });
        });
        Self { stop, ticker }
    }

    fn stop(self) {
        drop(self.stop);
        // A panic of the ticker loses the step's line, not its result.
        let _ = self.ticker.join();
    }
}

/// `[4/6] binaries 3:12, 118 of 243 crates`; a finished step has no progress.
fn running(line: &str, elapsed: Duration, progress: &str) -> String {
    let seconds = elapsed.as_secs();
    let separator = if progress.is_empty() { "" } else { ", " };
    format!("{line} {}:{:02}{separator}{progress}", seconds / 60, seconds % 60)
}

fn print(text: &str) {
    let mut out = stdout();
    // A closed standard output must not stop the step.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_a_running_step_shows_its_progress_and_a_finished_one_its_time() {
        let elapsed = Duration::from_secs(192);
        let text = running("[4/6] binaries", elapsed, "118 of 243 crates");
        assert_eq!(text, "[4/6] binaries 3:12, 118 of 243 crates");
        assert_eq!(running("[4/6] binaries", elapsed, ""), "[4/6] binaries 3:12");
    }
}
