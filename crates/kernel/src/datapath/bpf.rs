//! The bpf(2) commands that aya does not offer: read-only handles of pins,
//! batches, links by device index, test runs. Each function issues one command
//! on one object. The structures are the bindings of linux/bpf.h in aya-obj.

use std::ffi::CString;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_map_info, bpf_prog_type};

use super::maps::MapDefinition;

/// `BPF_F_RDONLY` of linux/bpf.h (Linux 4.15): the handle cannot change the map.
pub(crate) const READ_ONLY: u32 = 1 << 3;

/// Access mode of the handle of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// State of a TCX link (Linux 6.6).
#[doc(alias = "bpf_link_info")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    /// ID of the attached program.
    pub program_id: u32,
    /// Index of the device; 0 = the device was deleted, or the link was detached.
    pub ifindex: u32,
}

/// State of a link to a cgroup (Linux 5.7).
#[doc(alias = "bpf_link_info")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CgroupLinkState {
    /// ID of the attached program.
    pub program_id: u32,
    /// ID of the cgroup, which is the inode of its directory; 0 = the cgroup
    /// was removed, or the link was detached.
    pub cgroup_id: u64,
}

/// Input of a test run of a `BPF_PROG_TYPE_SCHED_CLS` program.
#[doc(alias = "BPF_PROG_TEST_RUN")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct SkbRun<'a> {
    pub packet: &'a [u8],
    pub ifindex: u32,
    pub ingress_ifindex: u32,
    pub repeat: u32,
}

/// The first fields of `struct __sk_buff` of linux/bpf.h. The kernel treats
/// the missing ones as zero.
#[doc(alias = "__sk_buff")]
#[repr(C)]
struct SkbContext {
    before: [u32; 9],
    ingress_ifindex: u32,
    ifindex: u32,
}

/// Result of a test run.
pub(crate) struct SkbResult {
    pub retval: u32,
    pub bytes: usize,
    pub duration_ns: u32,
}

/// `BPF_OBJ_GET` (Linux 4.4): opens a pinned object.
pub(crate) fn open_pin(path: &Path, access: Access) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = empty();
    // SAFETY: the fields of BPF_OBJ_* of an all-zero union.
    let fields = unsafe { &mut attr.__bindgen_anon_4 };
    fields.pathname = path.as_ptr() as u64;
    fields.file_flags = if access == Access::Read { READ_ONLY } else { 0 };
    let fd = call(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    Ok(owned(fd))
}

/// `BPF_OBJ_PIN` (Linux 4.4). The path must not exist.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = empty();
    // SAFETY: the fields of BPF_OBJ_* of an all-zero union.
    let fields = unsafe { &mut attr.__bindgen_anon_4 };
    fields.pathname = path.as_ptr() as u64;
    fields.bpf_fd = object.as_raw_fd() as u32;
    call(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(|_| ())
}

/// `BPF_MAP_CREATE` of an array of maps (Linux 4.12) whose elements have the
/// definition of `inner`. The name is cut to 15 bytes.
pub(crate) fn create_map_of_maps(
    name: &str,
    definition: &MapDefinition,
    inner: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // SAFETY: the fields of BPF_MAP_CREATE of an all-zero union.
    let fields = unsafe { &mut attr.__bindgen_anon_1 };
    fields.map_type = definition.kind;
    fields.key_size = definition.key_size;
    fields.value_size = definition.value_size;
    fields.max_entries = definition.max_entries;
    fields.map_flags = definition.flags;
    fields.inner_map_fd = inner.as_raw_fd() as u32;
    let room = fields.map_name.len() - 1;
    for (place, byte) in fields.map_name[..room].iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    let fd = call(bpf_cmd::BPF_MAP_CREATE, &mut attr)?;
    Ok(owned(fd))
}

/// `BPF_PROG_LOAD` of a `BPF_PROG_TYPE_SCHED_CLS` program. Each instruction is
/// one `struct bpf_insn` as a 64-bit integer in host byte order.
pub(crate) fn load_classifier(name: &str, instructions: &[u64]) -> io::Result<OwnedFd> {
    const LICENSE: &std::ffi::CStr = c"Dual MIT/GPL";
    let mut attr = empty();
    // SAFETY: the fields of BPF_PROG_LOAD of an all-zero union.
    let fields = unsafe { &mut attr.__bindgen_anon_3 };
    fields.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    fields.insns = instructions.as_ptr() as u64;
    fields.insn_cnt = instructions.len() as u32;
    fields.license = LICENSE.as_ptr() as u64;
    let room = fields.prog_name.len() - 1;
    for (place, byte) in fields.prog_name[..room].iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    let fd = call(bpf_cmd::BPF_PROG_LOAD, &mut attr)?;
    Ok(owned(fd))
}

/// `BPF_OBJ_GET_INFO_BY_FD` of a map.
pub(crate) fn map_info(map: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    // SAFETY: plain data, for which all-zero is valid.
    let mut info: bpf_map_info = unsafe { zeroed() };
    read_info(map, &mut info)?;
    Ok(info)
}

/// `BPF_OBJ_GET_INFO_BY_FD` of a TCX link.
pub(crate) fn link_state(link: BorrowedFd<'_>) -> io::Result<LinkState> {
    // SAFETY: plain data, for which all-zero is valid.
    let mut info: bpf_link_info = unsafe { zeroed() };
    read_info(link, &mut info)?;
    // SAFETY: the kernel fills these fields for a TCX link; for any other type
    // of link they are integers too.
    let ifindex = unsafe { info.__bindgen_anon_1.tcx.ifindex };
    Ok(LinkState { program_id: info.prog_id, ifindex })
}

/// `BPF_OBJ_GET_INFO_BY_FD` of a link to a cgroup.
pub(crate) fn cgroup_link_state(link: BorrowedFd<'_>) -> io::Result<CgroupLinkState> {
    // SAFETY: plain data, for which all-zero is valid.
    let mut info: bpf_link_info = unsafe { zeroed() };
    read_info(link, &mut info)?;
    // SAFETY: the kernel fills these fields for a cgroup link; for any other
    // type of link they are integers too.
    let cgroup_id = unsafe { info.__bindgen_anon_1.cgroup.cgroup_id };
    Ok(CgroupLinkState { program_id: info.prog_id, cgroup_id })
}

/// `BPF_LINK_CREATE` of a link to a cgroup (Linux 5.7), after existing links.
pub(crate) fn create_cgroup_link(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    hook: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.link_create.attach_type = hook as u32;
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = cgroup.as_raw_fd() as u32;
    let fd = call(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    Ok(owned(fd))
}

/// `BPF_LINK_CREATE` of a TCX link (Linux 6.6), after existing links.
pub(crate) fn create_tcx_link(
    program: BorrowedFd<'_>,
    ifindex: u32,
    hook: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.link_create.attach_type = hook as u32;
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    let fd = call(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    Ok(owned(fd))
}

/// `BPF_LINK_UPDATE` (Linux 5.7): atomically replaces the program of a link.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    call(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(|_| ())
}

/// `BPF_LINK_DETACH` (Linux 5.9).
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    call(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(|_| ())
}

/// `BPF_MAP_LOOKUP_ELEM`. Returns false if the key does not exist.
///
/// # Safety
/// `key` is as long as a key of the map, `value` as the data that the kernel copies.
pub(crate) unsafe fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = element(map, key.as_ptr() as u64, value.as_mut_ptr() as u64);
    found(call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr))
}

/// `BPF_MAP_UPDATE_ELEM`.
///
/// # Safety
/// `key` and `value` are as long as those of the map.
pub(crate) unsafe fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    let mut attr = element(map, key.as_ptr() as u64, value.as_ptr() as u64);
    attr.__bindgen_anon_2.flags = flags;
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(|_| ())
}

/// `BPF_MAP_DELETE_ELEM`. Returns false if the key does not exist.
///
/// # Safety
/// `key` is as long as the map's keys.
pub(crate) unsafe fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attr = element(map, key.as_ptr() as u64, 0);
    found(call(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr))
}

/// `BPF_MAP_GET_NEXT_KEY`. Returns false after the last key.
///
/// # Safety
/// `key` and `next` are as long as the map's keys.
pub(crate) unsafe fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let from = key.map_or(0, |key| key.as_ptr() as u64);
    let mut attr = element(map, from, next.as_mut_ptr() as u64);
    found(call(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr))
}

/// `BPF_MAP_LOOKUP_BATCH` (Linux 5.6): reads at most `count` elements, starting
/// at the cursor `from`. Returns the number of elements read, and success if
/// there may be more or `ENOENT` if these were the last.
///
/// # Safety
/// `keys` and `values` have room for `count` elements; `to` and `from` are as
/// long as a key of the map and at least 4 bytes.
pub(crate) unsafe fn lookup_batch(
    map: BorrowedFd<'_>,
    from: Option<&[u8]>,
    to: &mut [u8],
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> (u32, io::Result<()>) {
    let mut attr = empty();
    attr.batch.in_batch = from.map_or(0, |from| from.as_ptr() as u64);
    attr.batch.out_batch = to.as_mut_ptr() as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = count;
    attr.batch.map_fd = map.as_raw_fd() as u32;
    let outcome = call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr).map(|_| ());
    // SAFETY: written above, and by the kernel.
    (unsafe { attr.batch.count }, outcome)
}

/// `BPF_PROG_TEST_RUN` (Linux 4.12; with a context, 5.2; with the device in it,
/// 5.9) of a `BPF_PROG_TYPE_SCHED_CLS` program.
pub(crate) fn run_skb(program: BorrowedFd<'_>, run: &SkbRun<'_>, out: &mut [u8]) -> io::Result<SkbResult> {
    let context = SkbContext { before: [0; 9], ingress_ifindex: run.ingress_ifindex, ifindex: run.ifindex };
    let mut attr = empty();
    // SAFETY: the fields of BPF_PROG_TEST_RUN of an all-zero union.
    let test = unsafe { &mut attr.test };
    test.prog_fd = program.as_raw_fd() as u32;
    test.data_in = run.packet.as_ptr() as u64;
    test.data_size_in = length(run.packet)?;
    test.data_out = out.as_mut_ptr() as u64;
    test.data_size_out = length(out)?;
    test.ctx_in = (&raw const context) as u64;
    test.ctx_size_in = size_of::<SkbContext>() as u32;
    test.repeat = run.repeat;
    call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: filled by the kernel.
    let test = unsafe { attr.test };
    Ok(SkbResult { retval: test.retval, bytes: test.data_size_out as usize, duration_ns: test.duration })
}

fn read_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = empty();
    attr.info.bpf_fd = object.as_raw_fd() as u32;
    attr.info.info_len = size_of::<T>() as u32;
    attr.info.info = std::ptr::from_mut(info) as u64;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(|_| ())
}

fn element(map: BorrowedFd<'_>, key: u64, value: u64) -> bpf_attr {
    let mut attr = empty();
    // SAFETY: the fields of BPF_MAP_*_ELEM of an all-zero union.
    let fields = unsafe { &mut attr.__bindgen_anon_2 };
    fields.map_fd = map.as_raw_fd() as u32;
    fields.key = key;
    fields.__bindgen_anon_1.value = value;
    attr
}

fn empty() -> bpf_attr {
    // SAFETY: a union of plain data, for which all-zero is valid. The kernel
    // requires unused fields to be zero.
    unsafe { zeroed() }
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the attributes live across the call; each caller above ensures
    // that the pointers in them are valid.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as u32, attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

fn found(outcome: io::Result<i64>) -> io::Result<bool> {
    match outcome {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}
