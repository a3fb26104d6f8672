//! Debian packages, downloaded and unpacked in target/kernels, not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::Log;
use crate::{paths, process};

/// An unpacked kernel.
pub struct Kernel {
    /// The kernel image.
    pub image: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// The output of `uname -r`.
    pub release: String,
}

/// QEMU, installed or unpacked.
#[derive(Clone)]
pub struct Qemu {
    program: PathBuf,
    /// The folder it was unpacked in; none if it is installed.
    unpacked: Option<PathBuf>,
}

/// The files of a kernel package that the tests need. The others are hundreds
/// of megabytes of drivers.
const KERNEL_PARTS: [&str; 6] = [
    "./boot/vmlinuz-*",
    "./*lib/modules/*/modules.*",
    "./*lib/modules/*/kernel/net/*",
    "./*lib/modules/*/kernel/lib/*",
    "./*lib/modules/*/kernel/crypto/*",
    "./*lib/modules/*/kernel/drivers/net/veth.ko*",
];

const QEMU: &str = "qemu-system-x86_64";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const OLD_LIBRARIES: &str = "lib/x86_64-linux-gnu";

fn folder() -> PathBuf {
    paths::top().join("target/kernels")
}

/// The newest stock kernel of a series (`6.1`).
pub fn kernel(series: &str, log: &Log) -> Result<Kernel> {
    let name = match newest(series, log)? {
        Some(name) => name,
        None => {
            update(log)?;
            newest(series, log)?.with_context(|| {
                format!(
                    "apt finds no stock kernel {series} (linux-image-{series}.*-amd64). Debian 12 has it in \
                     bookworm and bookworm-security: check the sources in /etc/apt"
                )
            })?
        }
    };
    let folder = unpack(&name, std::slice::from_ref(&name), &KERNEL_PARTS, log)?;
    let release = name.trim_start_matches("linux-image-").to_owned();
    let image = folder.join("boot").join(format!("vmlinuz-{release}"));
    let found = ["lib/modules", "usr/lib/modules"].map(|parent| folder.join(parent).join(&release));
    let modules = found.into_iter().find(|path| path.is_dir());
    let modules = modules.with_context(|| format!("the package {name} contains no modules of {release}"))?;
    Ok(Kernel { image, modules, release })
}

/// A static busybox: the shell, tools and modprobe of the machine.
pub fn busybox(log: &Log) -> Result<PathBuf> {
    let folder = unpack("busybox", &["busybox-static".to_owned()], &[], log)?;
    let found = ["bin/busybox", "usr/bin/busybox"].map(|path| folder.join(path));
    found.into_iter().find(|path| path.exists()).context("the package busybox-static contains no busybox")
}

/// The installed QEMU, else one that is unpacked with the libraries that this
/// machine lacks. Installing it could remove packages of the user (qemu-utils
/// of another version, for example).
pub fn qemu(log: &Log) -> Result<Qemu> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut installed = std::env::split_paths(&path).map(|folder| folder.join(QEMU));
    if let Some(program) = installed.find(|program| program.exists()) {
        return Ok(Qemu { program, unpacked: None });
    }
    let unpacked = folder().join("qemu");
    if !is_complete(&unpacked) {
        let names = or_after_update(log, missing_for_qemu)?;
        unpack("qemu", &names, &[], log)?;
    }
    Ok(Qemu { program: unpacked.join("usr/bin").join(QEMU), unpacked: Some(unpacked) })
}

impl Qemu {
    /// The command with a timeout; the caller adds arguments.
    pub fn command(&self, seconds_max: u32) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", &seconds_max.to_string(), "nice"]).arg(&self.program);
        if let Some(folder) = &self.unpacked {
            let libraries = folder.join(LIBRARIES);
            // Some packages install to /lib, which is a symbolic link on a running system.
            let path = format!("{}:{}", libraries.display(), folder.join(OLD_LIBRARIES).display());
            command.env("LD_LIBRARY_PATH", path).env("QEMU_MODULE_DIR", libraries.join("qemu"));
            for firmware in ["qemu", "seabios"] {
                command.arg("-L").arg(folder.join("usr/share").join(firmware));
            }
        }
        command
    }
}

/// The packages that apt would install for QEMU.
fn missing_for_qemu(log: &Log) -> Result<Vec<String>> {
    let mut apt = Command::new("apt-get");
    apt.args(["-s", "install", "--no-install-recommends", "qemu-system-x86"]);
    let plan = process::output(&mut apt, log)?;
    let names = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    Ok(names.map(str::to_owned).collect())
}

fn newest(series: &str, log: &Log) -> Result<Option<String>> {
    let pattern = format!("^linux-image-{}\\.[0-9.-]+([+][a-z0-9]+)?-amd64$", series.replace('.', "\\."));
    let mut apt = Command::new("apt-cache");
    let listing = process::output(apt.args(["search", "--names-only", &pattern]), log)?;
    let names = listing.lines().filter_map(|line| line.split(' ').next());
    Ok(names.max_by_key(|name| numbers(name)).map(str::to_owned))
}

/// The numbers in a version, for comparison: 6.1.0-9 is older than 6.1.0-56.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Unpacks packages into target/kernels/NAME unless that has been done; only
/// the files that match a pattern, or all if there is none.
fn unpack(name: &str, packages: &[String], parts: &[&str], log: &Log) -> Result<PathBuf> {
    let unpacked = folder().join(name);
    if is_complete(&unpacked) {
        return Ok(unpacked);
    }
    let _ = fs::remove_dir_all(&unpacked);
    let downloads = unpacked.join("downloads");
    fs::create_dir_all(&downloads).with_context(|| format!("cannot create {}", downloads.display()))?;
    or_after_update(log, |log| {
        let mut apt = Command::new("apt-get");
        process::run(apt.arg("download").args(packages).current_dir(&downloads), log)
    })?;
    for package in fs::read_dir(&downloads).context("cannot list the downloads")? {
        extract(&package.context("cannot list the downloads")?.path(), parts, &unpacked, log)?;
    }
    fs::remove_dir_all(&downloads).context("cannot remove the downloads")?;
    fs::write(unpacked.join(COMPLETE), "").context("cannot mark the packages as complete")?;
    Ok(unpacked)
}

const COMPLETE: &str = ".complete";

fn is_complete(folder: &Path) -> bool {
    folder.join(COMPLETE).exists()
}

fn extract(package: &Path, parts: &[&str], into: &Path, log: &Log) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args([
        "-ec",
        "dpkg-deb --fsys-tarfile \"$1\" | { into=$2; shift 2; tar -x -C \"$into\" \"$@\"; }",
        "sh",
    ]);
    shell.args([package, into]);
    if !parts.is_empty() {
        shell.arg("--wildcards").args(parts);
    }
    process::run(&mut shell, log)
}

/// Runs `work`; if it fails, updates the package lists, which needs root, and tries again.
fn or_after_update<T>(log: &Log, work: impl Fn(&Log) -> Result<T>) -> Result<T> {
    work(log).or_else(|_| {
        update(log)?;
        work(log)
    })
}

fn update(log: &Log) -> Result<()> {
    if !process::may_become_root() {
        bail!("the package lists are missing or outdated: run apt-get update as root");
    }
    process::run(process::as_root("apt-get").arg("update"), log).context("cannot update the package lists")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_versions_are_compared_as_numbers() {
        let names = ["linux-image-6.1.0-9-amd64", "linux-image-6.1.0-56-amd64", "linux-image-6.1.0-47-amd64"];
        assert_eq!(names.into_iter().max_by_key(|name| numbers(name)), Some(names[1]));
        assert!(numbers("linux-image-6.12.117+deb12-amd64") > numbers("linux-image-6.12.9+bpo-amd64"));
    }
}
