//! Mounts of a process's own.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, chroot};

const NOTHING: Option<&str> = None;

/// Parts the mounts of a new mount namespace, which the caller has just made
/// for itself, from those that they are copies of: what is mounted from now on
/// is seen nowhere else. The caller must not share its root directory with
/// other threads (`CLONE_FS`): in a chroot it gets another.
pub fn make_private() -> io::Result<()> {
    match make_all_private() {
        // The root is a directory of a mount (chroot), which has no name here.
        Err(nix::Error::EINVAL) => move_root_to_a_mount().and_then(|()| Ok(make_all_private()?)),
        result => Ok(result?),
    }
}

fn make_all_private() -> nix::Result<()> {
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)
}

/// Makes a copy of everything below the root the new root. It hangs below some
/// mount that has a name, since what is mounted right below a root without one
/// may be seen elsewhere.
fn move_root_to_a_mount() -> io::Result<()> {
    let mounts = named()?;
    for named in &mounts {
        // One that another hides has no name either.
        let _ = mount(NOTHING, &named.point, NOTHING, MsFlags::MS_PRIVATE, NOTHING);
    }
    let place = mounts.iter().find(|named| named.point.is_dir()).ok_or_else(|| {
        io::Error::other("nothing is mounted below the root of this chroot; mount at least /proc there")
    })?;
    let place = &place.point;
    mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), NOTHING)?;
    let root = place.join("root");
    std::fs::create_dir(&root)?;
    mount(Some("/"), &root, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)?;
    for original in mounts.iter().rev().filter(|named| !named.point.starts_with(place)) {
        // What they hold must not live as long as this namespace. Those right
        // on the mount without a name stay: without them elsewhere, too.
        if mounts.iter().any(|named| named.id == original.parent) {
            let _ = umount2(&original.point, MntFlags::MNT_DETACH);
        }
    }
    chdir(&root)?;
    chroot(".")?;
    // The copy has a copy of what covers the place.
    umount2(place, MntFlags::MNT_DETACH)?;
    Ok(())
}

struct Named {
    id: u32,
    parent: u32,
    point: PathBuf,
}

/// The mounts that this thread can name, as proc(5) lists them: the first word
/// is the number, the second that of the mount below, the fifth the directory.
fn named() -> io::Result<Vec<Named>> {
    let text = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
    let mount = |line: &str| -> Option<Named> {
        let words: Vec<&str> = line.split(' ').collect();
        let (id, parent) = (words.first()?.parse().ok()?, words.get(1)?.parse().ok()?);
        Some(Named { id, parent, point: PathBuf::from(unescaped(words.get(4)?)) })
    };
    Ok(text.lines().filter_map(mount).filter(|named| named.point != Path::new("/")).collect())
}

/// Blank, tab, newline and backslash stand as three octal digits.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}
