//! The environment variables of a call (CNI specification, section 2,
//! "Parameters").

use std::path::PathBuf;

use beeline_api::Attachment;

use crate::error::{CniError, Code};

/// The ID is part of the names of lock files and queued deletions, which have
/// at most 255 bytes.
const CONTAINER_ID_BYTES_MAX: usize = 200;
/// `IFNAMSIZ` without its terminating zero.
const INTERFACE_BYTES_MAX: usize = 15;

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// ADD.
    Add,
    /// DEL.
    Delete,
    /// CHECK.
    Check,
    /// GC.
    Gc,
    /// STATUS.
    Status,
    /// VERSION.
    Version,
}

/// The pod, as given in `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`, or empty.
    pub namespace: String,
    /// `K8S_POD_NAME`, or empty.
    pub name: String,
    /// `K8S_POD_UID`, or empty.
    pub uid: String,
}

/// The parameters of a call. Those that the command does not need are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID` and `CNI_IFNAME`.
    pub attachment: Attachment,
    /// `CNI_NETNS`.
    pub netns: Option<PathBuf>,
    /// The pod, from `CNI_ARGS`.
    pub pod: Pod,
}

impl Environment {
    /// Reads and checks the variables that the command needs.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Environment, CniError> {
        let get = |name: &str| variable(name).unwrap_or_default();
        let command = parse_command(&get("CNI_COMMAND"))?;
        let per_container = matches!(command, Command::Add | Command::Delete | Command::Check);
        let mut attachment = Attachment { container_id: String::new(), interface: String::new() };
        if per_container {
            attachment.container_id = parse_container_id(get("CNI_CONTAINERID"))?;
            attachment.interface = parse_interface(get("CNI_IFNAME"))?;
        }
        let netns = Some(get("CNI_NETNS")).filter(|path| !path.is_empty()).map(PathBuf::from);
        if matches!(command, Command::Add | Command::Check) && netns.is_none() {
            return Err(missing("CNI_NETNS"));
        }
        Ok(Environment { command, attachment, netns, pod: parse_arguments(&get("CNI_ARGS"))? })
    }
}

fn parse_command(command: &str) -> Result<Command, CniError> {
    match command {
        "ADD" => Ok(Command::Add),
        "DEL" => Ok(Command::Delete),
        "CHECK" => Ok(Command::Check),
        "GC" => Ok(Command::Gc),
        "STATUS" => Ok(Command::Status),
        "VERSION" => Ok(Command::Version),
        "" => Err(missing("CNI_COMMAND").with_details(
            "beeline-cni is a CNI plugin that container runtimes call; the command-line tool is `beeline`",
        )),
        other => {
            Err(invalid("CNI_COMMAND", other, "the commands are ADD, DEL, CHECK, GC, STATUS and VERSION"))
        }
    }
}

fn parse_container_id(id: String) -> Result<String, CniError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if id.is_empty() {
        Err(missing("CNI_CONTAINERID"))
    } else if id.len() > CONTAINER_ID_BYTES_MAX {
        Err(invalid("CNI_CONTAINERID", &id, "it is longer than 200 bytes"))
    } else if !id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !id.chars().all(allowed) {
        Err(invalid(
            "CNI_CONTAINERID",
            &id,
            "it must start with a letter or digit and contain only letters, digits, '_', '.' and '-'",
        ))
    } else {
        Ok(id)
    }
}

fn parse_interface(name: String) -> Result<String, CniError> {
    if name.is_empty() {
        Err(missing("CNI_IFNAME"))
    } else if name.len() > INTERFACE_BYTES_MAX {
        Err(invalid("CNI_IFNAME", &name, "an interface name has at most 15 bytes"))
    } else if name == "." || name == ".." || name.contains(['/', ':']) || name.contains(char::is_whitespace) {
        Err(invalid(
            "CNI_IFNAME",
            &name,
            "an interface name must not contain '/', ':' or white space, and must not be '.' or '..'",
        ))
    } else {
        Ok(name)
    }
}

/// Parses `K1=V1;K2=V2`. Unknown keys are ignored; they may be for other plugins.
fn parse_arguments(arguments: &str) -> Result<Pod, CniError> {
    let mut pod = Pod::default();
    for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| invalid("CNI_ARGS", arguments, &format!("{pair:?} is not KEY=VALUE")))?;
        match key {
            "K8S_POD_NAMESPACE" => pod.namespace = value.to_owned(),
            "K8S_POD_NAME" => pod.name = value.to_owned(),
            "K8S_POD_UID" => pod.uid = value.to_owned(),
            _ => {}
        }
    }
    Ok(pod)
}

fn missing(name: &str) -> CniError {
    CniError::new(Code::InvalidEnvironment, format!("the environment variable {name} is missing or empty"))
        .with_details("the container runtime must set it")
}

fn invalid(name: &str, value: &str, why: &str) -> CniError {
    let message = format!("the environment variable {name} is invalid: {value:?}");
    CniError::new(Code::InvalidEnvironment, message).with_details(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Environment, CniError> {
        Environment::read(|name| {
            pairs.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        })
    }

    const ADD: &[(&str, &str)] = &[
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "abc-1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/x"),
    ];

    fn add_but(name: &'static str, value: &'static str) -> Result<Environment, CniError> {
        read(&[ADD, &[(name, value)]].concat())
    }

    #[test]
    fn unit_add_reads_container_interface_namespace_and_pod() {
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u;OTHER=x";
        let environment = add_but("CNI_ARGS", arguments).unwrap();
        assert_eq!(environment.attachment.container_id, "abc-1");
        assert_eq!(environment.netns, Some(PathBuf::from("/run/netns/x")));
        assert_eq!(environment.pod, Pod { namespace: "shop".into(), name: "web-0".into(), uid: "u".into() });
    }

    #[test]
    fn unit_an_invalid_variable_is_code_4_and_is_named() {
        for (name, value) in [
            ("CNI_COMMAND", ""),
            ("CNI_COMMAND", "add"),
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "../etc"),
            ("CNI_CONTAINERID", "-x"),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "a-name-too-long-for-linux"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "a b"),
            ("CNI_NETNS", ""),
            ("CNI_ARGS", "K8S_POD_NAME"),
        ] {
            let error = add_but(name, value).unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment, "{name}={value}");
            assert!(error.message.contains(name), "{error}");
        }
    }

    #[test]
    fn unit_del_needs_no_namespace_and_version_needs_nothing() {
        assert!(add_but("CNI_NETNS", "").is_err());
        let without = [ADD, &[("CNI_NETNS", ""), ("CNI_COMMAND", "DEL")]].concat();
        assert_eq!(read(&without).unwrap().netns, None);
        assert_eq!(read(&[("CNI_COMMAND", "VERSION")]).unwrap().command, Command::Version);
    }
}
