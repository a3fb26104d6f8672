//! The socket hooks (`BPF_PROG_TYPE_CGROUP_SOCK_ADDR`), attached to the root
//! cgroup of the node by pinned links (Linux 5.7).
//!
//! ```text
//! BPFFS/links/connect4 ...
//! ```

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aya_obj::generated::bpf_attach_type;
use beeline_abi::maps::programs;

use super::bpf::{self, Access};
use super::error::{DatapathError, failed};
use super::pins::{Pins, pin_over, unpin};
use super::programs::Programs;

/// Attaches every socket hook to a cgroup, or updates it to these programs,
/// and detaches it from any other cgroup. Returns how many were newly attached.
pub(crate) fn attach(pins: &Pins, cgroup: &Path, programs: &Programs) -> Result<usize, DatapathError> {
    let directory = File::open(cgroup).map_err(failed("open the cgroup", cgroup.display().to_string()))?;
    let id = directory.metadata().map_err(failed("examine the cgroup", cgroup.display().to_string()))?.ino();
    let mut attached = 0;
    for name in programs::SOCKETS {
        attached += usize::from(ensure(pins, name, &directory, id, programs)?);
    }
    Ok(attached)
}

/// Updates the attached hooks to these programs. Hooks that an older release
/// did not have are attached by [`attach`].
pub(crate) fn update_links(pins: &Pins, programs: &Programs) -> Result<(), DatapathError> {
    for name in programs::SOCKETS {
        let path = pins.socket_link(name);
        let object = || format!("program {name} of the socket hooks");
        let (new, new_id) = programs.get(name)?;
        let link = match bpf::open_pin(&path, Access::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed("open the pin of", object()))?,
        };
        let state = bpf::cgroup_link_state(link.as_fd()).map_err(failed("examine", object()))?;
        if state.cgroup_id != 0 && state.program_id != new_id {
            bpf::update_link(link.as_fd(), new).map_err(failed("replace", object()))?;
        }
    }
    Ok(())
}

/// Detaches every socket hook. Tries all and returns the first error.
pub(crate) fn detach(pins: &Pins) -> Result<(), DatapathError> {
    let mut outcome = Ok(());
    for name in programs::SOCKETS {
        outcome = outcome.and(remove(pins, name));
    }
    outcome
}

/// Names of the attached hooks.
pub(crate) fn attached(pins: &Pins) -> Vec<&'static str> {
    let alive = |name: &&&str| {
        let link = bpf::open_pin(&pins.socket_link(name), Access::ReadWrite);
        link.and_then(|link| bpf::cgroup_link_state(link.as_fd())).is_ok_and(|state| state.cgroup_id != 0)
    };
    programs::SOCKETS.iter().filter(alive).copied().collect()
}

fn ensure(
    pins: &Pins,
    name: &'static str,
    cgroup: &File,
    cgroup_id: u64,
    programs: &Programs,
) -> Result<bool, DatapathError> {
    let path = pins.socket_link(name);
    let object = || format!("program {name} of the socket hooks");
    let (new, new_id) = programs.get(name)?;
    match bpf::open_pin(&path, Access::ReadWrite) {
        Ok(link) => {
            let state = bpf::cgroup_link_state(link.as_fd()).map_err(failed("examine", object()))?;
            if state.cgroup_id == cgroup_id {
                if state.program_id != new_id {
                    bpf::update_link(link.as_fd(), new).map_err(failed("replace", object()))?;
                }
                return Ok(false);
            }
            // The cgroup was removed, or `cgroup.hostRoot` was changed.
            remove(pins, name)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("open the pin of", object())(error)),
    }
    let link =
        bpf::create_cgroup_link(new, cgroup.as_fd(), hook(name)).map_err(failed("attach", object()))?;
    pin_over(link.as_fd(), &path)?;
    Ok(true)
}

fn remove(pins: &Pins, name: &str) -> Result<(), DatapathError> {
    let path = pins.socket_link(name);
    match bpf::open_pin(&path, Access::ReadWrite) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("open the pin", path.display().to_string())(error)),
        Ok(link) => drop(bpf::detach_link(link.as_fd())),
    }
    unpin(&path)
}

fn hook(name: &str) -> bpf_attach_type {
    use bpf_attach_type::*;
    match name {
        programs::CONNECT4 => BPF_CGROUP_INET4_CONNECT,
        programs::CONNECT6 => BPF_CGROUP_INET6_CONNECT,
        programs::SENDMSG4 => BPF_CGROUP_UDP4_SENDMSG,
        programs::SENDMSG6 => BPF_CGROUP_UDP6_SENDMSG,
        programs::RECVMSG4 => BPF_CGROUP_UDP4_RECVMSG,
        programs::RECVMSG6 => BPF_CGROUP_UDP6_RECVMSG,
        programs::GETPEERNAME4 => BPF_CGROUP_INET4_GETPEERNAME,
        _ => BPF_CGROUP_INET6_GETPEERNAME,
    }
}
