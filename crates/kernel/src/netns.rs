//! Network namespaces: made, opened, entered.
//!
//! A namespace belongs to a thread, so every entry runs on a fresh thread
//! that ends with the work: no thread of the caller ever changes its place.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use thiserror::Error;

/// Where a thread finds its own network namespace.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// Why a namespace could not be made or used.
#[derive(Debug, Error)]
pub enum NetNsError {
    /// A system call failed.
    #[error("cannot {operation} network namespace {name}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Path of the namespace.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a network namespace: it is a regular file, or the namespace was deleted", path.display())]
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// The work inside panicked.
    #[error("a function that ran in network namespace {name} panicked: {message}")]
    Panicked {
        /// Path of the namespace.
        name: String,
        /// What the panic said.
        message: String,
    },
}

/// An open network namespace: it lives as long as this value does.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    name: String,
}

impl NetNs {
    /// Opens the namespace behind a path (`/run/netns/x`, `/proc/PID/ns/net`).
    pub fn open(path: impl AsRef<Path>) -> Result<NetNs, NetNsError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let file = File::open(path).map_err(failed("open", &name))?;
        if !is_nsfs(&file).map_err(failed("examine", &name))? {
            return Err(NetNsError::NotANamespace { path: path.to_owned() });
        }
        Ok(NetNs { file, name })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<NetNs, NetNsError> {
        NetNs::open(CURRENT)
    }

    /// Makes a new namespace and binds it to `path`, where it outlives every
    /// process until [`NetNs::remove_bound`].
    pub fn create_bound(path: impl AsRef<Path>) -> Result<NetNs, NetNsError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(failed("create the file of", &name))?;
        let made = on_new_thread(&name, || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some(CURRENT), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        });
        let bound = made.and_then(|result| result.map_err(|errno| failed("create", &name)(errno.into())));
        if let Err(error) = bound {
            // The error at hand matters more than one while cleaning up.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        NetNs::open(path)
    }

    /// Takes a namespace off its path and removes the file. Nothing there is
    /// no error.
    pub fn remove_bound(path: impl AsRef<Path>) -> Result<(), NetNsError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        // Bound twice (an interrupted earlier life) means two layers.
        loop {
            match umount2(path, MntFlags::MNT_DETACH) {
                Ok(()) => {}
                Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
                Err(errno) => return Err(failed("unmount", &name)(errno.into())),
            }
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &name)(error)),
            _ => Ok(()),
        }
    }

    /// Runs `work` on a fresh thread inside the namespace. A panic there is
    /// an error here.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        let entered = on_new_thread(&self.name, || {
            self.enter_this_thread()?;
            Ok(work())
        });
        entered.and_then(|result| result)
    }

    /// Moves the calling thread for good. For a process that is about to
    /// become another program; everything else uses [`NetNs::enter`].
    pub fn enter_this_thread(&self) -> Result<(), NetNsError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed("enter", &self.name)(errno.into()))
    }

    /// `SO_NETNS_COOKIE` (since Linux 5.14): a number that is never reused
    /// while the machine runs.
    #[doc(alias = "SO_NETNS_COOKIE")]
    pub fn cookie(&self) -> Result<u64, NetNsError> {
        self.enter(current_cookie)?.map_err(failed("read the cookie of", &self.name))
    }

    /// Device and inode: equal for two handles of the same namespace.
    pub fn identity(&self) -> Result<(u64, u64), NetNsError> {
        let metadata = self.file.metadata().map_err(failed("examine", &self.name))?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// The path it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn failed(operation: &'static str, name: &str) -> impl Fn(io::Error) -> NetNsError + use<> {
    let name = name.to_owned();
    move |source| NetNsError::System { operation, name: name.clone(), source }
}

fn is_nsfs(file: &File) -> io::Result<bool> {
    /// `NSFS_MAGIC` of linux/magic.h.
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    Ok(nix::sys::statfs::fstatfs(file)?.filesystem_type().0 == NSFS_MAGIC)
}

fn on_new_thread<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into());
        // A closure that unwinds leaves nothing of ours half done: it owns its state.
        let guarded = || catch_unwind(AssertUnwindSafe(work));
        let running = thread.spawn_scoped(scope, guarded).map_err(failed("start a thread for", name))?;
        running
            .join()
            .and_then(|result| result)
            .map_err(|panic| NetNsError::Panicked { name: name.to_owned(), message: panic_message(&*panic) })
    })
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

/// The cookie of the calling thread's namespace ([`NetNs::cookie`]). Needs no
/// privilege.
pub fn current_cookie() -> io::Result<u64> {
    /// `SO_NETNS_COOKIE` of asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are to live values of the length that is passed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
