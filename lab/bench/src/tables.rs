//! Cost of a new connection to a Service as the maps grow, by
//! `BPF_PROG_TEST_RUN`: to one hot Service and to a random Service, compared
//! with a connection to a pod and with the baseline program, which does only the
//! map lookups and the write that a Service connection needs at least.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use beeline_abi::maps::programs;
use beeline_abi::service::{
    BackendValue, CLASS_FIRST_EXACT, FrontendKey, FrontendValue, ServiceAddressValue, ServiceValue, SlotKey,
    SlotValue, address_flags,
};
use beeline_abi::{Ip, Port};
use beeline_datapath::native::build::{Build, Transport};
use beeline_kernel::datapath::{Datapath, TestPacket, test_run};
use beeline_kernel::netns::NetNs;
use beeline_sync::Tables;

use crate::lab::{BenchLab, NODES, run};
use crate::stats::{Ratio, Summary};

const SIZES: [u32; 5] = [1, 1_000, 10_000, 30_000, 100_000];
const ROUNDS: usize = 1_000;
const SYN: u8 = 2;
/// First id of Services, classes and backends that the agent has not allocated.
const FIRST_ID: u32 = 400_000;
/// First client port of each case; distinct, because the random Service may be
/// the hot one.
const FIRST_PORTS: [u16; 5] = [10_000, 20_000, 30_000, 40_000, 50_000];
/// Index of the first case that runs the baseline program.
const BASELINE_FROM: usize = 3;

/// Prints the times. Stops the first node's agent, which would remove unknown
/// entries.
pub fn measure(lab: &BenchLab) -> Result<()> {
    run(lab.verb("agent").args([NODES[0], "stop"]))?;
    let node = NetNs::open(lab.node_path(NODES[0], "netns"))?;
    // All on one thread: a new thread per run would start with cold caches.
    node.enter(|| print(lab))?
}

fn print(lab: &BenchLab) -> Result<()> {
    let mut datapath = Datapath::open(&lab.node_path(NODES[0], "bpf"))?;
    let baseline = datapath.load_baseline()?;
    println!(
        "new connections by test run as the tables grow, nanoseconds ({ROUNDS} rounds, cases alternating)"
    );
    let plain = (Ip::from(lab.pod("server", false)?.ip()), 9000);
    let mut written = 0;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut hot_alone: Option<f64> = None;
    for (step, size) in SIZES.into_iter().enumerate() {
        (written..size).try_for_each(|number| write(&mut datapath, number))?;
        written = size;
        let mut times: [Vec<f64>; 5] = Default::default();
        for round in 0..ROUNDS {
            let turn = u16::try_from(step * ROUNDS + round)?;
            let hot = (address(0), 80);
            // Separate random targets: a shared one would be in the CPU caches already.
            let [any, other] = [0; 2].map(|_| (address(random.below(size)), 80));
            let targets = [plain, hot, any, hot, other];
            for case in 0..targets.len() {
                let at = (round + case) % targets.len();
                let frame = frame(lab, &datapath, targets[at].0, targets[at].1, FIRST_PORTS[at] + turn)?;
                let packet = TestPacket { ifindex: frame.1, ..TestPacket::new(&frame.0) };
                let run = match at < BASELINE_FROM {
                    true => datapath.test_run(programs::FROM_POD, &packet)?,
                    false => test_run(baseline.as_fd(), &packet)?,
                };
                ensure!(
                    at < BASELINE_FROM || run.retval == 0,
                    "the baseline program found no Service {:?}",
                    targets[at]
                );
                times[at].push(f64::from(run.duration_ns));
            }
        }
        print_row(size, &times, &mut hot_alone);
    }
    Ok(())
}

fn print_row(size: u32, times: &[Vec<f64>; 5], hot_alone: &mut Option<f64>) {
    let [plain, hot, any, baseline_hot, baseline_any] = times;
    let alone = *hot_alone.get_or_insert(Summary::of(hot).median);
    println!(
        "  {size:>6} Services: no Service {}   hot {} ({:.2} x alone)   random {}   random x hot {}",
        Summary::of(plain),
        Summary::of(hot),
        Summary::of(hot).median / alone,
        Summary::of(any),
        Ratio::of(any, hot),
    );
    println!(
        "  {:>6}  baseline: hot {}   random {}   x baseline: hot {}   random {}",
        "",
        Summary::of(baseline_hot),
        Summary::of(baseline_any),
        Ratio::of(hot, baseline_hot),
        Ratio::of(any, baseline_any),
    );
}

fn frame(lab: &BenchLab, datapath: &Datapath, to: Ip, dport: u16, sport: u16) -> Result<(Vec<u8>, u32)> {
    let client = Ip::from(lab.pod("client", false)?.ip());
    let endpoint =
        datapath.tables().endpoint.get(&client)?.context("the client is not in the endpoint table")?;
    let transport = Transport::Tcp { sport, dport, flags: SYN, sequence: 1, acknowledged: 1 };
    let build =
        Build { mac_src: endpoint.pod_mac, payload: vec![0; 64], ..Build::new(client, to, transport) };
    Ok((build.frame(), endpoint.ifindex))
}

fn address(number: u32) -> Ip {
    Ip::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(0x0a60_8000 + number)))
}

/// One Service with three endpoints on the other node.
fn write(datapath: &mut Datapath, number: u32) -> Result<()> {
    let service = FIRST_ID + number;
    let class = CLASS_FIRST_EXACT + service;
    let exclusive = ServiceAddressValue { class, flags: address_flags::EXCLUSIVE };
    for slot in 0..3 {
        let backend = FIRST_ID + 3 * number + slot;
        let ip = std::net::Ipv4Addr::new(10, 244, 2, 100 + (backend % 100) as u8);
        let value = BackendValue {
            ip: Ip::from(std::net::IpAddr::from(ip)),
            port: Port::new(1_000 + (backend % 60_000) as u16),
            proto: 6,
            state: 1,
            ..Default::default()
        };
        datapath.backend().update(&backend, &value)?;
        let key = SlotKey { service, generation: 1, slot };
        datapath.slot().update(&key, &SlotValue::of(backend, &value))?;
    }
    datapath.service().update(&service, &ServiceValue { generation: 1, slots: 3, ..Default::default() })?;
    let frontend = FrontendKey { class, port: Port::new(80), proto: 6, scope: 0 };
    datapath.frontend().update(&frontend, &FrontendValue { service, ..Default::default() })?;
    Ok(datapath.service_address().update(&address(number), &exclusive)?)
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % u64::from(end)) as u32
    }
}
