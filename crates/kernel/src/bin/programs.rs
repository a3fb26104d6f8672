//! Loads the embedded programs, attaches none, and prints one line for each:
//! name, number of instructions that the verifier processed, bytes of machine
//! code. Needs root. `cargo xtask ebpf` compares the numbers with the limits in
//! crates/ebpf/budget.txt.

use std::error::Error;
use std::path::Path;

use beeline_kernel::datapath::Datapath;
use beeline_kernel::{bpffs, mounts};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

fn main() -> Result<(), Box<dyn Error>> {
    // The kernel removes the mounts of this private namespace when the process ends.
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
    mounts::make_private()?;
    let nothing: Option<&Path> = None;
    mount(Some("tmpfs"), "/mnt", Some("tmpfs"), MsFlags::empty(), nothing)?;
    let pins = Path::new("/mnt/bpf");
    bpffs::mount(pins)?;
    for program in Datapath::open(pins)?.programs() {
        println!("{} {} {}", program.name, program.verified_instructions, program.jited_bytes);
    }
    Ok(())
}
