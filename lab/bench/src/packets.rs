//! Nanoseconds per packet, by `BPF_PROG_TEST_RUN`: the programs alone, with
//! the maps of a running node.

use anyhow::{Context, Result};
use beeline_abi::maps::programs;
use beeline_abi::{Ip, Mac};
use beeline_datapath::native::build::{Build, Transport};
use beeline_kernel::datapath::{PinnedDatapath, TestPacket};
use beeline_kernel::netns::NetNs;

use crate::lab::{BenchLab, NODES};
use crate::stats::Summary;

const ROUNDS: usize = 400;
/// Repetitions per test run where the packet can be reused: its TTL decreases
/// by one each time.
const REPEAT: u32 = 200;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A measured case with its packets.
struct Case {
    name: &'static str,
    program: &'static str,
    ifindex: u32,
    frames: Vec<Vec<u8>>,
    repeat: u32,
}

/// Prints the table.
pub fn measure(lab: &BenchLab) -> Result<()> {
    let node = NetNs::open(lab.node_path(NODES[0], "netns"))?;
    // All on one thread: a new thread per run would start with cold caches.
    node.enter(|| print(lab))?
}

fn print(lab: &BenchLab) -> Result<()> {
    let pinned = lab.pinned(NODES[0])?;
    println!("programs, nanoseconds per packet by test run ({ROUNDS} rounds, cases alternating)");
    for v6 in [false, true] {
        let cases = cases(lab, &pinned, v6)?;
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
        for round in 0..ROUNDS {
            for (case, times) in cases.iter().zip(&mut times) {
                let frame = &case.frames[round % case.frames.len()];
                let packet =
                    TestPacket { ifindex: case.ifindex, repeat: case.repeat, ..TestPacket::new(frame) };
                let run = pinned.test_run(case.program, &packet)?;
                times.push(f64::from(run.duration_ns));
            }
        }
        println!("  IPv{}", if v6 { 6 } else { 4 });
        for (case, times) in cases.iter().zip(&times) {
            println!("    {:<58} {}", case.name, Summary::of(times));
        }
    }
    for program in pinned.programs()? {
        println!(
            "  {}: {} verified instructions, {} bytes of JIT-compiled code",
            program.name, program.verified_instructions, program.jited_bytes
        );
    }
    Ok(())
}

fn cases(lab: &BenchLab, pinned: &PinnedDatapath, v6: bool) -> Result<Vec<Case>> {
    let ip = |address: std::net::SocketAddr| Ip::from(address.ip());
    let client = ip(lab.pod("client", v6)?);
    let (near, far) = (ip(lab.pod("near", v6)?), ip(lab.pod("server", v6)?));
    let service = ip(lab.service(v6)?);
    let endpoint =
        pinned.tables().endpoint.get(&client)?.context("the client is not in the endpoint table")?;
    let attached = pinned.attached();
    let uplink = attached.iter().find(|one| one.program == programs::FROM_UPLINK);
    let uplink = uplink.context("the node has no uplink")?.ifindex;
    let frame = |from, to, sport: u16, dport: u16, flags, mac_src: Mac| {
        let transport = Transport::Tcp { sport, dport, flags, sequence: 1, acknowledged: 1 };
        Build { ttl: 255, mac_src, payload: vec![0; 64], ..Build::new(from, to, transport) }.frame()
    };
    let out = |to, dport, sport, flags| frame(client, to, sport, dport, flags, endpoint.pod_mac);
    let new = |to| (10_000..10_000 + ROUNDS as u16).map(|sport| out(to, 9000, sport, SYN)).collect();
    let established = |to| vec![out(to, 9000, 5000, ACK)];
    let from_pod = |name, frames, repeat| Case {
        name,
        program: programs::FROM_POD,
        ifindex: endpoint.ifindex,
        frames,
        repeat,
    };
    Ok(vec![
        from_pod("from_pod, established, to a pod on the node", established(near), REPEAT),
        from_pod("from_pod, established, to another node", established(far), REPEAT),
        from_pod("from_pod, established, to a Service (translated)", established(service), 1),
        from_pod("from_pod, new connection to another node", new(far), 1),
        from_pod("from_pod, new connection to a Service", new(service), 1),
        Case {
            name: "from_uplink, established, to a pod on the node",
            program: programs::FROM_UPLINK,
            ifindex: uplink,
            frames: vec![frame(far, client, 9000, 5001, ACK, Mac([2, 0, 0, 0, 0, 9]))],
            repeat: REPEAT,
        },
        Case {
            name: "from_uplink, not for a pod (passed to the host)",
            program: programs::FROM_UPLINK,
            ifindex: uplink,
            frames: vec![vec![0xff; 60]],
            repeat: REPEAT,
        },
    ])
}
