//! Numbered steps with elapsed time, each with a log of its own:
//! `[3/6] eBPF programs 0:42`. Goes on counting where the bootstrap stopped.

use std::fs::{self, File};
use std::io::{IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::paths;

/// How much of a failed step's log is shown.
const LINES_SHOWN: usize = 30;

/// How often a terminal sees the time move.
const TICK: Duration = Duration::from_millis(200);

/// The steps of one chore.
pub struct Steps {
    done: usize,
    total: usize,
}

impl Steps {
    /// `own` steps, after those that the bootstrap already did.
    pub fn new(own: usize) -> Self {
        let before =
            std::env::var("BEELINE_STEPS_BEFORE").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        Self { done: before, total: before + own }
    }

    /// Runs one step. What it writes to `Log` is shown only when it fails.
    pub fn run<T>(&mut self, name: &str, work: impl FnOnce(&Log) -> Result<T>) -> Result<T> {
        self.done += 1;
        let log = Log::create(&format!("{}-{}", self.done, name.replace([' ', '/'], "-")))?;
        let clock = Clock::start(format!("[{}/{}] {name}", self.done, self.total));
        let result = work(&log);
        clock.stop();
        result.map_err(|error| {
            log.show_end();
            error.context(format!("the step \"{name}\" failed; the whole log: {}", log.path.display()))
        })
    }
}

/// Where a step's commands write.
pub struct Log {
    path: PathBuf,
}

impl Log {
    fn create(name: &str) -> Result<Self> {
        let path = paths::logs().join(format!("{name}.log"));
        fs::create_dir_all(paths::logs())
            .and_then(|()| File::create(&path))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { path })
    }

    /// The log as a file to append to.
    pub fn file(&self) -> Result<File> {
        File::options()
            .append(true)
            .open(&self.path)
            .map_err(|error| anyhow!("{} cannot be opened: {error}", self.path.display()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
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

/// The running line of a step.
struct Clock {
    stop: mpsc::Sender<()>,
    ticker: thread::JoinHandle<()>,
}

impl Clock {
    fn start(line: String) -> Self {
        let (stop, stopped) = mpsc::channel();
        let started = Instant::now();
        let ticker = thread::spawn(move || {
            let on_terminal = stdout().is_terminal();
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                if on_terminal {
                    print_line(&format!("\r{line} {}", elapsed(started)));
                }
            }
            println!("{}{line} {}", if on_terminal { "\r" } else { "" }, elapsed(started));
        });
        Self { stop, ticker }
    }

    fn stop(self) {
        drop(self.stop);
        // A ticker that panicked took only its own line with it.
        let _ = self.ticker.join();
    }
}

fn print_line(text: &str) {
    print!("{text}");
    // A closed standard output is noticed by the next println.
    let _ = stdout().flush();
}

fn elapsed(since: Instant) -> String {
    let seconds = since.elapsed().as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
