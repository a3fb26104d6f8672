//! The mount table, and private mount namespaces (mount_namespaces(7)).

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, chroot};

const NONE: Option<&str> = None;

/// A line of `/proc/PID/mountinfo` (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Mount ID.
    pub id: u32,
    /// ID of the parent mount.
    pub parent: u32,
    /// The directory of the file system that is mounted; `/` = its root.
    pub root: String,
    /// Mount point, relative to the root directory of the process.
    pub target: PathBuf,
    /// File system type.
    pub kind: String,
}

/// The mounts visible to the calling thread, in the order of mounting.
pub fn table() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read_to_string("/proc/thread-self/mountinfo")?).collect())
}

/// A line is `ID PARENT MAJOR:MINOR ROOT TARGET OPTIONS [FIELDS] - TYPE SOURCE SUPER`.
pub(crate) fn parse(mountinfo: &str) -> impl Iterator<Item = Mount> {
    mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut words = before.split(' ');
        let (id, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let mut words = words.skip(1);
        let (root, target) = (unescape(words.next()?), unescape(words.next()?).into());
        Some(Mount { id, parent, root, target, kind: after.split(' ').next()?.to_owned() })
    })
}

/// Decodes the octal escapes (`\040`) for space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// Makes all mounts of the calling thread's mount namespace private, so that
/// later mounts do not propagate to other namespaces. Call it after
/// `unshare(CLONE_NEWNS)`. In a chroot the root directory is replaced, so the
/// thread must not share it with other threads (`CLONE_FS`).
pub fn make_private() -> io::Result<()> {
    match make_all_private() {
        // The root directory is not a mount point (chroot).
        Err(nix::Error::EINVAL) => move_root_to_a_mount().and_then(|()| Ok(make_all_private()?)),
        result => Ok(result?),
    }
}

fn make_all_private() -> nix::Result<()> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
}

/// Makes a recursive bind mount of the root directory the new root. It is
/// mounted below an existing mount that was made private: a mount directly
/// below the old root, which cannot be made private, could propagate.
fn move_root_to_a_mount() -> io::Result<()> {
    let mut mounts = table()?;
    mounts.retain(|named| named.target != Path::new("/"));
    for named in &mounts {
        // Fails for a mount that another one covers.
        let _ = mount(NONE, &named.target, NONE, MsFlags::MS_PRIVATE, NONE);
    }
    let place = mounts.iter().find(|named| named.target.is_dir()).ok_or_else(|| {
        io::Error::other("nothing is mounted below the root of this chroot; mount at least /proc there")
    })?;
    let place = &place.target;
    mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), NONE)?;
    let root = place.join("root");
    std::fs::create_dir(&root)?;
    mount(Some("/"), &root, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    for original in mounts.iter().rev().filter(|named| !named.target.starts_with(place)) {
        // Otherwise this namespace would keep these mounts busy. Mounts whose
        // parent is not visible stay, because unmounting them would propagate.
        if mounts.iter().any(|named| named.id == original.parent) {
            let _ = umount2(&original.target, MntFlags::MNT_DETACH);
        }
    }
    chdir(&root)?;
    chroot(".")?;
    // The bind mount contains a copy of the tmpfs mounted above.
    umount2(place, MntFlags::MNT_DETACH)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_a_line_of_mountinfo_is_read() {
        let line = r"36 35 0:4 net:[4026532] /run/a\040b\134 rw,nosuid shared:1 - nsfs nsfs rw";
        let expected = Mount {
            id: 36,
            parent: 35,
            root: "net:[4026532]".into(),
            target: r"/run/a b\".into(),
            kind: "nsfs".into(),
        };
        assert_eq!(parse(line).collect::<Vec<_>>(), [expected]);
        assert_eq!(parse("36 35").count(), 0);
        assert_eq!(unescape(r"a\x \07"), r"a\x \07", "not an escape sequence");
    }
}
