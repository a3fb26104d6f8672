//! `beeline-bench`: what Beeline costs, on a lab of this machine. Every figure
//! is a median over rounds in which the things compared alternate.

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

/// Measures on a lab that it brings up and takes down. Needs root.
#[derive(Debug, Parser)]
#[command(name = "beeline-bench", version)]
struct Arguments {
    /// Rounds of the rates
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Length of one measurement of a rate, milliseconds
    #[arg(long, default_value_t = 300)]
    millis: u64,
    /// Numbers of Services to measure with
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000, 30_000])]
    services: Vec<usize>,
    /// Only these
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// A value of the lab, such as bpf.enableTCX=false
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Memory of agents and tables
    Memory,
    /// Nanoseconds per packet by test run
    Packets,
    /// Nanoseconds per new connection by test run, from 1 to 100,000 Services
    Tables,
    /// Seconds to plan and to write 10,000 Services
    Plan,
    /// CNI ADD and DEL
    Cni,
    /// Connections and requests per second, beside kernel forwarding
    Rates,
    /// How long labs take, and their memory
    Lab,
    /// Thousands of Services, beside rule sets of the shape that kube-proxy writes
    Services,
    /// How fast a change of endpoints arrives with 10,000 Services, and an agent's start
    Change,
}

/// What this program does inside a pod.
#[derive(Debug, Subcommand)]
enum Role {
    /// Answer every byte on a port
    #[command(hide = true)]
    Serve {
        /// The port
        port: u16,
    },
    /// Connect and close as often as possible; prints connections per second, and microseconds of each, p50 and p99
    #[command(hide = true)]
    Connect {
        /// The server
        to: SocketAddr,
        /// How long
        millis: u64,
    },
    /// Print when somebody else answers
    #[command(hide = true)]
    Watch {
        /// The server
        to: SocketAddr,
    },
    /// One byte there and back as often as possible; prints exchanges per second
    #[command(hide = true)]
    Request {
        /// The server
        to: SocketAddr,
        /// How long
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
