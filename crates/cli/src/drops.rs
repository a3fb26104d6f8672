//! `beeline drops`: dropped and rejected packets with cause and resolution.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeline_abi::DropReason;
use beeline_abi::counter::hook;
use beeline_api::{Call, DropRecord, Response};
use serde::Serialize;

use crate::counters::{self, Counter};
use crate::gather;
use crate::live::Live;
use crate::names::{Directory, protocol, socket_address};
use crate::output::{self, Format, Row};
use crate::target::Target;

/// Recent drops that the summary shows, per node.
const RECENT_DROPS_MAX: usize = 10;
/// Minimum interval between two fetches of the names while following.
const NAMES_AGE_MAX: Duration = Duration::from_secs(2);
/// Capacity of the queue of lines from all nodes; readers block when it is full.
const LINES_MAX: usize = 1_024;

/// A counter of drops with its explanation.
#[derive(Debug, Serialize)]
struct ExplainedCounter {
    #[serde(flatten)]
    counter: Counter,
    cause: &'static str,
    cure: &'static str,
}

/// A sampled drop with names.
#[derive(Debug, Serialize)]
struct NamedDrop {
    node: String,
    src_name: Option<String>,
    dst_name: Option<String>,
    service_name: Option<String>,
    #[serde(flatten)]
    record: DropRecord,
}

#[derive(Debug, Serialize)]
struct Summary {
    counters: Vec<ExplainedCounter>,
    recent: Vec<NamedDrop>,
}

/// `beeline drops`.
pub fn summary(targets: &[Target], format: Format) -> Result<ExitCode> {
    let (counters, code) = gather(targets, |target| {
        let rows = counters::read(&target.label, &Live::open(target)?.counters()?);
        Ok(rows.into_iter().filter(|row| row.drop).map(explain).collect())
    });
    let recent = targets.iter().flat_map(recent).collect();
    let summary = Summary { counters, recent };
    match format {
        Format::Json => output::json(&summary)?,
        Format::Text => print_summary(&summary)?,
    }
    Ok(code)
}

fn explain(counter: Counter) -> ExplainedCounter {
    let reason = DropReason::ALL.iter().find(|reason| reason.name() == counter.what);
    let (cause, cure) = reason.map_or(("", ""), |reason| (reason.cause(), reason.cure()));
    ExplainedCounter { counter, cause, cure }
}

/// Recent drops from the agent's buffer; empty if the agent cannot be reached.
fn recent(target: &Target) -> Vec<NamedDrop> {
    let Ok(answers) = target.client().stream(Call::Drops { follow: false }) else { return Vec::new() };
    let records: Vec<DropRecord> = answers
        .map_while(|answer| match answer {
            Ok(Response::Drop(record)) => Some(*record),
            _ => None,
        })
        .collect();
    if records.is_empty() {
        return Vec::new();
    }
    let names = Directory::fetch(target);
    let skip = records.len().saturating_sub(RECENT_DROPS_MAX);
    records.into_iter().skip(skip).map(|record| NamedDrop::new(&target.label, record, &names)).collect()
}

fn print_summary(summary: &Summary) -> Result<()> {
    if summary.counters.is_empty() {
        return output::line("No packets dropped.");
    }
    let rows = summary.counters.iter().map(|row| {
        let mut cells = row.counter.cells();
        cells[2] = row.counter.what.to_owned();
        cells
    });
    output::line(&output::table(&["NODE", "HOOK", "REASON", "PACKETS", "BYTES"], rows))?;
    let reasons: BTreeSet<_> =
        summary.counters.iter().map(|row| (row.counter.what, row.cause, row.cure)).collect();
    for (reason, cause, cure) in reasons {
        output::line(&format!("\n{reason}: {cause}\n  {cure}"))?;
    }
    if !summary.recent.is_empty() {
        output::line("\nMost recent sampled drops:")?;
    }
    summary.recent.iter().try_for_each(|named| output::line(&named.text()))
}

/// `beeline drops -f`: runs until interrupted or until no agent is connected.
pub fn follow(targets: &[Target], format: Format) -> Result<ExitCode> {
    let (sender, lines) = mpsc::sync_channel(LINES_MAX);
    for target in targets.iter().cloned() {
        let sender = sender.clone();
        std::thread::Builder::new()
            .name(format!("drops of {}", target.label))
            .spawn(move || {
                if let Err(error) = follow_one(&target, &sender) {
                    eprintln!("beeline: {}: {error:#}", target.label);
                }
            })
            .context("cannot start a thread")?;
    }
    drop(sender);
    for named in lines {
        match format {
            Format::Json => output::json_line(&named)?,
            Format::Text => output::line(&named.text())?,
        }
    }
    Ok(ExitCode::FAILURE)
}

/// Follows one agent and reconnects after it restarts.
fn follow_one(target: &Target, sender: &mpsc::SyncSender<NamedDrop>) -> Result<()> {
    let mut last_time_ms = 0;
    let mut connected = target.client().stream(Call::Drops { follow: true })?;
    loop {
        let mut names: Option<(Directory, Instant)> = None;
        for answer in connected {
            let Ok(Response::Drop(record)) = answer else { break };
            // After a reconnect the agent sends its buffer again.
            if record.time_unix_ms < last_time_ms {
                continue;
            }
            last_time_ms = record.time_unix_ms;
            let fresh = names.take().filter(|(_, fetched)| fetched.elapsed() < NAMES_AGE_MAX);
            let (directory, fetched) = fresh.unwrap_or_else(|| (Directory::fetch(target), Instant::now()));
            if sender.send(NamedDrop::new(&target.label, *record, &directory)).is_err() {
                return Ok(());
            }
            names = Some((directory, fetched));
        }
        eprintln!("beeline: {}: lost the connection to the agent; reconnecting", target.label);
        connected = loop {
            std::thread::sleep(Duration::from_millis(500));
            if let Ok(stream) = target.client().stream(Call::Drops { follow: true }) {
                break stream;
            }
        };
    }
}

impl NamedDrop {
    fn new(node: &str, record: DropRecord, names: &Directory) -> NamedDrop {
        let owned = |name: Option<&str>| name.map(str::to_owned);
        // The device identifies the pod reliably; a source address may be spoofed.
        let sender =
            names.pod_of_device(record.ifindex).filter(|_| record.hook == hook::name(hook::FROM_POD));
        let receiver =
            names.pod_of_device(record.ifindex).filter(|_| record.hook == hook::name(hook::TO_POD));
        NamedDrop {
            node: node.to_owned(),
            src_name: owned(sender.or_else(|| names.pod_or_node(record.src))),
            dst_name: owned(receiver.or_else(|| names.pod_or_node(record.dst))),
            service_name: owned(
                names.service(record.service).or_else(|| names.service_of_address(record.dst)),
            ),
            record,
        }
    }

    fn text(&self) -> String {
        let r = &self.record;
        let icmp = matches!(r.proto, 1 | 58);
        let end = |ip, port, name: &Option<String>| {
            let address = socket_address(ip, if icmp { 0 } else { port });
            name.as_ref().map_or_else(|| address.clone(), |name| format!("{name} ({address})"))
        };
        let destination = self.service_name.as_ref().map(|s| format!("service {s}"));
        let destination = destination.or_else(|| self.dst_name.clone());
        let what = match (r.proto, r.ethertype) {
            (0, 0x0806) => "ARP".into(),
            (0, ethertype) => format!("ethertype 0x{ethertype:04x}"),
            (proto, _) => protocol(proto),
        };
        let lost = if r.lost > 0 { format!(" ({} events lost so far)", r.lost) } else { String::new() };
        format!(
            "{} {} {} {what} {} -> {} {} bytes{lost}",
            rfc3339(r.time_unix_ms),
            self.node,
            r.reason,
            end(r.src, r.sport, &self.src_name),
            end(r.dst, r.dport, &destination),
            r.length,
        )
    }
}

/// RFC 3339, UTC, with milliseconds.
fn rfc3339(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{unix_ms} ms"), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_api::Names;

    #[test]
    fn unit_a_drop_names_source_and_destination() {
        let record: DropRecord = serde_json::from_value(serde_json::json!({
            "time_unix_ms": 3_723_004_u64, "hook": "from_pod", "reason": "no_backend", "ifindex": 7, "ethertype": 0x0800,
            "proto": 6, "tcp_flags": 2, "length": 74, "src": "10.244.1.5", "dst": "10.96.0.7", "sport": 40000, "dport": 80,
            "src_after": "10.244.1.5", "dst_after": "10.96.0.7", "sport_after": 40000, "dport_after": 80,
            "service": 3, "cpu": 0, "sequence": 1, "lost": 0
        }))
        .unwrap();
        let names = Directory::new(Names {
            pods: vec![("10.244.1.5".parse().unwrap(), "shop/cart".into())],
            services: vec![(3, "shop/pay:http".into())],
            service_addresses: vec![("10.96.0.7".parse().unwrap(), "shop/pay".into())],
            devices: vec![(7, "shop/cart".into()), (9, "shop/spoofer".into())],
            ..Names::default()
        });
        let text = |record| NamedDrop::new("node-1", record, &names).text();
        assert_eq!(
            text(record.clone()),
            "1970-01-01T01:02:03.004Z node-1 no_backend TCP shop/cart (10.244.1.5:40000) -> service shop/pay:http (10.96.0.7:80) 74 bytes"
        );
        // A port that the Service does not have has no Service id.
        let unknown_port =
            DropRecord { reason: "no_service_port".into(), service: 0, dport: 81, ..record.clone() };
        assert_eq!(
            text(unknown_port),
            "1970-01-01T01:02:03.004Z node-1 no_service_port TCP shop/cart (10.244.1.5:40000) -> service shop/pay (10.96.0.7:81) 74 bytes"
        );
        // The sender is identified by its device, not by the spoofed address.
        let spoofed = DropRecord { reason: "spoofed_address".into(), ifindex: 9, ..record };
        assert_eq!(
            text(spoofed),
            "1970-01-01T01:02:03.004Z node-1 spoofed_address TCP shop/spoofer (10.244.1.5:40000) -> service shop/pay:http (10.96.0.7:80) 74 bytes"
        );
    }
}
