//! The initramfs of a machine: busybox, network modules, the test programs
//! with their libraries, and `init.sh`, which runs them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::packages::Kernel;
use crate::process;
use crate::steps::Log;
use crate::test::Program;

const INIT: &str = include_str!("init.sh");

/// Mount points and the other folders of the root file system.
const FOLDERS: [&str; 10] = ["bin", "sbin", "proc", "sys", "dev", "run", "tmp", "root", "etc", "tests"];

/// Writes the initramfs to the folder of the kernel; returns its path.
pub fn build(kernel: &Kernel, busybox: &Path, programs: &[Program], log: &Log) -> Result<PathBuf> {
    let folder = kernel.image.parent().context("the path of the kernel has no folder")?;
    let (root, packed) = (folder.join("root"), folder.join("initramfs"));
    let _ = fs::remove_dir_all(&root);
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::write(root.join("etc/hostname"), "guest\n")?;
    write_program(&root.join("init"), INIT)?;
    add_busybox(&root, busybox, log)?;
    add_modules(&root, kernel, busybox, log)?;
    for program in programs {
        add_program(&root, program, log)?;
    }
    pack(&root, busybox, &packed, log)?;
    fs::remove_dir_all(&root)?;
    Ok(packed)
}

fn add_busybox(root: &Path, busybox: &Path, log: &Log) -> Result<()> {
    let applets = process::output(Command::new(busybox).arg("--list"), log)?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        symlink("/bin/busybox", root.join("bin").join(applet))?;
    }
    // The kernel loads modules through it: `veth`, `sch_ingress`, ...
    symlink("/bin/busybox", root.join("sbin/modprobe"))?;
    Ok(())
}

fn add_modules(root: &Path, kernel: &Kernel, busybox: &Path, log: &Log) -> Result<()> {
    let folder = root.join("lib/modules");
    fs::create_dir_all(&folder)?;
    process::run(Command::new("cp").arg("-r").arg(&kernel.modules).arg(&folder), log)?;
    let mut unpack = Command::new("find");
    unpack.arg(&folder).args(["-name", "*.ko.xz", "-exec"]).arg(busybox).args(["unxz", "{}", "+"]);
    process::run(&mut unpack, log)?;
    process::run(Command::new(busybox).args(["depmod", "-b"]).arg(root).arg(&kernel.release), log)
}

/// Adds a stripped test program, its shared libraries and the names of its
/// tests.
fn add_program(root: &Path, program: &Program, log: &Log) -> Result<()> {
    let file = root.join("tests").join(program.name.replace([' ', '/'], "-"));
    process::run(Command::new("strip").arg("-o").arg(&file).arg(&program.path), log)?;
    fs::write(file.with_extension("list"), program.tests.join("\n") + "\n")?;
    let libraries = process::output(Command::new("ldd").arg(&program.path), log)?;
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().context("the path of a library has no folder")?)?;
        fs::copy(library, copy).with_context(|| format!("cannot copy {library}"))?;
    }
    Ok(())
}

fn pack(root: &Path, busybox: &Path, packed: &Path, log: &Log) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-ec", "cd \"$1\"; \"$2\" find . | \"$2\" cpio -o -H newc >\"$3\"", "sh"]);
    process::run(shell.args([root, busybox, packed]), log)
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
