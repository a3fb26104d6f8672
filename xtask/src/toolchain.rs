//! The toolchain for the eBPF programs: Debian's if it is installed, else
//! rustup's nightly (docs/decisions/0003). The bootstrap installs the former.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths;

/// The target of every eBPF program.
pub const TARGET: &str = "bpfel-unknown-none";

/// A compiler with `core` for eBPF, prebuilt or from source, and a linker.
pub struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
    /// Versions of the compiler and of its LLVM, as the budget records them.
    pub version: String,
}

enum Compiler {
    /// Debian's, with a prebuilt `core` for eBPF.
    Debian,
    /// rustup's nightly with rust-src, which builds `core` from source.
    Nightly,
}

impl Toolchain {
    /// The first toolchain that works.
    pub fn find() -> Result<Self> {
        let linker = find_linker()?;
        for compiler in [Compiler::Debian, Compiler::Nightly] {
            if compiler.works() {
                let version = compiler.version()?;
                return Ok(Self { compiler, linker, version });
            }
        }
        bail!(
            "no compiler for eBPF programs was found. On Debian 12 `make ebpf` installs one \
             (libstd-rust-web-dev-bpf); elsewhere: rustup toolchain install nightly --component rust-src"
        )
    }

    /// `cargo build` for the eBPF crate; the caller adds arguments.
    pub fn cargo_build(&self) -> Command {
        let mut cargo = self.compiler.cargo();
        cargo.current_dir(paths::ebpf_crate());
        cargo.env("CARGO_ENCODED_RUSTFLAGS", self.flags().join("\x1f"));
        // Settings for user space do not apply to this build.
        for name in ["RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"] {
            cargo.env_remove(name);
        }
        cargo.args(["build", "--release", "--target", TARGET]);
        if matches!(self.compiler, Compiler::Nightly) {
            cargo.arg("-Zbuild-std=core");
        }
        cargo
    }

    fn flags(&self) -> [String; 4] {
        let linker = format!("-Clinker={}", self.linker.display());
        [
            "-Cdebuginfo=2".to_owned(),
            linker,
            "-Clink-arg=--btf".to_owned(),
            // Without it, small copies become calls of functions that copy byte by byte.
            "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        ]
    }
}

impl Compiler {
    fn works(&self) -> bool {
        match self {
            Self::Debian => debian_core_exists(),
            Self::Nightly => nightly_sources_exist(),
        }
    }

    fn cargo(&self) -> Command {
        match self {
            Self::Debian => {
                let mut cargo = Command::new("/usr/bin/cargo");
                // Debian's compiler is a stable release, but aya-ebpf uses unstable features.
                cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
            Self::Nightly => {
                let mut rustup = Command::new("rustup");
                rustup.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").args(["run", "nightly", "cargo"]);
                rustup
            }
        }
    }

    fn version(&self) -> Result<String> {
        let mut command = match self {
            Self::Debian => Command::new("/usr/bin/rustc"),
            Self::Nightly => nightly_rustc(),
        };
        let text = stdout(command.arg("-vV")).context("cannot read the version of the eBPF compiler")?;
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").to_owned();
        Ok(format!("rustc {} LLVM {}", field("release: "), field("LLVM version: ")))
    }
}

fn debian_core_exists() -> bool {
    let mut rustc = Command::new("/usr/bin/rustc");
    let Some(folder) = stdout(rustc.args(["--print", "target-libdir", "--target", TARGET])) else {
        return false;
    };
    let Ok(files) = Path::new(folder.trim()).read_dir() else { return false };
    files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
}

fn nightly_sources_exist() -> bool {
    stdout(nightly_rustc().args(["--print", "sysroot"]))
        .is_some_and(|root| Path::new(root.trim()).join("lib/rustlib/src/rust/library/core").exists())
}

fn nightly_rustc() -> Command {
    let mut rustup = Command::new("rustup");
    rustup.env_remove("RUSTUP_TOOLCHAIN").env("RUSTUP_AUTO_INSTALL", "0").args(["run", "nightly", "rustc"]);
    rustup
}

fn find_linker() -> Result<PathBuf> {
    let own = paths::top().join(".tools/bin/bpf-linker");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let elsewhere = std::env::split_paths(&path).map(|folder| folder.join("bpf-linker"));
    std::iter::once(own)
        .chain(elsewhere)
        .find(|linker| stdout(Command::new(linker).arg("--version")).is_some())
        .context("bpf-linker was not found in .tools/bin or PATH: `make ebpf` builds it")
}

fn stdout(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}
