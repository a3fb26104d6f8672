//! The layouts that cross into the kernel are recorded in `layout.snapshot`.
//!
//! Pinned maps outlive the programs that created them: a layout that changes
//! under the same version would be misread after an upgrade. Therefore a
//! change needs a new `ABI_VERSION` (its maps get a directory of their own), and
//! then the record is updated:
//!
//!     BEELINE_LAYOUT=update cargo test -p beeline-abi --test unit_layout
//!
//! `BEELINE_LAYOUT=rewrite` records a change under the same version: only for a
//! layout that was never released.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

use std::fmt::Write;
use std::mem::{align_of, offset_of, size_of};
use std::path::{Path, PathBuf};

use beeline_abi::address::{AddressKey, AddressValue};
use beeline_abi::config::ConfigValue;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue, SweepValue, bpf_timer};
use beeline_abi::counter::CounterValue;
use beeline_abi::endpoint::{EndpointValue, NamespaceValue};
use beeline_abi::event::{Event, EventState};
use beeline_abi::fragment::{FragmentKey, FragmentValue};
use beeline_abi::node::NodeValue;
use beeline_abi::service::{
    AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, MaglevSegment, ServiceAddressValue,
    ServiceValue, SlotKey, SlotValue, SourceRangeKey, SourceRangeValue,
};
use beeline_abi::socket::{SocketKey, SocketValue};
use beeline_abi::{ABI_VERSION, Ip, Mac, Port, maps};

/// Public structs that are in no shared map: the scratch memory of the programs
/// and the definition of a map.
const NOT_SHARED: &[&str] = &["Context", "MapSpec"];

/// A field: name, offset, bytes.
type Field = (&'static str, usize, usize);

/// A struct: name, bytes, alignment, fields.
struct Layout(&'static str, usize, usize, Vec<Field>);

/// Describes a struct. A field that is missing here is detected: structs have no
/// padding, so the sizes of the fields must add up to the size of the struct.
macro_rules! layout {
    ($type:ident { $($field:tt),* $(,)? }) => {
        Layout(
            stringify!($type),
            size_of::<$type>(),
            align_of::<$type>(),
            vec![$((stringify!($field), offset_of!($type, $field), field_size(|value: &$type| &value.$field))),*],
        )
    };
}

/// Size in bytes of the field that a projection returns; it is never called.
fn field_size<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

fn layouts() -> Vec<Layout> {
    vec![
        layout!(Ip { 0 }),
        layout!(Mac { 0 }),
        layout!(Port { 0 }),
        layout!(AddressKey { prefix_bits, ip }),
        layout!(AddressValue { kind, flags, reserved, node, identity }),
        layout!(ConfigValue {
            abi_version,
            flags,
            node,
            ticks_tcp_established,
            ticks_tcp_opening,
            ticks_tcp_closing,
            ticks_udp,
            ticks_udp_unreplied,
            ticks_icmp,
            events_per_s,
            netns_cookie,
            node_ipv4,
            node_ipv6,
            nat_port_first,
            nat_port_last,
            reserved,
        }),
        layout!(ConntrackKey { ip_a, ip_b, port_a, port_b, proto, zone, reserved }),
        layout!(ConntrackValue {
            nat_ip,
            nat_port,
            flags,
            expires,
            service,
            backend,
            generation,
            ingress_ifindex,
            tcp_origin,
            tcp_reply,
            ingress_mac,
            identity_origin,
            identity_reply,
            policy_revision,
            created,
            packets_origin,
            bytes_origin,
            packets_reply,
            bytes_reply,
            snat_ip,
            snat_port,
            reserved,
        }),
        layout!(SweepValue { timer, sweeps, removed, live, duration_ns, removed_now, live_now }),
        layout!(bpf_timer { opaque }),
        layout!(CounterValue { packets, bytes }),
        layout!(EndpointValue {
            ifindex,
            identity,
            netns_cookie,
            pod_mac,
            mtu,
            flags,
            id,
            guard_ip,
            guard_bits,
            reserved,
        }),
        layout!(NamespaceValue { flags, reserved }),
        layout!(Event {
            version,
            kind,
            hook,
            reason,
            cpu,
            time_ns,
            sequence,
            lost,
            ifindex,
            length,
            identity_src,
            identity_dst,
            service,
            backend,
            src,
            dst,
            src_after,
            dst_after,
            sport,
            dport,
            sport_after,
            dport_after,
            proto,
            tcp_flags,
            ethertype,
            reserved,
        }),
        layout!(EventState { sequence, lost, window, written }),
        layout!(FragmentKey { src, dst, id, proto }),
        layout!(FragmentValue { sport, dport, seen }),
        layout!(NodeValue { mode, neighbour_state, path_mtu, flags, ipv4, ipv6, tunnel_ip }),
        layout!(ServiceAddressValue { class, flags }),
        layout!(FrontendKey { class, port, proto, scope }),
        layout!(FrontendValue { service, flags, source_ranges }),
        layout!(ServiceValue { generation, slots, flags, affinity_s, maglev_generation, maglev_size }),
        layout!(SlotKey { service, generation, slot }),
        layout!(SlotValue { backend, flags, ip, port, reserved }),
        layout!(MaglevSegment { backends }),
        layout!(BackendValue { ip, port, proto, state, node, zone, weight, flags }),
        layout!(SourceRangeKey { prefix_bits, set, ip }),
        layout!(SourceRangeValue { allowed }),
        layout!(AffinityKey { client, service, is_cookie }),
        layout!(AffinityValue { backend, used }),
        layout!(SocketKey { cookie, ip, port, proto, direction, reserved }),
        layout!(SocketValue { ip, port, flags, service, backend }),
    ]
}

fn snapshot() -> String {
    let mut text = format!("abi_version {ABI_VERSION}\n");
    for Layout(name, bytes, alignment, fields) in layouts() {
        write!(text, "\n{name}: {bytes} bytes, aligned to {alignment}\n").unwrap();
        for (field, offset, bytes) in fields {
            writeln!(text, "  {offset:>4} {field}: {bytes} B").unwrap();
        }
    }
    text.push_str("\ntables\n");
    for spec in maps::ALL.iter().chain([&maps::CONNTRACK_TABLE]) {
        let maps::MapSpec { name, kind, key_size, value_size, max_entries } = spec;
        writeln!(text, "  {name}: {kind:?}, {key_size} -> {value_size} bytes, {max_entries} entries")
            .unwrap();
    }
    text
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn unit_the_layout_changes_only_with_its_version() {
    let path: PathBuf = package().join("layout.snapshot");
    let (recorded, now) = (std::fs::read_to_string(&path).unwrap_or_default(), snapshot());
    if recorded == now {
        return;
    }
    let risen = recorded.lines().next() != now.lines().next();
    match std::env::var("BEELINE_LAYOUT").as_deref() {
        Ok("rewrite") => return std::fs::write(&path, now).unwrap(),
        Ok("update") if risen => return std::fs::write(&path, now).unwrap(),
        _ => {}
    }
    let next = if risen {
        "The version has changed: record the layout with\n  BEELINE_LAYOUT=update cargo test -p beeline-abi --test unit_layout"
    } else {
        "Raise ABI_VERSION in crates/abi/src/lib.rs, then record the layout with\n  \
         BEELINE_LAYOUT=update cargo test -p beeline-abi --test unit_layout\n\
         (BEELINE_LAYOUT=rewrite, if no release has had this version)"
    };
    panic!(
        "the layouts are not those of crates/abi/layout.snapshot:\n\n{}\n{next}",
        difference(&recorded, &now)
    );
}

#[test]
fn unit_no_field_is_forgotten() {
    for Layout(name, bytes, _, fields) in layouts() {
        let sum: usize = fields.iter().map(|(_, _, bytes)| bytes).sum();
        assert_eq!(sum, bytes, "{name}: name every field in this file");
    }
}

#[test]
fn unit_no_struct_is_forgotten() {
    let described: Vec<&str> = layouts().iter().map(|layout| layout.0).collect();
    for entry in std::fs::read_dir(package().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let source = std::fs::read_to_string(&path).unwrap();
        for line in source.lines().filter_map(|line| line.strip_prefix("pub struct ")) {
            let name = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap();
            let known = described.contains(&name) || NOT_SHARED.contains(&name);
            assert!(known, "{name} of {} is not described in this file", path.display());
        }
    }
}

#[test]
fn unit_a_difference_is_printed_with_its_heading() {
    let (before, after) =
        ("A: 4 bytes\n  0 a\nB: 8 bytes\n  0 b\n  4 c\n", "A: 4 bytes\n  0 a\nB: 8 bytes\n  0 b\n  4 d\n");
    assert_eq!(difference(before, after), "  B: 8 bytes\n-   4 c\n+   4 d\n");
}

/// Lines that only one side has, each below its heading.
fn difference(before: &str, after: &str) -> String {
    let (before, after) = (with_headings(before), with_headings(after));
    let gone = before.iter().filter(|line| !after.contains(line)).map(|line| ('-', line));
    let come = after.iter().filter(|line| !before.contains(line)).map(|line| ('+', line));
    let mut text = String::new();
    let mut last = "";
    let mut all: Vec<_> = gone.chain(come).collect();
    all.sort_by_key(|(_, (heading, _))| *heading);
    for (sign, (heading, line)) in all {
        if *heading != last && heading != line {
            writeln!(text, "  {heading}").unwrap();
        }
        last = heading;
        writeln!(text, "{sign} {line}").unwrap();
    }
    text
}

fn with_headings(text: &str) -> Vec<(&str, &str)> {
    let mut heading = "";
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            if !line.starts_with(' ') {
                heading = line;
            }
            (heading, line)
        })
        .collect()
}
