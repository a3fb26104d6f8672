//! What the chore takes from Debian's archive: packages, downloaded and
//! unpacked below target/kernels, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::Log;
use crate::{paths, process};

/// A kernel, unpacked.
pub struct Kernel {
    /// What boots.
    pub image: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// As `uname -r` says it.
    pub release: String,
}

/// How QEMU is called.
#[derive(Clone)]
pub struct Qemu {
    program: PathBuf,
    /// Where it was unpacked; none if it is installed.
    unpacked: Option<PathBuf>,
}

/// The parts of a kernel package that are of use: the rest are hundreds of
/// megabytes of drivers.
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
                    "apt knows no stock kernel {series} (linux-image-{series}.*-amd64): Debian 12 has it in \
                     bookworm and bookworm-security; are both in the sources below /etc/apt?"
                )
            })?
        }
    };
    let place = unpack(&name, std::slice::from_ref(&name), &KERNEL_PARTS, log)?;
    let release = name.trim_start_matches("linux-image-").to_owned();
    let image = place.join("boot").join(format!("vmlinuz-{release}"));
    let found = ["lib/modules", "usr/lib/modules"].map(|parent| place.join(parent).join(&release));
    let modules = found.into_iter().find(|path| path.is_dir());
    let modules = modules.with_context(|| format!("package {name} has no modules of {release}"))?;
    Ok(Kernel { image, modules, release })
}

/// A static busybox: shell, tools and modprobe of the machine.
pub fn busybox(log: &Log) -> Result<PathBuf> {
    let place = unpack("busybox", &["busybox-static".to_owned()], &[], log)?;
    let found = ["bin/busybox", "usr/bin/busybox"].map(|path| place.join(path));
    found.into_iter().find(|path| path.exists()).context("package busybox-static has no busybox")
}

/// The installed QEMU, else one unpacked with the libraries that it lacks
/// here. Installing it could remove what its owner has (another version's
/// qemu-utils, say).
pub fn qemu(log: &Log) -> Result<Qemu> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut installed = std::env::split_paths(&path).map(|folder| folder.join(QEMU));
    if let Some(program) = installed.find(|program| program.exists()) {
        return Ok(Qemu { program, unpacked: None });
    }
    let place = folder().join("qemu");
    if !is_complete(&place) {
        let names = or_after_update(log, missing_for_qemu)?;
        unpack("qemu", &names, &[], log)?;
    }
    Ok(Qemu { program: place.join("usr/bin").join(QEMU), unpacked: Some(place) })
}

impl Qemu {
    /// The command, ended after so many seconds; arguments to be added.
    pub fn command(&self, seconds_max: u32) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", &seconds_max.to_string(), "nice"]).arg(&self.program);
        if let Some(place) = &self.unpacked {
            let libraries = place.join(LIBRARIES);
            // Some packages still have theirs below /lib, which is a link elsewhere.
            let path = format!("{}:{}", libraries.display(), place.join(OLD_LIBRARIES).display());
            command.env("LD_LIBRARY_PATH", path).env("QEMU_MODULE_DIR", libraries.join("qemu"));
            for firmware in ["qemu", "seabios"] {
                command.arg("-L").arg(place.join("usr/share").join(firmware));
            }
        }
        command
    }
}

/// Names of packages: what an installation of QEMU would install.
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

/// What versions are compared by: 6.1.0-9 is older than 6.1.0-56.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Packages side by side in target/kernels/NAME, unless they are there; of
/// their files those that match (all if there is no pattern).
fn unpack(name: &str, packages: &[String], parts: &[&str], log: &Log) -> Result<PathBuf> {
    let place = folder().join(name);
    if is_complete(&place) {
        return Ok(place);
    }
    let _ = fs::remove_dir_all(&place);
    let downloads = place.join("downloads");
    fs::create_dir_all(&downloads).with_context(|| format!("{} cannot be made", downloads.display()))?;
    or_after_update(log, |log| {
        let mut apt = Command::new("apt-get");
        process::run(apt.arg("download").args(packages).current_dir(&downloads), log)
    })?;
    for package in fs::read_dir(&downloads).context("the downloads cannot be listed")? {
        extract(&package.context("the downloads cannot be listed")?.path(), parts, &place, log)?;
    }
    fs::remove_dir_all(&downloads).context("the downloads cannot be removed")?;
    fs::write(place.join(COMPLETE), "").context("the packages cannot be marked as complete")?;
    Ok(place)
}

const COMPLETE: &str = ".complete";

fn is_complete(place: &Path) -> bool {
    place.join(COMPLETE).exists()
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

/// Package lists that are missing or old are read anew, which needs root.
fn or_after_update<T>(log: &Log, work: impl Fn(&Log) -> Result<T>) -> Result<T> {
    work(log).or_else(|_| {
        update(log)?;
        work(log)
    })
}

fn update(log: &Log) -> Result<()> {
    if !process::may_become_root() {
        bail!("the package lists are missing or old: as root, run apt-get update");
    }
    process::run(process::as_root("apt-get").arg("update"), log).context("the package lists cannot be read")
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
