//! Time from the API server's response to an EndpointSlice change until the
//! first connection reaches the new endpoint.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cluster::{Api, PORTS, slice};
use super::rules::{Entry, PORT};
use crate::lab::BenchLab;
use crate::traffic::monotonic_ns;

const CHANGES: usize = 200;
const PAUSE: Duration = Duration::from_millis(30);

/// Prints the times. A pod connects repeatedly to Service 1, whose only
/// endpoint alternates between two.
pub fn measure(lab: &BenchLab, api: &Api, entry: &Entry, server: Ipv4Addr) -> Result<()> {
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/s-1-0";
    let change = |round: usize| api.put(path, &slice(1, 0, &[(server, PORTS[round % 2])]));
    change(0)?;
    let to = format!("{}:{PORT}", entry.ip);
    let mut watcher = lab.in_pod("client", &["watch", &to])?.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(watcher.stdout.take().context("the client has no output")?).lines();
    let mut times = Vec::new();
    let mut next_time = || -> Result<i64> {
        let line = lines.next().context("the client exited")??;
        line.trim().parse().with_context(|| format!("the client printed {line}"))
    };
    let all = (|| -> Result<()> {
        next_time()?;
        for round in 1..=CHANGES {
            std::thread::sleep(PAUSE);
            change(round)?;
            let answered = monotonic_ns()?;
            times.push((next_time()? - answered).max(0) as f64 / 1e6);
        }
        Ok(())
    })();
    watcher.kill()?;
    watcher.wait()?;
    all?;
    times.sort_by(f64::total_cmp);
    let at = |fraction: f64| times[((times.len() - 1) as f64 * fraction) as usize];
    println!(
        "    an EndpointSlice change takes effect for new connections after p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms ({CHANGES} changes)",
        at(0.5),
        at(0.9),
        at(0.99)
    );
    Ok(())
}
