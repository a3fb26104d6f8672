//! Where things stand in the tree.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands below the root")
}

/// The eBPF crate, a workspace of its own.
pub fn ebpf_crate() -> PathBuf {
    top().join("crates/ebpf")
}

/// The object that `kernel` embeds.
pub fn ebpf_object() -> PathBuf {
    top().join("target/ebpf/beeline.bpf.o")
}

/// A built binary.
pub fn binary(name: &str) -> PathBuf {
    top().join("target/release").join(name)
}

/// Where the steps write what they ran.
pub fn logs() -> PathBuf {
    top().join("target/log")
}
