//! Reduces the agent's privileges after its setup.

use anyhow::Context;
use caps::{CapSet, Capability, CapsHashSet};

/// The capabilities that the agent keeps, each with its reason.
pub const CAPABILITIES: &[(Capability, &str)] = &[
    (Capability::CAP_BPF, "load programs, make and read maps, pin them"),
    (Capability::CAP_NET_ADMIN, "attach programs to devices, write routes, links and network sysctls"),
    (Capability::CAP_PERFMON, "load programs that need pointer arithmetic and bounded loops"),
];

/// The capabilities of the thread that destroys sockets of pods
/// ([`crate::stale_sockets`]). Only this thread has `CAP_SYS_ADMIN`.
pub const SOCKET_CAPABILITIES: &[(Capability, &str)] = &[
    (Capability::CAP_BPF, "read the socket table"),
    (Capability::CAP_NET_ADMIN, "destroy sockets"),
    (Capability::CAP_SYS_ADMIN, "enter the network namespaces of pods"),
];

/// Minimum limit of open files: pins, links and sockets.
const OPEN_FILES_MIN: u64 = 65_536;

/// Raises the limit of open files and drops all other capabilities of this
/// thread and of threads started later. Must be called before any thread is
/// started, except that of [`crate::stale_sockets`].
pub fn drop_capabilities() -> anyhow::Result<()> {
    raise_open_files();
    retain_only(CAPABILITIES)
}

/// The same for the thread that destroys sockets of pods: keeps
/// [`SOCKET_CAPABILITIES`].
pub fn drop_socket_capabilities() -> anyhow::Result<()> {
    retain_only(SOCKET_CAPABILITIES)
}

fn retain_only(list: &[(Capability, &str)]) -> anyhow::Result<()> {
    let kept: CapsHashSet = list.iter().map(|(capability, _)| *capability).collect();
    for capability in caps::runtime::thread_all_supported().difference(&kept) {
        // Without CAP_SETPCAP the bounding set cannot be reduced. It only
        // affects executed programs, and the agent executes none.
        let _ = caps::drop(None, CapSet::Bounding, *capability);
    }
    let held = caps::read(None, CapSet::Permitted).context("cannot read the capabilities of the process")?;
    if let Some(missing) = kept.difference(&held).next() {
        let reason =
            list.iter().find(|(capability, _)| capability == missing).map_or("", |(_, reason)| reason);
        anyhow::bail!(
            "capability {missing} is missing (needed to {reason}); run the agent as root or grant it"
        );
    }
    caps::clear(None, CapSet::Ambient).ok();
    for (set, retained) in
        [(CapSet::Effective, &kept), (CapSet::Permitted, &kept), (CapSet::Inheritable, &CapsHashSet::new())]
    {
        caps::set(None, set, retained).with_context(|| format!("cannot reduce the {set:?} capabilities"))?;
    }
    nix::sys::prctl::set_no_new_privs().context("cannot set no_new_privs")
}

fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let limit = OPEN_FILES_MIN.max(soft);
        // If the hard limit cannot be raised, use as much of it as possible.
        if setrlimit(Resource::RLIMIT_NOFILE, limit, hard.max(limit)).is_err() {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(limit), hard);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The pages that say what the agent may do name these capabilities and no other.
    #[test]
    fn unit_the_documentation_names_the_capabilities() {
        let kept =
            CAPABILITIES.iter().chain(SOCKET_CAPABILITIES).map(|(capability, _)| capability.to_string());
        let kept: BTreeSet<String> = kept.collect();
        for page in ["SECURITY.md", "docs/operate.md"] {
            let path = format!("{}/../../{page}", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).expect("the page is there");
            let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '_');
            let named: BTreeSet<String> =
                words.filter(|word| word.starts_with("CAP_")).map(str::to_owned).collect();
            assert_eq!(named, kept, "{page}");
        }
    }
}
