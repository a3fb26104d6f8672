//! Failures: no API server, corrupt files, a full disk, an exhausted pool.

use std::fs;
use std::path::Path;
use std::time::Duration;

use beeline_abi::Ip;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::world::{NODE, NODE_IPS, Namespace, World, no_programs};

fn service(name: &str) -> serde_json::Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" },
        "spec": { "ports": [{ "port": 80 }] } })
}

#[test]
fn kernel_without_the_api_server_the_last_known_state_is_used() {
    if no_programs() {
        return;
    }
    let mut world = World::with_agent();
    let created = world.api().create("services", service("web")).unwrap();
    world.wait_for_sync("Service", &created);
    let _first = world.add("first");
    // The journal writes at least once a second.
    std::thread::sleep(Duration::from_millis(1500));
    world.stop_api();
    world.kill_agent();
    let before = world.pinned().contents().unwrap();
    world.start_agent();
    world.until_ready();
    assert!(world.log().contains("starting from the last known cluster state"), "{}", world.log());
    assert_eq!(world.pinned().contents().unwrap(), before);
    assert!(!world.status().api_connected);
    let _second = world.add("second");

    // Changes made in the meantime are synced.
    world.api().delete("services", "default", "web", &Default::default()).unwrap();
    world.start_api();
    world.eventually("the service is gone", || {
        world.pinned().contents().unwrap().service.len() < before.service.len()
    });
    world.eventually("the agent is synced again", || world.log().contains("synced with the API server"));
}

#[test]
fn kernel_after_a_reboot_without_the_api_server_the_tables_are_filled_from_disk() {
    if no_programs() {
        return;
    }
    let mut world = World::with_agent();
    let created = world.api().create("services", service("web")).unwrap();
    world.wait_for_sync("Service", &created);
    std::thread::sleep(Duration::from_millis(1500));
    world.stop_api();
    world.kill_agent();
    let before = world.pinned().contents().unwrap();
    // A reboot empties the bpffs.
    fs::remove_dir_all(world.path("bpf/beeline")).unwrap();
    world.start_agent();
    world.until_ready();
    let after = world.pinned().contents().unwrap();
    assert_eq!(after.service.len(), before.service.len(), "{}", world.log());
    assert_eq!(after.address.len(), before.address.len());
}

#[test]
fn kernel_unusable_files_are_set_aside_and_pods_stay_connected() {
    if no_programs() {
        return;
    }
    let mut world = World::with_agent();
    let (web, api) = (world.add("web"), world.add("api"));
    world.kill_agent();
    fs::write(world.state("endpoints.json"), r#"{"addresses":{"version":99},"endpoints":[],"next_id":1}"#)
        .unwrap();
    fs::write(world.state("sysctls.json"), "{torn").unwrap();
    fs::write(world.state("cluster.journal"), "what is this").unwrap();
    let before = world.pinned().contents().unwrap();
    world.start_agent();
    world.until_ready();
    for file in ["endpoints.json.unusable", "sysctls.json.unusable"] {
        // The sysctl file is read only if a sysctl must change.
        assert!(file.starts_with("sysctls") || world.state(file).exists(), "{file}\n{}", world.log());
    }
    assert_eq!(world.pinned().contents().unwrap(), before, "{}", world.log());
    let echo = api.namespace.echo(api.ipv4());
    assert!(web.namespace.reaches(web.ipv4(), echo.address), "{}", world.log());
    let next = world.add("next");
    assert!(!web.ips.contains(&next.ipv4()) && !api.ips.contains(&next.ipv4()), "an address was given twice");
    world.delete(&web);
    assert!(!world.pinned().contents().unwrap().endpoint.contains_key(&Ip::from(web.ipv4())));
}

#[test]
fn kernel_a_full_disk_only_fails_new_pods_and_is_reported() {
    if no_programs() {
        return;
    }
    let mut world = World::new();
    let disk = SmallDisk::mount(&world.path("state"));
    world.start_agent();
    world.until_ready();
    let (web, api) = (world.add("web"), world.add("api"));
    disk.fill();
    let namespace = Namespace::new(world.path("late"));
    let (success, error) = world.plugin("ADD", "late", &namespace.path);
    assert!(!success && error["code"] == 103, "{error:#}");
    let text = error.to_string();
    assert!(text.contains("endpoints.json") && text.contains("check the disk"), "{text}");
    let echo = api.namespace.echo(api.ipv4());
    assert!(web.namespace.reaches(web.ipv4(), echo.address), "{}", world.log());
    world.delete(&web);
    disk.empty();
    let (success, result) = world.plugin("ADD", "late", &namespace.path);
    assert!(success, "{result:#}\n{}", world.log());
}

/// A small tmpfs, unmounted when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> SmallDisk {
        fs::create_dir_all(path).unwrap();
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
        SmallDisk(path.to_owned())
    }

    fn fill(&self) {
        let content = vec![0; 4096];
        for number in 0.. {
            if fs::write(self.0.join(format!("filler-{number}")), &content).is_err() {
                return;
            }
        }
    }

    fn empty(&self) {
        for file in fs::read_dir(&self.0).unwrap().flatten() {
            if file.file_name().to_string_lossy().starts_with("filler") {
                fs::remove_file(file.path()).unwrap();
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn kernel_an_exhausted_pool_is_reported_and_leaves_nothing() {
    if no_programs() {
        return;
    }
    let mut world = World::new();
    world.api().delete("nodes", "", NODE, &Default::default()).unwrap();
    world.create_node("small", &NODE_IPS, &["10.244.9.0/30", "fd00:10:244:9::/64"]);
    world.node_name = "small".to_owned();
    world.start_agent();
    world.until_ready();
    let _first = world.add("first");
    let namespace = Namespace::new(world.path("second"));
    let (success, error) = world.plugin("ADD", "second", &namespace.path);
    assert!(!success && error["code"] == 100 && error.to_string().contains("10.244.9.0/30"), "{error:#}");
    assert!(namespace.netlink().link("eth0").is_err());
    assert_eq!(world.status().endpoints.len(), 1);
}

#[test]
fn kernel_invalid_values_are_rejected_with_a_message() {
    let mut world = World::new();
    world.values = "routingMod: native\n".to_owned();
    world.start_agent();
    world.eventually("it ends", || world.log().contains("did you mean `routingMode`"));
    world.kill_agent();
}
