//! Metrics: one list of metrics, from which documentation and encoding are
//! generated, and a snapshot of their current values.
//!
//! The number of series is bounded by [`SERIES_MAX`]: label values (hooks,
//! reasons, outcomes, tables, objects) come from fixed lists, never from names
//! of pods or Services, and zero series of long lists are not exported.

use std::fmt;
use std::fmt::Write as _;

use beeline_abi::DropReason;
use beeline_abi::counter::{self, CounterValue, hook, outcome};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// Maximum number of series that a node exports.
pub const SERIES_MAX: usize = 320;

/// The values of all metrics at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The datapath's counters, summed over CPUs, by counter index.
    pub counters: Vec<CounterValue>,
    /// Name, entries and capacity of each table.
    pub tables: Vec<(String, u64, u64)>,
    /// Name and kernel memory in bytes of each table.
    pub memory: Vec<(String, u64)>,
    /// Resident memory of the agent, in bytes.
    pub resident_bytes: u64,
    /// Table entries that differed from the desired state.
    pub drift: u64,
    /// Restored objects, by kind.
    pub repairs: Vec<(String, u64)>,
    /// Failed table updates.
    pub sync_errors: u64,
    /// Leftovers of kube-proxy on this node, by kind.
    pub kube_proxy: Vec<(String, u64)>,
    /// Sockets destroyed because their backend was removed.
    pub sockets_destroyed: u64,
    /// Ports available to SNAT.
    pub nat_ports: u64,
    /// The last contact with the API server succeeded.
    pub api_connected: bool,
    /// The initial list is programmed.
    pub synced: bool,
    /// Objects that cannot be used.
    pub problems: u64,
    /// Events about problems of objects, by outcome.
    pub object_events: Vec<(&'static str, u64)>,
    /// Local pods.
    pub endpoints: u64,
    /// Drop events that were not written to the event stream.
    pub events_lost: u64,
    /// Drop events read from the event stream.
    pub events_read: u64,
}

/// Counters have no exemplars.
type NoLabels = Vec<(&'static str, String)>;

/// Labels and value of one series.
type Series = (Vec<(&'static str, String)>, u64);

/// Definition of a metric.
struct Metric {
    /// Name without the prefix `beeline_` and without `_total`.
    name: &'static str,
    kind: MetricType,
    labels: &'static str,
    help: &'static str,
    read: fn(&Snapshot) -> Vec<Series>,
}

const METRICS: &[Metric] = &[
    Metric {
        name: "build",
        kind: MetricType::Gauge,
        labels: "version, abi_version",
        help: "Always 1, labelled with the release and the ABI version of the tables",
        read: |_| {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            vec![(vec![("version", version), ("abi_version", beeline_abi::ABI_VERSION.to_string())], 1)]
        },
    },
    Metric {
        name: "drops",
        kind: MetricType::Counter,
        labels: "hook, reason",
        help: "Packets dropped, by hook and reason; docs/drop-reasons.md has the cause and the remedy of each reason. Zero series are not exported",
        read: drops,
    },
    Metric {
        name: "forwarded_packets",
        kind: MetricType::Counter,
        labels: "hook, outcome",
        help: "Packets that a hook did not drop, by outcome (a GSO packet counts as one)",
        read: |snapshot| forwarded(snapshot, |value| value.packets),
    },
    Metric {
        name: "forwarded_bytes",
        kind: MetricType::Counter,
        labels: "hook, outcome",
        help: "Bytes (whole frames) of the packets counted in beeline_forwarded_packets_total",
        read: |snapshot| forwarded(snapshot, |value| value.bytes),
    },
    Metric {
        name: "map_entries",
        kind: MetricType::Gauge,
        labels: "table",
        help: "Entries in a table of the datapath",
        read: |snapshot| tables(snapshot, |table| table.1),
    },
    Metric {
        name: "map_capacity",
        kind: MetricType::Gauge,
        labels: "table",
        help: "Maximum number of entries of a table of the datapath",
        read: |snapshot| tables(snapshot, |table| table.2),
    },
    Metric {
        name: "map_memory_bytes",
        kind: MetricType::Gauge,
        labels: "table",
        help: "Kernel memory used by a table of the datapath",
        read: |snapshot| {
            let series = snapshot.memory.iter();
            series.map(|(name, bytes)| (vec![("table", name.clone())], *bytes)).collect()
        },
    },
    Metric {
        name: "agent_resident_bytes",
        kind: MetricType::Gauge,
        labels: "",
        help: "Resident memory of the agent",
        read: |snapshot| one(snapshot.resident_bytes),
    },
    Metric {
        name: "endpoints",
        kind: MetricType::Gauge,
        labels: "",
        help: "Local pods that are programmed in the datapath",
        read: |snapshot| one(snapshot.endpoints),
    },
    Metric {
        name: "drift",
        kind: MetricType::Counter,
        labels: "",
        help: "Table entries that differed from the desired state and were corrected",
        read: |snapshot| one(snapshot.drift),
    },
    Metric {
        name: "repairs",
        kind: MetricType::Counter,
        labels: "object",
        help: "Routes, links, neighbours, sysctls and program attachments that another process removed or changed, and that the agent restored",
        read: |snapshot| {
            snapshot
                .repairs
                .iter()
                .map(|(object, count)| (vec![("object", object.clone())], *count))
                .collect()
        },
    },
    Metric {
        name: "sync_errors",
        kind: MetricType::Counter,
        labels: "",
        help: "Table updates that failed; they are retried",
        read: |snapshot| one(snapshot.sync_errors),
    },
    Metric {
        name: "sockets_destroyed",
        kind: MetricType::Counter,
        labels: "",
        help: "Sockets destroyed because a socket hook had connected them to a backend that was removed",
        read: |snapshot| one(snapshot.sockets_destroyed),
    },
    Metric {
        name: "nat_ports",
        kind: MetricType::Gauge,
        labels: "",
        help: "Ports available to SNAT for each destination; the outcome port_taken shows how full they are, the drop reason nat_ports_full counts exhaustion",
        read: |snapshot| one(snapshot.nat_ports),
    },
    Metric {
        name: "kube_proxy_leftovers",
        kind: MetricType::Gauge,
        labels: "kind",
        help: "Rule sets that kube-proxy left on this node (nftables, iptables, iptables-legacy, ipvs; one per address family), and TCP connections that the host translates; while there are any, mid-stream packets of unknown TCP connections are left to the host",
        read: |snapshot| {
            let series = snapshot.kube_proxy.iter();
            series.map(|(kind, count)| (vec![("kind", kind.clone())], *count)).collect()
        },
    },
    Metric {
        name: "api_connected",
        kind: MetricType::Gauge,
        labels: "",
        help: "1 if the last contact with the API server succeeded, else 0",
        read: |snapshot| one(snapshot.api_connected.into()),
    },
    Metric {
        name: "synced",
        kind: MetricType::Gauge,
        labels: "",
        help: "1 once the initial list from the API server is programmed, else 0",
        read: |snapshot| one(snapshot.synced.into()),
    },
    Metric {
        name: "problems",
        kind: MetricType::Gauge,
        labels: "",
        help: "Objects, or parts of objects, that cannot be used; `beeline status` and the events on the objects show which",
        read: |snapshot| one(snapshot.problems),
    },
    Metric {
        name: "object_events",
        kind: MetricType::Counter,
        labels: "outcome",
        help: "Kubernetes events about objects with problems: told (published by this node or another), dropped (the queue was full), failed (attempts; they are retried). Zero series are not exported",
        read: |snapshot| {
            let happened = snapshot.object_events.iter().filter(|(_, count)| *count > 0);
            happened.map(|(outcome, count)| (vec![("outcome", (*outcome).to_owned())], *count)).collect()
        },
    },
    Metric {
        name: "events_lost",
        kind: MetricType::Counter,
        labels: "",
        help: "Drop events that were not written to the event stream (rate limit, full buffer); counters are never sampled",
        read: |snapshot| one(snapshot.events_lost),
    },
    Metric {
        name: "events_read",
        kind: MetricType::Counter,
        labels: "",
        help: "Drop events read from the event stream",
        read: |snapshot| one(snapshot.events_read),
    },
];

/// Encodes the snapshot in the OpenMetrics text format.
pub fn encode(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("beeline");
    registry.register_collector(Box::new(SnapshotCollector(snapshot)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The content of docs/metrics.md.
pub fn documentation() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         The agent of each node serves these on `/metrics` of its loopback address (`--http`), in the OpenMetrics\n\
         text format. This page is generated: `beeline-agent --print-metrics-doc > docs/metrics.md`.\n\n\
         Labels come from fixed lists, never from names of pods or services",
    );
    let _ = write!(page, ": a node exports at most {SERIES_MAX} series.\n\n");
    page.push_str("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for metric in METRICS {
        let kind = if is_counter(metric) { "counter" } else { "gauge" };
        let _ = writeln!(page, "| `{}` | {kind} | {} | {}. |", full_name(metric), metric.labels, metric.help);
    }
    page
}

#[derive(Debug)]
struct SnapshotCollector(Snapshot);

impl Collector for SnapshotCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for metric in METRICS {
            let series = (metric.read)(&self.0);
            if series.is_empty() {
                continue;
            }
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            for (labels, value) in series {
                let mut one = family.encode_family(&labels)?;
                if is_counter(metric) {
                    one.encode_counter::<NoLabels, _, u64>(&value, None)?;
                } else {
                    one.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))?;
                }
            }
        }
        Ok(())
    }
}

fn is_counter(metric: &Metric) -> bool {
    matches!(metric.kind, MetricType::Counter)
}

fn full_name(metric: &Metric) -> String {
    format!("beeline_{}{}", metric.name, if is_counter(metric) { "_total" } else { "" })
}

fn one(value: u64) -> Vec<Series> {
    vec![(Vec::new(), value)]
}

fn value_at(snapshot: &Snapshot, index: u32) -> CounterValue {
    snapshot.counters.get(index as usize).copied().unwrap_or_default()
}

fn drops(snapshot: &Snapshot) -> Vec<Series> {
    let mut series = Vec::new();
    for hook in 0..hook::COUNT {
        for reason in DropReason::ALL {
            let packets = value_at(snapshot, counter::drop_index(hook, *reason as u8)).packets;
            if packets > 0 {
                let labels =
                    vec![("hook", hook::name(hook).to_owned()), ("reason", reason.name().to_owned())];
                series.push((labels, packets));
            }
        }
    }
    series
}

fn forwarded(snapshot: &Snapshot, read: fn(&CounterValue) -> u64) -> Vec<Series> {
    let mut series = Vec::new();
    for hook in 0..hook::COUNT {
        for outcome in (0..outcome::COUNT).filter(|outcome| outcome::name(*outcome) != "unknown") {
            let value = value_at(snapshot, counter::outcome_index(hook, outcome));
            if value.packets > 0 {
                let labels = vec![
                    ("hook", hook::name(hook).to_owned()),
                    ("outcome", outcome::name(outcome).to_owned()),
                ];
                series.push((labels, read(&value)));
            }
        }
    }
    series
}

fn tables(snapshot: &Snapshot, read: fn(&(String, u64, u64)) -> u64) -> Vec<Series> {
    snapshot.tables.iter().map(|table| (vec![("table", table.0.clone())], read(table))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_abi::maps;

    fn everything() -> Snapshot {
        Snapshot {
            counters: vec![CounterValue { packets: 1, bytes: 1 }; counter::COUNTERS as usize],
            tables: maps::ALL.iter().map(|map| (map.name.to_lowercase(), 1, 2)).collect(),
            memory: maps::ALL.iter().map(|map| (map.name.to_lowercase(), 1)).collect(),
            object_events: ["told", "dropped", "failed"].map(|outcome| (outcome, 1)).to_vec(),
            repairs: ["route", "sysctl", "link", "neighbour", "attachment"]
                .map(|object| (object.to_owned(), 1))
                .to_vec(),
            kube_proxy: ["nftables", "iptables", "iptables-legacy", "ipvs", "connections"]
                .map(|kind| (kind.to_owned(), 1))
                .to_vec(),
            ..Snapshot::default()
        }
    }

    fn series(text: &str) -> usize {
        text.lines().filter(|line| !line.starts_with('#')).count()
    }

    #[test]
    fn unit_the_number_of_series_is_bounded_when_everything_happened() {
        let text = encode(everything()).unwrap();
        assert!(series(&text) <= SERIES_MAX, "{} series:\n{text}", series(&text));
    }

    #[test]
    fn unit_zero_series_are_not_exported() {
        let text = encode(Snapshot::default()).unwrap();
        assert!(series(&text) < 15, "{text}");
        assert!(!text.contains("beeline_drops_total{"), "{text}");
    }

    #[test]
    fn unit_a_drop_is_exported_with_hook_and_reason() {
        let mut snapshot = Snapshot { counters: vec![CounterValue::default(); 512], ..Snapshot::default() };
        let index = counter::drop_index(hook::FROM_POD, DropReason::SpoofedAddress as u8);
        snapshot.counters[index as usize].packets = 7;
        let text = encode(snapshot).unwrap();
        assert!(
            text.contains(r#"beeline_drops_total{hook="from_pod",reason="spoofed_address"} 7"#),
            "{text}"
        );
    }

    #[test]
    fn unit_the_page_in_docs_is_what_the_code_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == documentation(),
            "docs/metrics.md is not what the code says; run: beeline-agent --print-metrics-doc > docs/metrics.md"
        );
    }

    /// Metrics of a page, each with the labels in the braces behind it; the
    /// ending `.beeline_bak` of a file is none.
    fn named(page: &str) -> impl Iterator<Item = (&str, &str)> {
        let found = page.match_indices("beeline_").filter(|(at, _)| !page[..*at].ends_with('.'));
        found.map(|(at, _)| {
            let rest = &page[at..];
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
            let labels = rest[end..].strip_prefix('{').and_then(|labels| labels.split('}').next());
            (&rest[..end], labels.unwrap_or_default())
        })
    }

    #[test]
    fn unit_every_metric_and_label_that_a_page_names_exists() {
        let top = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let exported = encode(everything()).unwrap();
        let mut pages = vec![format!("{top}/README.md"), format!("{top}/CHANGELOG.md")];
        let docs = std::fs::read_dir(format!("{top}/docs")).unwrap().flatten();
        pages.extend(
            docs.map(|entry| entry.path().display().to_string()).filter(|path| path.ends_with(".md")),
        );
        let mut count = 0;
        for page in pages {
            let text = std::fs::read_to_string(&page).unwrap();
            for (metric, labels) in named(&text) {
                assert!(METRICS.iter().any(|known| full_name(known) == metric), "{page}: no metric {metric}");
                for label in labels.split(',').filter(|label| !label.is_empty()) {
                    let has = |line: &str| line.starts_with(metric) && line.contains(label.trim());
                    assert!(exported.lines().any(has), "{page}: {metric} has no label {label}");
                }
                count += 1;
            }
        }
        assert!(count > METRICS.len(), "only {count} metrics were found");
    }

    #[test]
    fn unit_every_documented_metric_is_exported() {
        let text = encode(everything()).unwrap();
        for metric in METRICS {
            assert!(text.contains(&full_name(metric)), "{} is not exported:\n{text}", full_name(metric));
        }
    }
}
