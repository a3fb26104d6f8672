//! Mounting and removing bpffs and cgroups, and private mounts.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod support;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use beeline_kernel::{bpffs, cgroup};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, chroot};
use support::{TestBpffs, unique_path};

#[test]
fn kernel_a_bpffs_is_mounted_once_and_unmounted_for_good() {
    let path = unique_path("bpffs");
    assert!(!bpffs::is_bpffs(&path).unwrap());
    bpffs::mount(&path).unwrap();
    std::fs::create_dir(path.join("kept")).unwrap();
    bpffs::mount(&path).expect("idempotent");
    assert!(bpffs::is_bpffs(&path).unwrap() && path.join("kept").is_dir(), "the second mount does nothing");
    bpffs::unmount(&path.join("kept")).expect("a directory on another mount is not unmounted");
    assert!(path.join("kept").is_dir());
    bpffs::unmount(&path).unwrap();
    bpffs::unmount(&path).expect("idempotent");
    assert!(!bpffs::is_bpffs(&path).unwrap());
    std::fs::remove_dir(&path).unwrap();
}

#[test]
fn kernel_a_cgroup_is_removed_with_all_its_processes() {
    let mount = match cgroup::find_mount() {
        Ok(mount) => mount,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let run = std::env::var("BEELINE_TEST_RUN").unwrap_or_default();
    let guard = Group(mount.join(format!("beeline-test-{run}-{}", std::process::id())));
    let group = guard.0.clone();
    let below = group.join("pods").join("one");
    cgroup::create(&below).unwrap();
    let mut sleepers = Vec::new();
    for place in [&group, &below] {
        let place = place.clone();
        let mut command = Command::new("sleep");
        command.arg("600");
        // SAFETY: one write to a file between fork and exec.
        unsafe { command.pre_exec(move || cgroup::add(&place, 0).map_err(std::io::Error::other)) };
        sleepers.push(command.spawn());
    }
    let mut sleepers: Vec<_> = sleepers.into_iter().map(Result::unwrap).collect();
    let mut found = cgroup::processes(&group).unwrap();
    found.sort_unstable();
    let mut expected: Vec<u32> = sleepers.iter().map(std::process::Child::id).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    // Killed processes must be reaped by their parent.
    let reaper = std::thread::spawn(move || sleepers.iter_mut().for_each(|one| drop(one.wait())));
    cgroup::remove(&group).unwrap();
    reaper.join().unwrap();
    assert!(!group.exists());
    cgroup::remove(&group).expect("idempotent");
    assert_eq!(cgroup::processes(&group).unwrap(), Vec::<u32>::new());
}

/// A cgroup that is removed on drop.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = cgroup::remove(&self.0) {
            eprintln!("not removed: {error}");
        }
    }
}

#[test]
fn kernel_nothing_is_left_when_a_test_ends() {
    let path = {
        let bpffs = TestBpffs::new();
        bpffs.to_path_buf()
    };
    assert!(!path.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&path.display().to_string()));
}

/// The root directory is not a mount point (plain chroot) and lies on a shared
/// mount, as under systemd: new mounts do not propagate, old ones are removed.
#[test]
fn kernel_mounts_are_private_also_in_a_chroot() {
    let directory = unique_path("chroot");
    for name in ["proc", "run", "seen"] {
        std::fs::create_dir_all(directory.join(name)).unwrap();
    }
    let nothing: Option<&str> = None;
    let on_own_mounts = |work: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| {
            let run = || {
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
                work();
            };
            scope.spawn(run).join().unwrap();
        });
    };
    on_own_mounts(&|| {
        // This test may run in a chroot itself.
        beeline_kernel::mounts::make_private().unwrap();
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SHARED, nothing).unwrap();
        mount(Some("/proc"), &directory.join("proc"), nothing, MsFlags::MS_BIND, nothing).unwrap();
        mount(Some("tmpfs"), &directory.join("run"), Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
        chdir(&directory).unwrap();
        chroot(".").unwrap();
        on_own_mounts(&|| {
            beeline_kernel::mounts::make_private().unwrap();
            for place in ["/seen", "/run"] {
                mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
                std::fs::write(format!("{place}/inside"), "").unwrap();
            }
            let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
            assert_eq!(points, ["/", "/proc", "/run", "/seen", "/run"], "{mounts}");
        });
        for place in ["/seen", "/run"] {
            let files: Vec<_> = std::fs::read_dir(place).unwrap().collect();
            assert!(files.is_empty(), "{place} in the other namespace has {files:?}");
        }
        assert!(std::path::Path::new("/proc/self").exists());
    });
    std::fs::remove_dir_all(&directory).unwrap();
}
