//! The mount namespace of a container: the host's file system with the pod's
//! files and volumes mounted on top. Nothing of it is visible outside, and it
//! disappears with the last process in it. Missing mount points are created
//! without writing to the host's disk: their directory is covered with a small
//! tmpfs that bind-mounts the same entries.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{chdir, chroot, fchdir};

use crate::mounts;
use crate::process::ProcessId;

/// Mount points that every container needs; their directories are prepared
/// once per lab.
const COMMON_FILES: [&str; 4] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"];

/// The same for directories.
const COMMON_DIRECTORIES: [&str; 1] = ["/var/run/secrets/kubernetes.io/serviceaccount"];

/// Open handles of a mount namespace, a UTS namespace and a root directory.
#[derive(Debug)]
pub struct MountNamespace {
    mounts: File,
    uts: Option<File>,
    root: File,
}

/// The mounts of a container on top of the host's file system.
#[derive(Clone, Debug, Default)]
pub struct MountPlan {
    /// Host name; none keeps the host's.
    pub hostname: Option<String>,
    /// Bind mounts.
    pub binds: Vec<BindMount>,
    /// A directory that must exist.
    pub directory: Option<PathBuf>,
    /// An empty directory to mount a tmpfs on if the root directory must be
    /// covered.
    pub staging: PathBuf,
}

/// A bind mount of a file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindMount {
    /// Source path.
    pub source: PathBuf,
    /// Mount point.
    pub target: PathBuf,
    /// Mounted read-only.
    pub read_only: bool,
}

impl MountNamespace {
    /// The template for all containers of a lab, without the lab's own mounts,
    /// which containers would otherwise keep alive.
    pub fn template() -> Result<MountNamespace> {
        on_fresh_thread(|| {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
                .context("cannot create a mount namespace")?;
            beeline_kernel::mounts::make_private()
                .context("cannot make the mounts of the new namespace private")?;
            unmount_inherited()?;
            let mut view = RootBuilder::default();
            for file in COMMON_FILES {
                view.ensure(Path::new(file), false)?;
            }
            for directory in COMMON_DIRECTORIES {
                view.ensure(Path::new(directory), true)?;
            }
            MountNamespace::of_this_thread(None)
        })
    }

    /// Creates the namespaces of a container.
    pub fn for_container(&self, plan: &MountPlan) -> Result<MountNamespace> {
        on_fresh_thread(|| {
            unshare(CloneFlags::CLONE_FS).context("cannot leave the shared root")?;
            self.enter_this_thread().context("cannot enter the lab's mount namespace")?;
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
                .context("cannot create a container's namespaces")?;
            if let Some(name) = &plan.hostname {
                set_hostname(name)?;
            }
            let mut view = RootBuilder { staging: plan.staging.clone(), ..RootBuilder::default() };
            let mut binds = plan.binds.clone();
            // Outer mounts first: inner ones are mounted on them.
            binds.sort_by_key(|bind| bind.target.components().count());
            for bind in &binds {
                view.show(bind)?;
            }
            if let Some(directory) = &plan.directory {
                view.ensure(directory, true).context("cannot create the workingDir")?;
            }
            let uts = File::open("/proc/thread-self/ns/uts").context("cannot open the UTS namespace")?;
            MountNamespace::of_this_thread(Some(uts))
        })
    }

    /// The namespaces of a running process.
    pub fn of_process(process: ProcessId) -> Result<MountNamespace> {
        let directory = PathBuf::from(format!("/proc/{}", process.pid));
        let open = |part: &str| {
            File::open(directory.join(part))
                .with_context(|| format!("cannot open {}/{part}", directory.display()))
        };
        let mount_ns = MountNamespace {
            mounts: open("ns/mnt")?,
            uts: Some(open("ns/uts")?),
            root: open_root(&directory.join("root"))?,
        };
        if !process.alive() {
            bail!("process {} exited", process.pid);
        }
        Ok(mount_ns)
    }

    fn of_this_thread(uts: Option<File>) -> Result<MountNamespace> {
        let mounts = File::open("/proc/thread-self/ns/mnt").context("cannot open the mount namespace")?;
        Ok(MountNamespace { mounts, uts, root: open_root(Path::new("/"))? })
    }

    /// Moves the calling thread into these namespaces permanently; it must not
    /// share its root with other threads. Only makes system calls.
    pub fn enter_this_thread(&self) -> nix::Result<()> {
        if let Some(uts) = &self.uts {
            setns(uts.as_fd(), CloneFlags::CLONE_NEWUTS)?;
        }
        setns(self.mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
        // The root may differ from that of the mount namespace: it may be
        // covered, or the lab may run in a chroot.
        fchdir(&self.root)?;
        chroot(".")
    }

    /// Duplicates the handles.
    pub fn try_clone(&self) -> std::io::Result<MountNamespace> {
        let uts = self.uts.as_ref().map(File::try_clone).transpose()?;
        Ok(MountNamespace { mounts: self.mounts.try_clone()?, uts, root: self.root.try_clone()? })
    }
}

/// Unmounts what containers must not keep alive from the calling thread's
/// namespace: the lab's mounts and mounted namespaces.
fn unmount_inherited() -> Result<()> {
    for mount in mounts::all()?.iter().rev() {
        if mount.kind == "nsfs" || mount.target.starts_with(crate::paths::ROOT) {
            // Mounts hidden by others are not reachable in containers.
            let _ = mounts::unmount(&mount.target);
        }
    }
    Ok(())
}

fn open_root(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC);
    options.open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn set_hostname(name: &str) -> Result<()> {
    // SAFETY: the pointer is to `name.len()` bytes that live long enough.
    let result = unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error()).context("cannot set the host name")
    }
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount_ns".into());
        let running = thread.spawn_scoped(scope, work).context("cannot start a thread")?;
        running.join().unwrap_or_else(|_| Err(anyhow!("the thread that sets up mounts panicked")))
    })
}

/// The file system of the calling thread while it is being set up.
#[derive(Default)]
struct RootBuilder {
    /// Writable volumes: new entries there belong to the pod.
    volumes: Vec<PathBuf>,
    /// Devices of the tmpfs that cover directories. What they bind-mount
    /// belongs to the host.
    covers: Vec<u64>,
    staging: PathBuf,
}

impl RootBuilder {
    fn show(&mut self, bind: &BindMount) -> Result<()> {
        let failed = || format!("cannot mount {} at {}", bind.source.display(), bind.target.display());
        let is_directory = fs::metadata(&bind.source).with_context(failed)?.is_dir();
        // Opened first: covering the root may hide the source path.
        let source = open_path(&bind.source).with_context(failed)?;
        let target = self.ensure(&bind.target, is_directory).with_context(failed)?;
        let source = by_number(&source);
        mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).with_context(failed)?;
        if bind.read_only {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(None::<&str>, &target, None::<&str>, flags, None::<&str>).with_context(failed)?;
        } else {
            self.volumes.push(target);
        }
        Ok(())
    }

    /// Creates a mount point unless it exists; returns its path without
    /// symbolic links.
    fn ensure(&mut self, target: &Path, directory: bool) -> Result<PathBuf> {
        check_target(target)?;
        if let Ok(found) = fs::canonicalize(target) {
            if found.is_dir() != directory {
                let (is, be) = if directory { ("a file", "a directory") } else { ("a directory", "a file") };
                bail!("{} is {is} on this host, but must be {be}", target.display());
            }
            return Ok(found);
        }
        let (base, rest) = deepest_existing(target)?;
        if !self.is_own(&base)? {
            self.cover(&base)?;
        }
        let wanted = base.join(rest);
        let made = if directory {
            fs::create_dir_all(&wanted)
        } else {
            let above = wanted.parent().map_or(Ok(()), fs::create_dir_all);
            above.and_then(|()| fs::write(&wanted, ""))
        };
        made.with_context(|| format!("cannot create {} in the container", wanted.display()))?;
        Ok(wanted)
    }

    /// Covers a directory with a tmpfs that bind-mounts the same entries.
    fn cover(&mut self, directory: &Path) -> Result<()> {
        let failed = || format!("cannot create mount points below {}", directory.display());
        let covered = open_root(directory).with_context(failed)?;
        let about = covered.metadata().with_context(failed)?;
        let is_root = directory == Path::new("/");
        let mount_point = if is_root { self.staging.clone() } else { directory.to_owned() };
        let options = format!("mode={:o},uid={},gid={}", about.mode() & 0o7777, about.uid(), about.gid());
        mount(Some("tmpfs"), &mount_point, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .with_context(failed)?;
        // A recursive bind mount below it must not include this mount again.
        mount(None::<&str>, &mount_point, None::<&str>, MsFlags::MS_UNBINDABLE, None::<&str>)
            .with_context(failed)?;
        let before = by_number(&covered);
        for entry in fs::read_dir(&before).with_context(failed)?.flatten() {
            mirror(&entry, &before.join(entry.file_name()), &mount_point.join(entry.file_name()))
                .with_context(|| format!("{}: cannot mount {}", failed(), entry.path().display()))?;
        }
        mount(None::<&str>, &mount_point, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
            .with_context(failed)?;
        if is_root {
            chdir(&mount_point).and_then(|()| chroot(".")).with_context(failed)?;
        }
        self.covers.push(fs::metadata(directory).with_context(failed)?.dev());
        Ok(())
    }

    /// Whether a new entry in this directory leaves the host's disk untouched.
    fn is_own(&self, directory: &Path) -> Result<bool> {
        let device =
            fs::metadata(directory).with_context(|| format!("cannot examine {}", directory.display()))?.dev();
        let in_volume = self.volumes.iter().any(|volume| directory.starts_with(volume));
        Ok(in_volume || self.covers.contains(&device))
    }
}

/// Mirrors one entry of a covered directory in the tmpfs.
fn mirror(entry: &fs::DirEntry, from: &Path, to: &Path) -> Result<()> {
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        return Ok(std::os::unix::fs::symlink(fs::read_link(from)?, to)?);
    }
    if (kind.is_char_device() || kind.is_block_device()) && copy_device(from, to).is_ok() {
        return Ok(());
    }
    if kind.is_dir() {
        fs::create_dir(to)?;
    } else {
        fs::write(to, "")?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    Ok(mount(Some(from), to, None::<&str>, flags, None::<&str>)?)
}

/// A device needs no mount: a node with the same device number is equivalent.
fn copy_device(from: &Path, to: &Path) -> Result<()> {
    let about = fs::metadata(from)?;
    let kind = if about.file_type().is_char_device() { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
    mknod(to, kind, Mode::from_bits_truncate(about.mode()), about.rdev())?;
    std::os::unix::fs::chown(to, Some(about.uid()), Some(about.gid()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(about.mode() & 0o7777))?)
}

fn open_path(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)
}

/// A path to an open file, even if its own path is covered.
fn by_number(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))
}

fn check_target(target: &Path) -> Result<()> {
    let plain = target.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !target.is_absolute() || !plain || target == Path::new("/") {
        bail!(
            "{:?} is not a valid mount path: it must be absolute, below / and without ..",
            target.display()
        );
    }
    Ok(())
}

/// The existing part of a path with links resolved, and the remainder.
fn deepest_existing(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let mut path = path.to_owned();
    // The kernel's limit of symbolic links (MAXSYMLINKS).
    for _ in 0..40 {
        let existing = path.ancestors().find(|part| part.symlink_metadata().is_ok());
        let existing = existing.context("a path without a root")?.to_owned();
        let rest = path.strip_prefix(&existing).context("an ancestor is a prefix")?.to_owned();
        match fs::canonicalize(&existing) {
            Ok(base) if base.is_dir() => return Ok((base, rest)),
            Ok(base) => bail!("{} is a file, not a directory", base.display()),
            // A dangling link: its target is created instead.
            Err(_) => {
                let link = fs::read_link(&existing)
                    .with_context(|| format!("cannot read the link {}", existing.display()))?;
                path = existing.parent().unwrap_or(Path::new("/")).join(link).join(rest);
            }
        }
    }
    bail!("{}: too many symbolic links", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_mount_paths_are_absolute_and_normalized() {
        for bad in ["", "a", "/", "/a/../b", "../a"] {
            assert!(check_target(Path::new(bad)).is_err(), "{bad:?}");
        }
        check_target(Path::new("/a/b")).unwrap();
    }

    #[test]
    fn unit_the_existing_part_of_a_path_is_resolved_through_links() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        std::os::unix::fs::symlink("real/later", root.join("dangling")).unwrap();
        let check = |path: &str, base: &str, rest: &str| {
            let found = deepest_existing(&root.join(path)).unwrap();
            assert_eq!(found, (root.join(base), PathBuf::from(rest)), "{path}");
        };
        check("link/a/b", "real", "a/b");
        check("dangling", "real", "later");
        check("dangling/a", "real", "later/a");
        fs::write(root.join("file"), "").unwrap();
        assert!(deepest_existing(&root.join("file/below")).is_err());
    }
}
