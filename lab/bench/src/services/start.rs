//! How long an agent takes from its start until it is synced with the API
//! server, by the times in its log.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cluster::wait_until;
use crate::lab::{BenchLab, run};
use crate::stats::Summary;

const ROUNDS: usize = 5;
const BEGIN: &str = "for node";
const END: &str = "synced with the API server";

/// A node that no other measurement uses.
pub const NODE: &str = "node-5";

/// Prints start times with full maps, and after node restarts, when the maps are
/// empty and the agent's state is on disk.
pub fn measure(lab: &BenchLab) -> Result<()> {
    let stop = || run(lab.verb("agent").args([NODE, "stop"]));
    start_of(lab, &["agent", NODE, "start"])?;
    let (mut warm, mut cold) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        stop()?;
        warm.push(start_of(lab, &["agent", NODE, "start"])?);
        run(lab.verb("node-stop").arg(NODE))?;
        cold.push(start_of(lab, &["node-start", NODE])?);
    }
    stop()?;
    println!("    an agent is synced with the API server after, seconds ({ROUNDS} starts)");
    println!("      with full tables {}   after a node restart {}", Summary::of(&warm), Summary::of(&cold));
    Ok(())
}

fn start_of(lab: &BenchLab, verb: &[&str]) -> Result<f64> {
    let path = lab.node_path(NODE, "agent.log");
    let before = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
    run(lab.verb(verb[0]).args(&verb[1..]))?;
    let mut new = String::new();
    wait_until("the agent is synced", Duration::from_secs(60), || {
        let all = fs::read(&path)?;
        let from = usize::try_from(before).unwrap_or(0).min(all.len());
        new = String::from_utf8_lossy(&all[from..]).into_owned();
        Ok(new.contains(END))
    })?;
    let time = |words: &str| {
        let line = new.lines().find(|line| line.contains(words));
        line.and_then(seconds).with_context(|| format!("no log line with {words:?} in {}", path.display()))
    };
    Ok(time(END)? - time(BEGIN)?)
}

/// Seconds of the day, from `2026-01-02T03:04:05.678901Z`.
fn seconds(line: &str) -> Option<f64> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = time.split(':').map(|part| part.parse::<f64>().ok());
    Some(parts.next()?? * 3600.0 + parts.next()?? * 60.0 + parts.next()??)
}

#[cfg(test)]
mod tests {
    #[test]
    fn unit_the_time_of_a_log_line_is_parsed() {
        assert_eq!(super::seconds("2026-01-02T01:01:01.500000Z  INFO x"), Some(3661.5));
        assert_eq!(super::seconds("no time"), None);
    }
}
