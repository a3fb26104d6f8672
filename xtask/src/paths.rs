//! Paths in the repository.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}

/// The eBPF crate, a workspace of its own.
pub fn ebpf_crate() -> PathBuf {
    top().join("crates/ebpf")
}

/// The object file that the `kernel` crate embeds.
pub fn ebpf_object() -> PathBuf {
    top().join("target/ebpf/beeline.bpf.o")
}

/// A binary of the release build.
pub fn binary(name: &str) -> PathBuf {
    top().join("target/release").join(name)
}

/// The logs of the steps.
pub fn logs() -> PathBuf {
    top().join("target/log")
}
