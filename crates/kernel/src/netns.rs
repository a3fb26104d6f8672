//! Creating, opening and entering network namespaces (network_namespaces(7)).
//!
//! The network namespace is a property of a thread, so a namespace is entered
//! on a new thread that ends with the work. Threads of the caller stay in
//! their namespace.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use thiserror::Error;

/// The network namespace of the calling thread.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// Why a network namespace could not be created or used.
#[derive(Debug, Error)]
pub enum NetNsError {
    /// A system call failed.
    #[error("cannot {operation} network namespace {name}: {source}")]
    System {
        /// The operation that failed.
        operation: &'static str,
        /// Path of the namespace.
        name: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// The file is not a network namespace.
    #[error("{} is not a network namespace: it is a regular file, or the namespace was deleted", path.display())]
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// The function that ran in the namespace panicked.
    #[error("a function that ran in network namespace {name} panicked: {message}")]
    Panicked {
        /// Path of the namespace.
        name: String,
        /// The panic message.
        message: String,
    },
}

/// An open network namespace. It exists at least as long as this value.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    name: String,
}

impl NetNs {
    /// Opens the namespace at a path (`/run/netns/x`, `/proc/PID/ns/net`).
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

    /// Creates a namespace and bind-mounts it on `path`, a new file, as `ip
    /// netns add` does. It exists until [`NetNs::remove_bound`]. Fails if the
    /// file exists.
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
            // An error of the cleanup is ignored in favour of the first one.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        NetNs::open(path)
    }

    /// Unmounts a namespace from its path and removes the file. It is no error
    /// if there is none.
    pub fn remove_bound(path: impl AsRef<Path>) -> Result<(), NetNsError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        // An interrupted process may have left more than one mount on the path.
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

    /// Runs `work` in the namespace, on a new thread, and waits for it. A panic
    /// of `work` is returned as [`NetNsError::Panicked`].
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        let entered = on_new_thread(&self.name, || {
            self.enter_this_thread()?;
            Ok(work())
        });
        entered.and_then(|result| result)
    }

    /// Moves the calling thread into the namespace permanently. Only for a
    /// process that then calls exec(3); use [`NetNs::enter`] otherwise.
    pub fn enter_this_thread(&self) -> Result<(), NetNsError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed("enter", &self.name)(errno.into()))
    }

    /// The cookie of the namespace (`SO_NETNS_COOKIE`, Linux 5.14), which is
    /// not reused until the machine reboots.
    #[doc(alias = "SO_NETNS_COOKIE")]
    pub fn cookie(&self) -> Result<u64, NetNsError> {
        self.enter(current_cookie)?.map_err(failed("read the cookie of", &self.name))
    }

    /// Device and inode number, equal for two handles of the same namespace.
    pub fn identity(&self) -> Result<(u64, u64), NetNsError> {
        let metadata = self.file.metadata().map_err(failed("examine", &self.name))?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// The path by which the namespace was opened.
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
        // The closure owns its state, so no broken invariant is visible after a panic.
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

/// The cookie of the network namespace of the calling thread
/// ([`NetNs::cookie`]). Needs no privileges.
pub fn current_cookie() -> io::Result<u64> {
    /// `SO_NETNS_COOKIE` of asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are valid for the length that is passed.
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
