//! Every chore of the repository, one command each: `cargo xtask CHORE`.
//!
//! The Makefile's targets of the same names come here after they installed
//! what is missing; a developer whose machine has everything calls these.

mod binaries;
mod budget;
mod committed;
mod demo;
mod docs;
mod ebpf;
mod elf;
mod fuzz;
mod kernels;
mod leaks;
mod paths;
mod process;
mod steps;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The chores of the repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build the eBPF programs and hold them against their budget.
    Ebpf {
        /// Record today's sizes as the budget.
        #[arg(long)]
        accept: bool,
    },
    /// Build the binaries under target/release, eBPF programs included.
    Build,
    /// Bring a lab up, apply examples/hello and show it at work.
    Demo,
    /// Run every test; without root only the pure ones (PURE=1: and be content).
    Test {
        /// Only the tests whose name holds this.
        filter: Option<String>,
    },
    /// Run our own benchmarks; the arguments go to `beeline-bench`.
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Fuzz the packet path (needs cargo-fuzz and a nightly compiler).
    Fuzz {
        /// How long, for each target.
        #[arg(default_value_t = 60)]
        seconds: u64,
    },
    /// Write the generated pages below docs/ again.
    Docs,
    /// Load, attach and forward on stock kernels in QEMU.
    TestKernels,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Ebpf { accept } => ebpf::chore(accept),
        Chore::Build => binaries::chore(),
        Chore::Demo => demo::chore(),
        Chore::Test { filter } => test::chore(filter.as_deref()),
        Chore::Bench { arguments } => binaries::bench(&arguments),
        Chore::Fuzz { seconds } => fuzz::chore(seconds),
        Chore::Docs => docs::chore(),
        Chore::TestKernels => kernels::chore(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nStopped: {error:#}");
            ExitCode::FAILURE
        }
    }
}
