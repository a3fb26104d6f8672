//! `beeline-bench`: benchmarks of Beeline on a lab on this machine. Each result
//! is a median over rounds in which the compared cases alternate.

mod cni;
mod lab;
mod packets;
mod plan;
mod rates;
mod services;
mod size;
mod stats;
mod tables;
mod traffic;
mod veth;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use lab::BenchLab;

/// Benchmark Beeline on a temporary lab. Requires root.
#[derive(Debug, Parser)]
#[command(name = "beeline-bench", version)]
struct Arguments {
    /// Rounds of the rate measurements
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Duration of one rate measurement, in milliseconds
    #[arg(long, default_value_t = 300)]
    millis: u64,
    /// Numbers of Services to measure
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000, 30_000])]
    services: Vec<usize>,
    /// Run only these benchmarks
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Set a lab value, for example bpf.enableTCX=false
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// Benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Memory of the agents and eBPF maps
    Memory,
    /// Nanoseconds per packet, by BPF_PROG_TEST_RUN
    Packets,
    /// Nanoseconds per new connection with 1 to 100,000 Services, by BPF_PROG_TEST_RUN
    Tables,
    /// Seconds to plan and program 10,000 Services
    Plan,
    /// Latency of CNI ADD and DEL
    Cni,
    /// Connections and requests per second, compared with kernel forwarding
    Rates,
    /// Time and memory of labs
    Lab,
    /// Thousands of Services, compared with iptables and nftables rules as kube-proxy writes them
    Services,
    /// Latency of endpoint changes and agent start time with 10,000 Services
    Change,
}

/// What this program does when it runs inside a pod.
#[derive(Debug, Subcommand)]
enum Role {
    /// Reply to every byte on a port
    #[command(hide = true)]
    Serve {
        /// The port
        port: u16,
    },
    /// Connect and close repeatedly; print connections per second and the p50 and p99 latency in microseconds
    #[command(hide = true)]
    Connect {
        /// The server
        to: SocketAddr,
        /// Duration in milliseconds
        millis: u64,
    },
    /// Print the time whenever another endpoint replies
    #[command(hide = true)]
    Watch {
        /// The server
        to: SocketAddr,
    },
    /// Exchange one byte repeatedly; print exchanges per second
    #[command(hide = true)]
    Request {
        /// The server
        to: SocketAddr,
        /// Duration in milliseconds
        millis: u64,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("beeline-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn run(self) -> Result<()> {
        match self.role {
            Some(Role::Serve { port }) => traffic::serve(port),
            Some(Role::Connect { to, millis }) => {
                let made = traffic::connect_and_close(to, Duration::from_millis(millis))?;
                println!("{} {} {}", made.rate, made.p50_us, made.p99_us);
                Ok(())
            }
            Some(Role::Watch { to }) => traffic::watch(to),
            Some(Role::Request { to, millis }) => {
                print_rate(traffic::request_and_response(to, Duration::from_millis(millis))?)
            }
            None => self.measure(),
        }
    }

    fn selects(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn measure(&self) -> Result<()> {
        if self.selects(Part::Lab) {
            size::measure(&self.set)?;
        }
        if self.selects(Part::Services) {
            services::measure(&self.set, &self.services, self.rounds, self.millis)?;
        }
        if self.only.contains(&Part::Change) {
            services::measure_change(&self.set)?;
        }
        let parts_with_own_labs = [Part::Lab, Part::Services, Part::Change];
        if !self.only.is_empty() && self.only.iter().all(|part| parts_with_own_labs.contains(part)) {
            return Ok(());
        }
        let lab = BenchLab::up(&self.set)?;
        if self.selects(Part::Memory) {
            lab.print_memory()?;
        }
        if self.selects(Part::Packets) {
            packets::measure(&lab)?;
        }
        if self.selects(Part::Cni) {
            cni::measure(&lab)?;
            veth::measure(&lab.node_path(lab::NODES[0], ""))?;
        }
        if self.selects(Part::Plan) {
            plan::measure(&lab.node_path(lab::NODES[0], ""))?;
        }
        if self.selects(Part::Tables) {
            tables::measure(&lab)?;
        }
        if self.selects(Part::Rates) {
            // Last: it stops the agents.
            rates::measure(&lab, self.rounds, self.millis)?;
        }
        lab.down()
    }
}

fn print_rate(rate: f64) -> Result<()> {
    println!("{rate}");
    Ok(())
}
