//! What the running kernel makes of the embedded programs, one line each:
//! name, instructions that the verifier walked, bytes of machine code. Loads
//! them and attaches nothing; needs root. `cargo xtask ebpf` holds the
//! figures against crates/ebpf/budget.txt.

use std::error::Error;
use std::path::Path;

use beeline_kernel::datapath::Datapath;
use beeline_kernel::{bpffs, mounts};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

fn main() -> Result<(), Box<dyn Error>> {
    // Mounts of a namespace of our own end with us, whatever happens.
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
