//! Embeds the eBPF object that `cargo xtask ebpf` builds into the binaries.
//! Without the object the crate still compiles, so that the workspace can be
//! checked on machines without an eBPF toolchain; loading the programs then
//! fails with a message that names the build command.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let object = env::var_os("BEELINE_EBPF_OBJECT")
        .map_or_else(|| manifest.join("../../target/ebpf/beeline.bpf.o"), PathBuf::from);
    let embedded = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("beeline.bpf.o");
    println!("cargo:rerun-if-env-changed=BEELINE_EBPF_OBJECT");
    println!("cargo:rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_default();
    fs::write(&embedded, bytes).expect("OUT_DIR is writable");
}
