//! The chores of the repository, one command each: `cargo xtask CHORE`.
//!
//! The Makefile's targets of the same names install missing packages first and
//! then run these.

mod binaries;
mod budget;
mod committed;
mod compile;
mod demo;
mod deny;
mod docs;
mod ebpf;
mod elf;
mod fuzz;
mod kernels;
mod leaks;
mod paths;
mod process;
#[cfg(test)]
mod separation;
mod steps;
mod test;
mod toolchain;
mod words;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The chores of the repository.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build the eBPF programs and compare their sizes with crates/ebpf/budget.txt.
    Ebpf {
        /// Record the present sizes as the budget.
        #[arg(long)]
        accept: bool,
    },
    /// Build the eBPF programs, the product and the lab in target/release.
    Build,
    /// Start a lab with three nodes, apply examples/hello and show its traffic.
    Demo,
    /// Run every test; those that need root are skipped with PURE=1.
    Test {
        /// Run only the tests whose names contain this.
        filter: Option<String>,
    },
    /// Run the benchmarks; the arguments are those of `beeline-bench`.
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the fuzz targets (needs cargo-fuzz and a nightly toolchain).
    Fuzz {
        /// How long to run each target, in seconds.
        #[arg(default_value_t = 60)]
        seconds: u64,
    },
    /// Regenerate the generated pages in docs/ and charts/.
    Docs,
    /// Run the kernel tests on Debian's stock kernels in QEMU.
    TestKernels,
    /// Check licences, duplicates, sources and advisories of the dependencies (needs cargo-deny).
    Deny,
    /// Find retired words in the repository (the list: xtask/src/words.txt).
    Words,
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
        Chore::Deny => deny::chore(),
        Chore::Words => words::chore(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nStopped: {error:#}");
            ExitCode::FAILURE
        }
    }
}
