//! Tables in which each backend stands as often as its weight says, in an
//! order that every node finds out by itself, and that changes little when
//! the backends do: after Eisenbud et al., "Maglev: A Fast and Reliable
//! Software Network Load Balancer" (NSDI 2016, section 3.4).
//!
//! Each backend walks the table on a way of its own, given by what it is
//! (address, port, protocol), and takes the next free place when it is its
//! turn. A backend of half the greatest weight has every second turn.

/// Places for each backend: a backend's share is off by one in a hundred at
/// most.
const PLACES_PER_BACKEND: u64 = 100;

/// The sizes of tables: primes (a way then meets every place), about a power
/// of two apart, so that the size seldom changes. The last is the bound:
/// beyond it shares are coarser.
const SIZES: [u32; 10] = [251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 131_071];

/// The greatest weight: with more, building a table would take too long.
pub(crate) const WEIGHT_MAX: u16 = 1_000;

/// One backend: what it is, and its weight (1..=[`WEIGHT_MAX`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) identity: [u8; 19],
    pub(crate) weight: u16,
}

/// The size of a table in which the backend with the least weight has its
/// hundred places, and that is not smaller than `at_least`.
pub(crate) fn size(entries: &[Entry], at_least: u32) -> u32 {
    let total: u64 = entries.iter().map(|entry| u64::from(entry.weight)).sum();
    let least = entries.iter().map(|entry| u64::from(entry.weight)).min().unwrap_or(1).max(1);
    let needed = (PLACES_PER_BACKEND * total).div_ceil(least).max(u64::from(at_least));
    let fits = SIZES.into_iter().find(|size| u64::from(*size) >= needed);
    fits.unwrap_or(SIZES[SIZES.len() - 1])
}

/// Whether the backends are too many, or their weights too far apart, for
/// the largest table.
pub(crate) fn is_coarse(entries: &[Entry]) -> bool {
    let total: u64 = entries.iter().map(|entry| u64::from(entry.weight)).sum();
    let least = entries.iter().map(|entry| u64::from(entry.weight)).min().unwrap_or(1).max(1);
    PLACES_PER_BACKEND * total > least * u64::from(SIZES[SIZES.len() - 1])
}

/// Who stands at each place of a table of `size` (one of [`SIZES`]), as
/// positions in `entries`, which are sorted and not empty.
pub(crate) fn fill(entries: &[Entry], size: u32, seed: &str) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let mut ways: Vec<Way> = entries.iter().map(|entry| Way::of(entry, size, seed)).collect();
    let greatest = entries.iter().map(|entry| entry.weight).max().unwrap_or(1);
    let mut table = vec![FREE; size as usize];
    let mut taken = 0;
    loop {
        for (number, (way, entry)) in ways.iter_mut().zip(entries).enumerate() {
            way.credit += entry.weight;
            if way.credit < greatest {
                continue;
            }
            way.credit -= greatest;
            while table[way.place as usize] != FREE {
                way.step(size);
            }
            table[way.place as usize] = number as u32;
            taken += 1;
            if taken == size {
                return table;
            }
        }
    }
}

/// The order in which a backend prefers the places.
struct Way {
    place: u32,
    skip: u32,
    /// Weight that has not brought a turn yet.
    credit: u16,
}

impl Way {
    fn of(entry: &Entry, size: u32, seed: &str) -> Way {
        let hash = |salt: u8| hash([&[salt], seed.as_bytes(), &entry.identity]);
        let (place, skip) = (hash(1) % u64::from(size), hash(2) % u64::from(size - 1) + 1);
        Way { place: place as u32, skip: skip as u32, credit: 0 }
    }

    fn step(&mut self, size: u32) {
        self.place = (self.place + self.skip) % size;
    }
}

/// FNV-1a, then the finish of SplitMix64: the same on every machine and in
/// every release.
fn hash(parts: [&[u8]; 3]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.into_iter().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Backends of these weights, with random addresses.
    fn entries(rng: &mut StdRng, weights: &[u16]) -> Vec<Entry> {
        let mut entries: Vec<Entry> = weights
            .iter()
            .map(|weight| {
                let mut identity = [0; 19];
                rng.fill(&mut identity);
                Entry { identity, weight: *weight }
            })
            .collect();
        entries.sort();
        entries
    }

    fn places(table: &[u32], of: usize) -> f64 {
        table.iter().filter(|number| **number as usize == of).count() as f64
    }

    fn dice() -> StdRng {
        let seed = rand::random();
        println!("seed {seed}");
        StdRng::seed_from_u64(seed)
    }

    #[test]
    fn unit_sizes_are_primes_with_a_hundred_places_for_each() {
        for size in SIZES {
            assert!((2..).take_while(|n| n * n <= size).all(|n| size % n != 0), "{size}");
        }
        let equal = |count: usize| vec![Entry { identity: [0; 19], weight: 7 }; count];
        assert_eq!([1, 2, 3, 10, 1_000].map(|n| size(&equal(n), 0)), [251, 251, 509, 1_021, 131_071]);
        assert_eq!(size(&equal(3), 16_000), 16_381, "a user's size is the least");
        assert!(!is_coarse(&equal(1_310)) && is_coarse(&equal(1_311)));
        assert_eq!(size(&equal(100_000), 0), 131_071, "bounded");
    }

    #[test]
    fn unit_each_has_its_share_by_weight() {
        let mut rng = dice();
        for _ in 0..60 {
            let count = rng.random_range(1..=40);
            let greatest = if rng.random() { 1 } else { rng.random_range(1..=10) };
            let weights: Vec<u16> = (0..count).map(|_| rng.random_range(1..=greatest)).collect();
            let entries = entries(&mut rng, &weights);
            let size = size(&entries, 0);
            let table = fill(&entries, size, "");
            let total: f64 = entries.iter().map(|entry| f64::from(entry.weight)).sum();
            for (number, entry) in entries.iter().enumerate() {
                let ideal = f64::from(size) * f64::from(entry.weight) / total;
                let has = places(&table, number);
                assert!(
                    (has - ideal).abs() <= ideal * 0.011 + 1.0,
                    "{entry:?}: {has} of {size}, not {ideal}"
                );
            }
        }
    }

    /// What must move moves (the share of who goes), and little else: the
    /// paper sees 2 % where a hundredth of the backends fails at this size.
    #[test]
    fn unit_little_moves_beside_what_must() {
        let mut rng = dice();
        for count in [2, 3, 5, 10, 30, 100] {
            for weighted in [false, true] {
                let weights: Vec<u16> =
                    (0..count).map(|_| if weighted { rng.random_range(1..=4) } else { 1 }).collect();
                let entries = entries(&mut rng, &weights);
                let size = size(&entries, 0);
                let before = fill(&entries, size, "");
                let gone = rng.random_range(0..count);
                let mut left = entries.clone();
                left.remove(gone);
                let after = fill(&left, size, "");
                let renumbered = |n: u32| if n as usize > gone { n - 1 } else { n };
                let pairs = before.iter().zip(&after).filter(|(then, _)| **then as usize != gone);
                let moved = pairs.filter(|(then, now)| renumbered(**then) != **now).count();
                let share = moved as f64 / f64::from(size);
                assert!(share < 0.12, "{count} backends, weighted {weighted}: {share} moved besides");
            }
        }
    }

    #[test]
    fn unit_the_table_depends_on_the_backends_alone() {
        let mut rng = dice();
        let sorted = entries(&mut rng, &[1, 1, 2, 5, 1, 1]);
        let mut shuffled = sorted.clone();
        shuffled.shuffle(&mut rng);
        shuffled.sort();
        assert_eq!(fill(&sorted, 2_039, ""), fill(&shuffled, 2_039, ""));
        assert_ne!(fill(&sorted, 2_039, ""), fill(&sorted, 2_039, "another"), "a seed makes another one");
        // Written down once: releases must agree with each other.
        let fixed: Vec<Entry> = (1..=3).map(|n| Entry { identity: [n; 19], weight: 1 }).collect();
        let begin = &fill(&fixed, 251, "")[..24];
        assert_eq!(begin, FIXED);
    }

    const FIXED: [u32; 24] = [2, 1, 2, 2, 1, 0, 1, 0, 1, 0, 2, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1];
}
