//! The packet counters, summed over all CPUs.

use beeline_abi::counter::{COUNTERS, CounterValue};
use beeline_sync::TableError;
use zerocopy::FromBytes;

use super::maps::RawMap;

/// All counters. The index is that of `beeline_abi::counter`.
pub(crate) fn read(map: &RawMap) -> Result<Vec<CounterValue>, TableError> {
    let mut counters = vec![CounterValue::default(); COUNTERS as usize];
    let each = |key: &[u8], per_cpu: &[u8]| {
        let index = u32::read_from_bytes(key).unwrap_or(u32::MAX) as usize;
        if let Some(counter) = counters.get_mut(index) {
            *counter = sum(per_cpu);
        }
    };
    let failed = |error: std::io::Error| TableError::Kernel {
        table: map.name(),
        operation: "read",
        error: error.to_string(),
    };
    map.read(each).map_err(failed)?;
    Ok(counters)
}

fn sum(per_cpu: &[u8]) -> CounterValue {
    let mut total = CounterValue::default();
    for cpu in per_cpu.chunks_exact(size_of::<CounterValue>()) {
        let one = CounterValue::read_from_bytes(cpu).unwrap_or_default();
        total.packets = total.packets.wrapping_add(one.packets);
        total.bytes = total.bytes.wrapping_add(one.bytes);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn unit_cpus_are_summed() {
        let one = CounterValue { packets: 1, bytes: 60 };
        let two = CounterValue { packets: 2, bytes: 3000 };
        let bytes = [one.as_bytes(), two.as_bytes(), one.as_bytes()].concat();
        assert_eq!(sum(&bytes), CounterValue { packets: 4, bytes: 3120 });
        assert_eq!(sum(&[]), CounterValue::default());
    }
}
