//! Mounts below a folder, and the file systems that a lab mounts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

/// One line of `/proc/thread-self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub target: PathBuf,
    /// Type of the file system.
    pub kind: String,
    /// The part of the file system that is mounted; `/` = all of it.
    pub root: String,
}

/// All mounts of this thread's mount namespace, in the order of mounting.
pub fn all() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo")
        .context("cannot read /proc/thread-self/mountinfo")?;
    Ok(text.lines().filter_map(parse).collect())
}

/// Mounts on `folder` or below it.
pub fn below(folder: &Path) -> Result<Vec<Mount>> {
    Ok(all()?.into_iter().filter(|mount| mount.target.starts_with(folder)).collect())
}

/// Where the whole of cgroup2 is mounted, found by type, never by path.
pub fn cgroup2() -> Result<Option<PathBuf>> {
    let mut mounts = all()?.into_iter().filter(|mount| mount.kind == "cgroup2");
    Ok(mounts
        .find(|mount| mount.root == "/" && !mount.target.starts_with(crate::paths::ROOT))
        .map(|m| m.target))
}

/// Removes every mount on `folder` or below it, the last one first; hands
/// back every error.
pub fn unmount_below(folder: &Path) -> Vec<anyhow::Error> {
    let mounts = match below(folder) {
        Ok(mounts) => mounts,
        Err(error) => return vec![error],
    };
    mounts.iter().rev().filter_map(|mount| unmount(&mount.target).err()).collect()
}

/// Removes one mount, also one that is in use.
pub fn unmount(target: &Path) -> Result<()> {
    umount2(target, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", target.display()))
}

fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ').skip(3);
    let root = unescape(fields.next()?);
    let target = PathBuf::from(unescape(fields.next()?));
    let kind = right.split(' ').next()?.to_owned();
    Some(Mount { target, kind, root })
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        result.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                result.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                result.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_a_line_of_mountinfo_is_read() {
        let line = r"36 35 0:4 net:[4026532] /run/a\040b rw,nosuid shared:1 - nsfs nsfs rw";
        let expected = Mount { target: "/run/a b".into(), kind: "nsfs".into(), root: "net:[4026532]".into() };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse("36 35"), None);
    }
}
