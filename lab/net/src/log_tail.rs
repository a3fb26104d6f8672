//! The last lines of a program's log file.

use std::path::Path;

/// The last line.
pub fn last_line(log: &Path) -> String {
    last_lines(log, 1).pop().unwrap_or_else(|| "it produced no output".into())
}

/// At most `count` last lines.
pub fn last_lines(log: &Path, count: usize) -> Vec<String> {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
}
