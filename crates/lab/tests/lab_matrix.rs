//! Everybody talks to everybody: pods, nodes, Services and the outside, over
//! both families, with payloads from one byte to far above the MTU.

mod traffic;

use traffic::cluster::Cluster;
use traffic::matrix::{probes, run, ways};

/// Probes of the whole matrix: counted, so that none gets lost.
const PROBES: usize = 702;

#[test]
fn lab_everybody_reaches_everybody() {
    let cluster = Cluster::up("matrix");
    let probes = probes(ways(&cluster));
    let report = run(&probes);
    eprintln!("{} probes in {:?}", report.asked, report.elapsed);
    report.must_be_whole(&cluster, PROBES);
    cluster.down();
}
