//! Examples and properties of the address pools.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use beeline_ipam::{AllocateError, Ipam, Moment, Owner, StateError};
use ipnet::IpNet;
use proptest::prelude::*;

fn nets(cidrs: &[&str]) -> Vec<IpNet> {
    cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect()
}

fn ipam(cidrs: &[&str]) -> Ipam {
    let mut ipam = Ipam::new(1_000);
    assert_eq!(ipam.set_pools(&nets(cidrs)), Vec::<String>::new());
    ipam
}

fn owner(n: usize) -> Owner {
    Owner::new(format!("container-{n}"), "eth0")
}

fn allocated(ipam: &mut Ipam, n: usize, at: u64) -> String {
    match ipam.allocate(&owner(n), Moment(at)) {
        Ok(addresses) => addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
        Err(error) => error.to_string(),
    }
}

#[test]
fn unit_both_families_idempotent_and_round_robin() {
    let mut ipam = ipam(&["10.244.1.0/29", "fd00:10:244:1::/64"]);
    assert_eq!(allocated(&mut ipam, 1, 0), "10.244.1.2 fd00:10:244:1::2");
    assert_eq!(allocated(&mut ipam, 1, 0), "10.244.1.2 fd00:10:244:1::2", "the same attachment again");
    assert_eq!(allocated(&mut ipam, 2, 0), "10.244.1.3 fd00:10:244:1::3");
    assert_eq!(ipam.release(&owner(1), Moment(10)).len(), 2);
    assert_eq!(ipam.release(&owner(1), Moment(11)).len(), 0, "release is idempotent");
    assert_eq!(
        allocated(&mut ipam, 3, 5_000),
        "10.244.1.4 fd00:10:244:1::4",
        "released addresses are reused last"
    );
    assert_eq!(allocated(&mut ipam, 4, 5_000), "10.244.1.5 fd00:10:244:1::5");
    assert_eq!(allocated(&mut ipam, 5, 5_000), "10.244.1.6 fd00:10:244:1::6");
    assert_eq!(allocated(&mut ipam, 6, 5_000), "10.244.1.2 fd00:10:244:1::7", "7 is the broadcast address");
}

#[test]
fn unit_cooldown_and_exhaustion_without_half_allocation() {
    let mut ipam = ipam(&["10.0.0.0/29", "fd00::/64"]);
    for n in 0..5 {
        allocated(&mut ipam, n, 0);
    }
    ipam.release(&owner(0), Moment(100));
    let before = ipam.clone();
    let error = ipam.allocate(&owner(9), Moment(1_099)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no address for container-9 eth0: pool 10.0.0.0/29 is exhausted (5 addresses, 4 in use, 1 released \
         less than 1 s ago); delete pods, wait for the release of finished ones, or give the node a larger \
         PodCIDR"
    );
    assert_eq!(ipam, before, "no IPv6 address was taken");
    assert_eq!(allocated(&mut ipam, 9, 1_100), "10.0.0.2 fd00::7");
}

#[test]
fn unit_a_clock_set_back_does_not_extend_the_cooldown() {
    let mut ipam = ipam(&["10.0.0.0/30"]);
    allocated(&mut ipam, 1, 1_000_000);
    ipam.release(&owner(1), Moment(1_000_000));
    assert!(ipam.allocate(&owner(2), Moment(500)).is_err());
    assert_eq!(allocated(&mut ipam, 2, 1_500), "10.0.0.2");
}

#[test]
fn unit_no_pool_and_bad_pools() {
    let mut ipam = Ipam::new(0);
    assert!(matches!(ipam.allocate(&owner(1), Moment(0)), Err(AllocateError::NoPool { .. })));
    let problems = ipam.set_pools(&nets(&["10.0.0.0/31", "10.1.0.0/24", "10.1.0.128/25", "fd00::1/128"]));
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(problems[1].contains("10.1.0.128/25 overlaps 10.1.0.0/24"), "{problems:#?}");
    assert_eq!(allocated(&mut ipam, 1, 0), "10.1.0.2");
}

#[test]
fn unit_pools_change_and_owners_stay() {
    let mut ipam = ipam(&["10.0.0.0/30"]);
    assert_eq!(allocated(&mut ipam, 1, 0), "10.0.0.2");
    ipam.set_pools(&nets(&["10.0.1.0/24"]));
    assert_eq!(allocated(&mut ipam, 1, 0), "10.0.0.2", "kept");
    assert_eq!(allocated(&mut ipam, 2, 0), "10.0.1.2");
    ipam.set_pools(&nets(&["10.0.0.0/29"]));
    assert_eq!(allocated(&mut ipam, 3, 0), "10.0.0.3", "2 is owned");
    ipam.release(&owner(1), Moment(0));
    ipam.release(&owner(2), Moment(0));
    for n in 4..7 {
        allocated(&mut ipam, n, 0);
    }
    assert!(ipam.allocate(&owner(7), Moment(999)).is_err(), "10.0.0.2 cools down");
    assert_eq!(allocated(&mut ipam, 7, 1_000), "10.0.0.2");
}

#[test]
fn unit_retain_releases_the_rest() {
    let mut ipam = ipam(&["10.0.0.0/24"]);
    for n in 0..4 {
        allocated(&mut ipam, n, 0);
    }
    let valid: BTreeSet<Owner> = [owner(1), owner(3), owner(8)].into();
    let released: Vec<Owner> = ipam.retain(&valid, Moment(1)).into_iter().map(|(owner, _)| owner).collect();
    assert_eq!(released, [owner(0), owner(2)]);
    assert_eq!(ipam.owners().count(), 2);
    assert_eq!(ipam.status()[0].owned, 2);
    assert_eq!(ipam.status()[0].released, 2);
}

#[test]
fn unit_corrupt_state_is_refused_with_the_reason() {
    let refused = |json: &str| Ipam::from_json(json, 0).unwrap_err().to_string();
    let state = |pools: &str, owners: &str, released: &str| {
        refused(&format!(r#"{{"version":1,"pools":[{pools}],"owners":[{owners}],"released":[{released}]}}"#))
    };
    assert!(matches!(Ipam::from_json("{\"vers", 0), Err(StateError::Syntax(_))));
    assert!(refused(r#"{"version":9,"pools":[],"owners":[],"released":[]}"#).contains("version 9"));
    assert!(state(r#"{"cidr":"10.0.0.1/24","next":2}"#, "", "").contains("host bits"));
    assert!(state(r#"{"cidr":"10.0.0.0/24","next":1}"#, "", "").contains("cursor 1"));
    assert!(state(r#"{"cidr":"10.0.0.0/24","next":256}"#, "", "").contains("cursor 256"));
    let a = r#"{"container_id":"a","interface":"eth0","addresses":["10.0.0.2"]}"#;
    let b = r#"{"container_id":"b","interface":"eth0","addresses":["10.0.0.2"]}"#;
    assert!(state("", &format!("{a},{b}"), "").contains("10.0.0.2 of b eth0 has another owner"));
    let a2 = r#"{"container_id":"a","interface":"eth0","addresses":["10.0.0.3"]}"#;
    assert!(state("", &format!("{a},{a2}"), "").contains("a eth0 is listed twice"));
    let none = r#"{"container_id":"a","interface":"eth0","addresses":[]}"#;
    assert!(state("", none, "").contains("one address per family"));
    assert!(state("", a, r#"{"ip":"10.0.0.2","at_ms":1}"#).contains("released address 10.0.0.2"));
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(usize),
    Release(usize),
    Retain(Vec<usize>),
    Pools(usize),
    Restart,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..24).prop_map(Step::Allocate),
        4 => (0usize..24).prop_map(Step::Release),
        1 => prop::collection::vec(0usize..24, 0..24).prop_map(Step::Retain),
        1 => (0usize..5).prop_map(Step::Pools),
        1 => Just(Step::Restart),
        2 => (0u64..1_500).prop_map(Step::Wait),
    ]
}

const POOLS: [&[&str]; 5] = [
    &["10.0.0.0/28", "fd00::/124"],
    &["10.0.0.0/29"],
    &["10.0.0.8/29", "fd00::8/125", "10.0.1.0/30"],
    &[],
    &["fd00::/64", "10.0.0.0/24"],
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// An address is never allocated twice, within its cool-down, or if it is
    /// reserved; an allocation is complete or fails; a restart changes nothing.
    #[test]
    fn unit_never_handed_out_twice(steps in prop::collection::vec(step(), 1..120)) {
        let mut ipam = ipam(POOLS[0]);
        let mut pools = nets(POOLS[0]);
        let mut now = 10_000u64;
        let mut owned: BTreeMap<Owner, Vec<IpAddr>> = BTreeMap::new();
        let mut released: HashMap<IpAddr, u64> = HashMap::new();
        for step in steps {
            match step {
                Step::Wait(ms) => now += ms,
                Step::Pools(which) => {
                    pools = nets(POOLS[which]);
                    ipam.set_pools(&pools);
                }
                Step::Restart => {
                    let loaded = Ipam::from_json(&ipam.to_json(), 1_000).unwrap();
                    prop_assert_eq!(&loaded, &ipam);
                    ipam = loaded;
                }
                Step::Release(n) => {
                    let had = owned.remove(&owner(n)).unwrap_or_default();
                    prop_assert_eq!(&ipam.release(&owner(n), Moment(now)), &had);
                    released.extend(had.into_iter().map(|ip| (ip, now)));
                }
                Step::Retain(keep) => {
                    let valid: BTreeSet<Owner> = keep.into_iter().map(owner).collect();
                    for (owner, addresses) in ipam.retain(&valid, Moment(now)) {
                        prop_assert_eq!(owned.remove(&owner), Some(addresses.clone()));
                        released.extend(addresses.into_iter().map(|ip| (ip, now)));
                    }
                    prop_assert!(owned.keys().all(|owner| valid.contains(owner)));
                }
                Step::Allocate(n) => {
                    let before = ipam.to_json();
                    match (ipam.allocate(&owner(n), Moment(now)), owned.get(&owner(n))) {
                        (Ok(addresses), Some(had)) => prop_assert_eq!(&addresses, had),
                        (Err(error), Some(_)) => prop_assert!(false, "owned, yet {}", error),
                        (Err(_), None) => prop_assert_eq!(
                            Ipam::from_json(&before, 1_000).unwrap().owners().count(), ipam.owners().count()),
                        (Ok(addresses), None) => {
                            let taken: HashSet<&IpAddr> = owned.values().flatten().collect();
                            let families: HashSet<bool> = pools.iter().map(|p| matches!(p, IpNet::V6(_))).collect();
                            prop_assert_eq!(addresses.len(), families.len());
                            for ip in &addresses {
                                prop_assert!(!taken.contains(ip), "{} twice", ip);
                                let pool = pools.iter().find(|pool| pool.contains(ip)).unwrap();
                                prop_assert!(pool.network() != *ip);
                                prop_assert!(ip.is_ipv6() || pool.broadcast() != *ip);
                                if let Some(at) = released.remove(ip) {
                                    prop_assert!(now - at >= 1_000, "{} after {} ms", ip, now - at);
                                }
                            }
                            owned.insert(owner(n), addresses);
                        }
                    }
                }
            }
        }
    }
}
