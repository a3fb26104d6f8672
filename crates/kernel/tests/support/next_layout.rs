//! A fictitious next layout: the embedded object with larger values. The tests
//! of the lab use it too.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

/// The first bytes of the BTF section of an object (`struct btf_header` of
/// linux/btf.h): magic, version 1, no flags, header length 24.
const BTF_HEADER: [u8; 8] = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0];

/// `BTF_KIND_STRUCT`.
const STRUCT: u32 = 4;

/// Bytes by which a value grows.
const MORE: u32 = 8;

/// Value types of the tables that user space writes.
pub const VALUES: &[&str] = &[
    "AddressValue",
    "BackendValue",
    "ConfigValue",
    "EndpointValue",
    "FrontendValue",
    "NodeValue",
    "ServiceAddressValue",
    "ServiceValue",
    "MaglevSegment",
    "SlotValue",
];

/// Value type of the connection tables.
pub const CONNECTION: &[&str] = &["ConntrackValue"];

/// The object with larger values of these types. The loader takes the sizes
/// of the tables from BTF; the programs access the same bytes as before.
pub fn grown(object: &[u8], types: &[&str]) -> Vec<u8> {
    let mut object = object.to_vec();
    let header = object.windows(BTF_HEADER.len()).position(|bytes| *bytes == BTF_HEADER);
    let header = header.expect("the object has type information");
    let word = |object: &[u8], at: usize| u32::from_le_bytes(*object[at..].first_chunk().unwrap());
    let body = header + BTF_HEADER[4] as usize;
    let (begin, length) = (body + word(&object, header + 8) as usize, word(&object, header + 12) as usize);
    let names = body + word(&object, header + 16) as usize;
    let mut missing = types.to_vec();
    let mut at = begin;
    while at < begin + length {
        let info = word(&object, at + 4);
        let name = &object[names + word(&object, at) as usize..];
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if kind(info) == STRUCT
            && let Some(found) = missing.iter().position(|wanted| wanted.as_bytes() == name)
        {
            missing.remove(found);
            let size = word(&object, at + 8) + MORE;
            object[at + 8..at + 12].copy_from_slice(&size.to_le_bytes());
        }
        at += bytes(info);
    }
    assert_eq!(missing, [""; 0], "the object has these types");
    object
}

fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// Length of a type description (`struct btf_type` and the data that follows it), bytes.
fn bytes(info: u32) -> usize {
    let members = (info & 0xffff) as usize;
    12 + match kind(info) {
        1 | 14 | 17 => 4,                     // INT, VAR, DECL_TAG
        3 => 12,                              // ARRAY
        STRUCT | 5 | 15 | 19 => 12 * members, // and UNION, DATASEC, ENUM64
        6 | 13 => 8 * members,                // ENUM, FUNC_PROTO
        _ => 0,
    }
}
