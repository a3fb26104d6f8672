//! What the agent may do once it is set up, and nothing more.

use anyhow::Context;
use caps::{CapSet, Capability, CapsHashSet};

/// The capabilities that the agent keeps, each with its reason.
pub const KEPT: &[(Capability, &str)] = &[
    (Capability::CAP_BPF, "load programs, make and read maps, pin them"),
    (Capability::CAP_NET_ADMIN, "attach programs to devices, write routes, links and network sysctls"),
    (Capability::CAP_PERFMON, "the verifier's pointer arithmetic and bounded loops that the programs need"),
];

/// What the thread that ends sockets of pods keeps ([`crate::sockets`]); no
/// other thread has the last one.
pub const OF_SOCKETS: &[(Capability, &str)] = &[
    (Capability::CAP_BPF, "read the socket table"),
    (Capability::CAP_NET_ADMIN, "destroy sockets"),
    (Capability::CAP_SYS_ADMIN, "enter the network namespaces of pods"),
];

/// Open files that the agent may need: pins, links and sockets.
const OPEN_FILES: u64 = 65_536;

/// Raises the limit of open files and drops every other capability, of this
/// thread and of all that it will start. Call before the first thread but that of
/// [`crate::sockets`].
pub fn reduce() -> anyhow::Result<()> {
    raise_open_files();
    keep(KEPT)
}

/// The same for the thread that ends sockets of pods: [`OF_SOCKETS`].
pub fn reduce_to_sockets() -> anyhow::Result<()> {
    keep(OF_SOCKETS)
}

fn keep(list: &[(Capability, &str)]) -> anyhow::Result<()> {
    let kept: CapsHashSet = list.iter().map(|(capability, _)| *capability).collect();
    for capability in caps::runtime::thread_all_supported().difference(&kept) {
        // Without CAP_SETPCAP the bounding set stays; it matters only to
        // programs that this one would execute, and it executes none.
        let _ = caps::drop(None, CapSet::Bounding, *capability);
    }
    let held = caps::read(None, CapSet::Permitted).context("the process's capabilities cannot be read")?;
    if let Some(missing) = kept.difference(&held).next() {
        let reason =
            list.iter().find(|(capability, _)| capability == missing).map_or("", |(_, reason)| reason);
        anyhow::bail!("{missing} is missing ({reason}); run the agent as root or grant it");
    }
    caps::clear(None, CapSet::Ambient).ok();
    for (set, wanted) in
        [(CapSet::Effective, &kept), (CapSet::Permitted, &kept), (CapSet::Inheritable, &CapsHashSet::new())]
    {
        caps::set(None, set, wanted)
            .with_context(|| format!("the {set:?} capabilities cannot be reduced"))?;
    }
    nix::sys::prctl::set_no_new_privs().context("no_new_privs cannot be set")
}

fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = OPEN_FILES.max(soft);
        // As far as the hard limit allows, if it cannot be raised.
        if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_err() {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(wanted), hard);
        }
    }
}
