//! Loading, pinning and describing the eBPF programs.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use beeline_abi::maps;
use sha2::{Digest, Sha256};

use super::bpf::{self, Access, SkbRun};
use super::error::{DatapathError, failed};
use super::maps::RawMap;
use super::pins::{Pins, pin_over};

/// Bytes by which a packet may grow in a test run.
const GROWTH_BYTES_MAX: usize = 4096;
/// The last bytes of an error message, which hold the end of the verifier log
/// and with it the cause.
const LOG_BYTES_MAX: usize = 4096;

/// A loaded program.
///
/// Mirrors fields of `struct bpf_prog_info` (`verified_insns`: Linux 5.16).
#[doc(alias = "bpf_prog_info")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Name.
    pub name: &'static str,
    /// Program ID.
    pub id: u32,
    /// Instructions that the verifier processed; 0 = unknown.
    pub verified_instructions: u32,
    /// Size of the machine code, bytes; 0 = the program is interpreted.
    pub jited_bytes: u32,
}

/// A packet for a test run (`BPF_PROG_TEST_RUN`). It is not sent: the run
/// returns the verdict of the program and the modified packet. The program
/// updates tables and counters as for a real packet.
#[doc(alias = "BPF_PROG_TEST_RUN")]
#[derive(Clone, Copy, Debug)]
pub struct TestPacket<'a> {
    /// The frame, starting with the Ethernet header; at least 14 bytes.
    pub packet: &'a [u8],
    /// Index of the device of the hook, in the network namespace of the calling
    /// thread; 0 or 1 = loopback.
    pub ifindex: u32,
    /// Index of the device on which the packet arrived (`skb->ingress_ifindex`).
    pub ingress_ifindex: u32,
    /// Number of runs; the packet is not restored between them.
    pub repeat: u32,
}

impl<'a> TestPacket<'a> {
    /// A packet for one run on the loopback device.
    pub fn new(packet: &'a [u8]) -> TestPacket<'a> {
        TestPacket { packet, ifindex: 0, ingress_ifindex: 0, repeat: 1 }
    }
}

/// The result of a test run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// Return value of the program (`TC_ACT_*`, `TCX_*`).
    pub retval: i32,
    /// The frame after the last run.
    pub data: Vec<u8>,
    /// Mean time of one run, nanoseconds.
    pub duration_ns: u32,
}

/// Runs a program on a packet that is not sent (`BPF_PROG_TEST_RUN`, Linux
/// 4.12; with a context, 5.2; with the device in it, 5.9).
#[doc(alias = "BPF_PROG_TEST_RUN")]
pub fn test_run(program: BorrowedFd<'_>, packet: &TestPacket<'_>) -> Result<TestRun, DatapathError> {
    let mut data = vec![0; packet.packet.len() + GROWTH_BYTES_MAX];
    let TestPacket { packet, ifindex, ingress_ifindex, repeat } = *packet;
    let run = SkbRun { packet, ifindex, ingress_ifindex, repeat };
    let result = bpf::run_skb(program, &run, &mut data).map_err(failed("test-run", "a program"))?;
    data.truncate(result.bytes);
    Ok(TestRun { retval: result.retval as i32, data, duration_ns: result.duration_ns })
}

/// The loaded programs of a datapath.
#[derive(Debug)]
pub(crate) struct Programs {
    loaded: HashMap<&'static str, Loaded>,
}

#[derive(Debug)]
struct Loaded {
    fd: OwnedFd,
    info: ProgramInfo,
}

impl Programs {
    /// The pinned programs, if they were loaded from this object with the
    /// tables that are pinned now. A restart then needs no verification.
    pub(crate) fn reuse(object: &[u8], pins: &Pins) -> Result<Option<Programs>, DatapathError> {
        let Some(fingerprint) = fingerprint(object, pins)? else { return Ok(None) };
        if pins.fingerprint() != Some(fingerprint) {
            return Ok(None);
        }
        let mut loaded = HashMap::new();
        for name in maps::programs::ALL {
            let Some(one) = open_one(pins, name)? else { return Ok(None) };
            loaded.insert(*name, one);
        }
        Ok(Some(Programs { loaded }))
    }

    /// Loads an object with the tables pinned at `pins`. Missing tables are
    /// created and pinned.
    pub(crate) fn load(object: &[u8], pins: &Pins) -> Result<Programs, DatapathError> {
        let mut ebpf = load_maps(object, pins)?;
        let each = maps::programs::ALL.iter();
        let loaded = each.map(|name| Ok((*name, load_one(&mut ebpf, name)?)));
        Ok(Programs { loaded: loaded.collect::<Result<_, DatapathError>>()? })
    }

    /// Pins all programs, replacing those pinned before, and the fingerprint of
    /// the object.
    pub(crate) fn pin(&self, object: &[u8], pins: &Pins) -> Result<(), DatapathError> {
        pins.set_fingerprint(None)?;
        self.loaded.iter().try_for_each(|(name, one)| pin_over(one.fd.as_fd(), &pins.program(name)))?;
        pins.set_fingerprint(fingerprint(object, pins)?.as_deref())
    }

    /// File descriptor and ID of a program.
    pub(crate) fn get(&self, name: &str) -> Result<(BorrowedFd<'_>, u32), DatapathError> {
        let one = self.loaded.get(name).ok_or_else(|| DatapathError::NoProgram(name.to_owned()))?;
        Ok((one.fd.as_fd(), one.info.id))
    }

    /// Descriptions of all programs, in the order of the layout.
    pub(crate) fn infos(&self) -> Vec<ProgramInfo> {
        let names = maps::programs::ALL.iter();
        names.filter_map(|name| self.loaded.get(name)).map(|one| one.info.clone()).collect()
    }
}

fn load_maps(object: &[u8], pins: &Pins) -> Result<Ebpf, DatapathError> {
    let mut loader = EbpfLoader::new();
    // The programs use no types of the running kernel.
    loader.btf(None);
    for spec in maps::ALL {
        loader.map_pin_path(spec.name, pins.table(spec.name));
    }
    loader.load(object).map_err(|error| load_failed("the eBPF object", &error))
}

/// Loads one program of the object with the pinned tables, without pinning it.
pub(crate) fn load_unpinned(
    object: &[u8],
    pins: &Pins,
    name: &'static str,
) -> Result<OwnedFd, DatapathError> {
    Ok(load_one(&mut load_maps(object, pins)?, name)?.fd)
}

fn load_one(ebpf: &mut Ebpf, name: &'static str) -> Result<Loaded, DatapathError> {
    let object = || format!("program {name}");
    let missing = || DatapathError::Object(format!("program {name} is missing"));
    let program: &mut Program = ebpf.program_mut(name).ok_or_else(missing)?;
    match program {
        Program::SchedClassifier(classifier) => classifier.load(),
        Program::CgroupSockAddr(hook) => hook.load(),
        _ => return Err(DatapathError::Object(format!("program {name} has an unsupported program type"))),
    }
    .map_err(|error| load_failed(&object(), &error))?;
    let fd = program.fd().map_err(|error| load_failed(&object(), &error))?;
    let fd = fd.as_fd().try_clone_to_owned().map_err(failed("keep", object()))?;
    let info = program.info().map_err(|error| load_failed(&object(), &error))?;
    Ok(Loaded { fd, info: describe(name, &info) })
}

fn open_one(pins: &Pins, name: &'static str) -> Result<Option<Loaded>, DatapathError> {
    let path = pins.program(name);
    let object = || format!("the program pinned at {}", path.display());
    let fd = match bpf::open_pin(&path, Access::ReadWrite) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed("open", object()))?,
    };
    let info = aya::programs::ProgramInfo::from_pin(&path).map_err(|error| load_failed(&object(), &error))?;
    Ok(Some(Loaded { fd, info: describe(name, &info) }))
}

/// A hash of the object and of the map IDs of the tables. None if a table is
/// not pinned.
fn fingerprint(object: &[u8], pins: &Pins) -> Result<Option<String>, DatapathError> {
    let mut hash = Sha256::new_with_prefix(object);
    for spec in maps::ALL.iter().chain([&maps::CONNTRACK_TABLE]) {
        let path = pins.table(spec.name);
        let Some(map) = RawMap::open(&path, spec.name, Access::Read)? else { return Ok(None) };
        hash.update(map.id().map_err(failed("examine", path.display().to_string()))?.to_ne_bytes());
    }
    Ok(Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

pub(crate) fn describe(name: &'static str, info: &aya::programs::ProgramInfo) -> ProgramInfo {
    ProgramInfo {
        name,
        id: info.id(),
        verified_instructions: info.verified_instruction_count().unwrap_or(0),
        jited_bytes: info.size_jitted(),
    }
}

/// An error with its chain of causes. A long text, such as a verifier log, is
/// shortened to its end.
pub(crate) fn load_failed(object: &str, error: &dyn Error) -> DatapathError {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = next.source();
    }
    if message.len() > LOG_BYTES_MAX {
        let mut start = message.len() - LOG_BYTES_MAX;
        while !message.is_char_boundary(start) {
            start += 1;
        }
        message = format!("... {}", &message[start..]);
    }
    DatapathError::Load { object: object.to_owned(), message }
}
