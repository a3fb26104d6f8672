//! Full connectivity: pods, nodes, Services and external hosts, over both
//! address families, with payloads from one byte to far above the MTU.

mod traffic;

#[path = "traffic/checksum.rs"]
mod checksum;

use std::fmt::Write;
use std::time::Instant;

use checksum::{Right, Verifier};
use traffic::capture::{Capture, Frame};
use traffic::cluster::{Cluster, Endpoint};
use traffic::matrix::{ProbePath, probes, run, ways};
use traffic::packet::{ETHERNET_BYTES, hex};

/// Number of probes of the complete matrix.
const PROBES: usize = 932;
/// MTU of every link.
const MTU: usize = 1500;
/// Number of frames with wrong checksums that are shown.
const WRONG_SHOWN_MAX: usize = 5;
/// Number of bytes shown of each.
const BYTES_SHOWN_MAX: usize = 160;

#[test]
fn lab_full_connectivity() {
    let cluster = Cluster::up("matrix");
    let probes = probes(ways(&cluster));
    let report = run(&probes);
    eprintln!("{} probes in {:?}", report.asked, report.elapsed);
    report.must_be_whole(&cluster, PROBES);
    cluster.down();
}

/// veth devices accept incomplete checksums and oversized GSO packets, real
/// devices do not. With both offloads disabled, the frames sent by the uplinks
/// are checked.
#[test]
fn lab_full_connectivity_without_offloads() {
    let cluster = Cluster::up("checksums");
    let with_offloads = sent_while_probing_across_nodes(&cluster);
    assert!(!judge(&with_offloads).1.is_empty(), "this test would not notice incomplete checksums");

    ["node-1", "node-2", "client"].iter().for_each(|host| no_offloads(cluster.endpoint(host)));
    whole_matrix_with_right_checksums(&cluster);
    // Pods that compute checksums themselves: translation then updates
    // complete checksums instead of those of the pseudo-header.
    ["alpha", "beta", "gamma"].iter().for_each(|pod| no_offloads(cluster.endpoint(pod)));
    whole_matrix_with_right_checksums(&cluster);
    cluster.down();
}

fn sent_while_probing_across_nodes(cluster: &Cluster) -> Vec<Frame> {
    let capture = Capture::start(Instant::now(), [("switch", &cluster.switch)]);
    let way = ProbePath { from: cluster.endpoint("alpha"), to: cluster.target("gamma") };
    let probes = probes(vec![way]);
    run(&probes).must_be_whole(cluster, probes.len());
    sent(capture)
}

fn whole_matrix_with_right_checksums(cluster: &Cluster) {
    let capture = Capture::start(Instant::now(), [("switch", &cluster.switch)]);
    let report = run(&probes(ways(cluster)));
    let frames = sent(capture);
    report.must_be_whole(cluster, PROBES);
    let (right, wrong) = judge(&frames);
    eprintln!("{} probes in {:?}, {} frames: {right:?}", report.asked, report.elapsed, frames.len());
    assert!(wrong.is_empty(), "{} of {} frames are wrong:\n{}", wrong.len(), frames.len(), shown(&wrong));
    let Right { ipv4_headers, tcp, udp, icmp, icmpv6, reassembled } = right;
    let least = [ipv4_headers, tcp, udp, icmp, icmpv6, reassembled].into_iter().min();
    assert!(least > Some(10), "too little was captured to say anything: {right:?}");
}

/// Frames sent by the uplinks, captured once at the switch ports.
fn sent(capture: Capture) -> Vec<Frame> {
    let mut frames = capture.stop();
    frames.retain(|frame| !frame.outgoing && frame.device != "switch");
    frames
}

/// Number of correct frames, and the incorrect ones with the error.
fn judge(frames: &[Frame]) -> (Right, Vec<(&Frame, String)>) {
    let mut verifier = Verifier::default();
    let mut wrong = Vec::new();
    for frame in frames {
        if frame.bytes.len() > MTU + ETHERNET_BYTES {
            wrong.push((frame, "larger than the MTU".to_owned()));
        } else if let Err(error) = verifier.take(&frame.bytes) {
            wrong.push((frame, error));
        }
    }
    (verifier.right, wrong)
}

fn shown(wrong: &[(&Frame, String)]) -> String {
    let mut text = String::new();
    for (frame, error) in wrong.iter().take(WRONG_SHOWN_MAX) {
        let _ = write!(text, "{error}: {}\n{}", frame.text(), hex(&frame.bytes, BYTES_SHOWN_MAX));
    }
    text
}

fn no_offloads(endpoint: &Endpoint) {
    endpoint.shell("ethtool -K eth0 tx off tso off gso off");
    let features = endpoint.shell("ethtool -k eth0");
    for feature in ["tx-checksumming", "tcp-segmentation-offload", "generic-segmentation-offload"] {
        assert!(features.contains(&format!("{feature}: off")), "{}: {features}", endpoint.name);
    }
}
