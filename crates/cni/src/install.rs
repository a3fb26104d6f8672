//! `beeline-cni install`: installs the plugin and the network configuration for
//! the container runtime. The init container of the Helm chart runs it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use beeline_api::DEFAULT_SOCKET;
use serde_json::json;

/// File name of the plugin, and its `type` in network configurations.
const PLUGIN: &str = "beeline-cni";
/// Name of the network configuration. Runtimes use the first file in
/// lexicographic order.
const CONFIGURATION: &str = "05-beeline.conflist";
/// The version for runtimes that do not know `cniVersions` (CNI 1.1.0, section
/// 1): containerd 1.6 rejects results of version 1.1.0.
const COMMON_VERSION: &str = "1.0.0";
/// Suffix of the configurations that `--exclusive` renames.
const BACKUP_SUFFIX: &str = "beeline_bak";

/// Options of `beeline-cni install`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// Directory of CNI plugins.
    pub bin: PathBuf,
    /// Directory of network configurations.
    pub conf: PathBuf,
    /// Path of the socket of the agent on the host.
    pub socket: PathBuf,
    /// Rename other configurations, so that the runtime ignores them.
    pub exclusive: bool,
}

impl Install {
    /// Parses `[--bin DIR] [--conf DIR] [--socket PATH] [--exclusive]`.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Install> {
        let mut install = Install {
            bin: "/opt/cni/bin".into(),
            conf: "/etc/cni/net.d".into(),
            socket: DEFAULT_SOCKET.into(),
            exclusive: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let mut path = || {
                arguments.next().map(PathBuf::from).with_context(|| format!("option {name} requires a path"))
            };
            match name.as_str() {
                "--bin" => install.bin = path()?,
                "--conf" => install.conf = path()?,
                "--socket" => install.socket = path()?,
                "--exclusive" => install.exclusive = true,
                other => {
                    bail!(
                        "unknown option {other}; the options are --bin DIR, --conf DIR, --socket PATH and --exclusive"
                    )
                }
            }
        }
        Ok(install)
    }

    /// Installs `program` and the configuration. The configuration is written
    /// last, because the runtime calls the plugin as soon as it exists.
    pub fn run(&self, program: &Path) -> Result<()> {
        let plugin = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        replace(&self.bin, PLUGIN, &plugin, 0o755)?;
        if self.exclusive {
            self.rename_other_configurations()?;
        }
        replace(&self.conf, CONFIGURATION, self.configuration().as_bytes(), 0o644)
    }

    fn configuration(&self) -> String {
        let list = json!({
            "cniVersion": COMMON_VERSION,
            "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
            "name": "beeline",
            "plugins": [{"type": PLUGIN, "socket": self.socket}],
        });
        format!("{list:#}\n")
    }

    fn rename_other_configurations(&self) -> Result<()> {
        let entries = match fs::read_dir(&self.conf) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.with_context(|| format!("cannot list {}", self.conf.display()))?,
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            let is_ours = path.file_name().is_some_and(|name| name == CONFIGURATION);
            if is_ours || !["conf", "conflist", "json"].contains(&extension) {
                continue;
            }
            let backup = path.with_extension(format!("{extension}.{BACKUP_SUFFIX}"));
            fs::rename(&path, &backup).with_context(|| format!("cannot rename {}", path.display()))?;
            eprintln!("beeline-cni: renamed {} to {}", path.display(), backup.display());
        }
        Ok(())
    }
}

/// Atomically replaces a file: a concurrent reader sees the old or the new content.
fn replace(directory: &Path, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let temporary = directory.join(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(&temporary, content)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
        fs::rename(&temporary, directory.join(name))
    };
    write().with_context(|| {
        format!(
            "cannot write {}: check that the host's directory is mounted there",
            directory.join(name).display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NetworkConfig;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn unit_plugin_and_configuration_are_installed_and_others_renamed() {
        let host = tempfile::tempdir().unwrap();
        let [bin, conf] = ["opt/cni/bin", "etc/cni/net.d"].map(|directory| host.path().join(directory));
        fs::create_dir_all(&conf).unwrap();
        fs::write(conf.join("10-other.conflist"), "{}").unwrap();
        fs::write(conf.join("README"), "stays").unwrap();
        let program = host.path().join("program");
        fs::write(&program, "plugin").unwrap();
        let arguments = ["--bin", bin.to_str().unwrap(), "--conf", conf.to_str().unwrap()].map(str::to_owned);
        let mut install = Install::parse(arguments).unwrap();
        for _ in 0..2 {
            install.run(&program).unwrap();
            assert_eq!(names(&conf), ["05-beeline.conflist", "10-other.conflist", "README"]);
        }
        install.exclusive = true;
        install.run(&program).unwrap();
        assert_eq!(names(&conf), ["05-beeline.conflist", "10-other.conflist.beeline_bak", "README"]);
        assert_eq!(names(&bin), ["beeline-cni"]);
        let mode = fs::metadata(bin.join("beeline-cni")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);

        // The configuration as a runtime passes it to the plugin (CNI 1.1.0, section 3).
        let list: serde_json::Value =
            serde_json::from_slice(&fs::read(conf.join(CONFIGURATION)).unwrap()).unwrap();
        let mut single = list["plugins"][0].clone();
        single["cniVersion"] = list["cniVersion"].clone();
        single["name"] = list["name"].clone();
        let config = NetworkConfig::parse(single.to_string().as_bytes()).unwrap();
        assert_eq!(config.socket, Path::new(DEFAULT_SOCKET));
        let versions = list["cniVersions"].as_array().unwrap();
        assert!(versions.contains(&list["cniVersion"]) && versions.contains(&"1.1.0".into()), "{list}");
    }

    #[test]
    fn unit_a_failed_installation_names_the_cause() {
        let error_of = |arguments: &[&str]| {
            format!("{:#}", Install::parse(arguments.iter().map(|text| (*text).to_owned())).unwrap_err())
        };
        assert_eq!(error_of(&["--bin"]), "option --bin requires a path");
        assert!(error_of(&["--bim", "x"]).starts_with("unknown option --bim; the options are --bin"));
        let install = Install { bin: "/proc/none".into(), ..Install::parse([]).unwrap() };
        let error = format!("{:#}", install.run(Path::new("/proc/self/exe")).unwrap_err());
        assert!(
            error.starts_with("cannot write /proc/none/beeline-cni: check that the host's directory"),
            "{error}"
        );
    }
}
