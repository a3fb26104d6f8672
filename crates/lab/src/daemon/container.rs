//! From a container of a pod's specification to a running process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, EnvVar};
use tokio::process::{Child, Command};

use crate::{echo, spawn};

/// The image that is built into the lab.
const ECHO_IMAGE: &str = "beeline/echo";

/// How long the built-in image may take until its ports listen.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// A program that does not tell when it is ready is taken to be so after this
/// time, if it has not failed by then.
const SILENT_START: Duration = Duration::from_millis(100);

/// What a container may ask about its pod.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.nodeName`.
    pub node: String,
    /// `status.hostIP`.
    pub host_ip: String,
    /// `status.podIPs`.
    pub pod_ips: Vec<String>,
}

impl PodFacts {
    /// The value of a `fieldRef`; none for those that the lab does not know.
    fn field(&self, path: &str) -> Option<String> {
        Some(match path {
            "metadata.name" => self.name.clone(),
            "metadata.namespace" => self.namespace.clone(),
            "metadata.uid" => self.uid.clone(),
            "spec.nodeName" => self.node.clone(),
            "status.hostIP" => self.host_ip.clone(),
            "status.podIP" => self.pod_ips.first().cloned().unwrap_or_default(),
            "status.podIPs" => self.pod_ips.join(","),
            _ => return None,
        })
    }
}

/// What a container runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    /// It tells when its ports listen.
    tells_ready: bool,
}

/// Finds the program of a container, or says why there is none.
pub fn program(container: &Container, images: &BTreeMap<String, PathBuf>, own: &Path) -> Result<Program> {
    let arguments = container.args.clone().unwrap_or_default();
    if let Some((first, rest)) = container.command.as_deref().and_then(<[String]>::split_first) {
        let arguments = rest.iter().cloned().chain(arguments).collect();
        return Ok(Program { path: first.into(), arguments, tells_ready: false });
    }
    let image = container.image.as_deref().unwrap_or_default();
    let short = short_image(image);
    let known = images.get(image).or_else(|| images.get(short));
    if let Some(path) = known {
        return Ok(Program { path: path.clone(), arguments, tells_ready: false });
    }
    if short != ECHO_IMAGE {
        bail!(
            "the lab pulls no images and has no program for {image:?}; \
             start the lab with --image {short}=PROGRAM, give the container a command, or use {ECHO_IMAGE}"
        );
    }
    let mut arguments = vec!["echo".to_owned()];
    for port in container.ports.iter().flatten() {
        arguments.push("--port".into());
        arguments.push(format!("{}/{}", port.container_port, port.protocol.as_deref().unwrap_or("TCP")));
    }
    Ok(Program { path: own.to_owned(), arguments, tells_ready: true })
}

/// The name of an image without registry, tag and digest.
fn short_image(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let image = match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    };
    image.strip_prefix("docker.io/").unwrap_or(image)
}

/// The environment of a container.
pub fn environment(container: &Container, facts: &PodFacts) -> Result<BTreeMap<String, String>> {
    let mut result: BTreeMap<String, String> = [
        ("POD_NAME", facts.name.clone()),
        ("POD_NAMESPACE", facts.namespace.clone()),
        ("NODE_NAME", facts.node.clone()),
        ("POD_IP", facts.pod_ips.first().cloned().unwrap_or_default()),
        ("HOSTNAME", facts.name.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for variable in container.env.iter().flatten() {
        let value = variable_value(variable, facts)?;
        result.insert(variable.name.clone(), value);
    }
    Ok(result)
}

fn variable_value(variable: &EnvVar, facts: &PodFacts) -> Result<String> {
    let Some(source) = &variable.value_from else {
        return Ok(variable.value.clone().unwrap_or_default());
    };
    let path = source.field_ref.as_ref().map(|field| field.field_path.as_str());
    path.and_then(|path| facts.field(path)).with_context(|| {
        format!(
            "the lab knows no value for the variable {}: only literals and common fieldRefs",
            variable.name
        )
    })
}

/// Where a container runs.
pub struct Place<'a> {
    /// Network namespace.
    pub netns: &'a Path,
    /// Cgroup.
    pub cgroup: &'a Path,
    /// Where its output goes.
    pub log: &'a Path,
}

/// Starts the program; returns once it is ready, or has ended.
pub async fn start(
    program: &Program,
    directory: Option<&str>,
    environment: &BTreeMap<String, String>,
    place: &Place<'_>,
) -> Result<Child> {
    let log = spawn::log_file(place.log)?;
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(environment)
        .current_dir(directory.unwrap_or("/"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share the log")?)
        .stderr(log)
        .kill_on_drop(true);
    let failed = || format!("cannot start {}", program.path.display());
    if !program.tells_ready {
        spawn::place(&mut command, place.netns, place.cgroup, None)?;
        let mut child = command.spawn().with_context(failed)?;
        let _ = tokio::time::timeout(SILENT_START, child.wait()).await;
        return Ok(child);
    }
    let (read, write, number) = spawn::ready_pipe()?;
    command.env(echo::READY_FD, number.to_string());
    spawn::place(&mut command, place.netns, place.cgroup, Some(write))?;
    let child = command.spawn().with_context(failed)?;
    drop(command);
    wait_until_ready(read, place.log).await?;
    Ok(child)
}

/// Waits for one byte; the end of the pipe without one is a failed start.
async fn wait_until_ready(mut pipe: File, log: &Path) -> Result<()> {
    let read = tokio::task::spawn_blocking(move || pipe.read(&mut [0]));
    match tokio::time::timeout(READY_TIMEOUT, read).await {
        Ok(Ok(Ok(1))) => Ok(()),
        Ok(_) => bail!("it ended before its ports listened: {}", last_line(log)),
        Err(_) => bail!("its ports do not listen after {} s", READY_TIMEOUT.as_secs()),
    }
}

/// The last line of a log.
pub fn last_line(log: &Path) -> String {
    last_lines(log, 1).pop().unwrap_or_else(|| "it printed nothing".into())
}

/// The last lines of a log, at most so many.
pub fn last_lines(log: &Path, count: usize) -> Vec<String> {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ContainerPort;

    fn container(image: &str) -> Container {
        Container { name: "c".into(), image: Some(image.into()), ..Container::default() }
    }

    fn images() -> BTreeMap<String, PathBuf> {
        [("nginx".to_owned(), PathBuf::from("/usr/sbin/nginx"))].into()
    }

    #[test]
    fn unit_a_command_wins_over_the_image() {
        let container = Container {
            command: Some(vec!["sleep".into()]),
            args: Some(vec!["5".into()]),
            ..container("beeline/echo")
        };
        let program = program(&container, &images(), Path::new("/own")).unwrap();
        assert_eq!(program.path, Path::new("sleep"));
        assert_eq!(program.arguments, ["5"]);
    }

    #[test]
    fn unit_images_are_found_by_name_whatever_the_tag() {
        for image in ["nginx", "nginx:1.2", "docker.io/nginx:1", "nginx@sha256:00"] {
            let program = program(&container(image), &images(), Path::new("/own")).unwrap();
            assert_eq!(program.path, Path::new("/usr/sbin/nginx"), "{image}");
        }
        let error = program(&container("localhost:5000/x"), &images(), Path::new("/own")).unwrap_err();
        assert!(error.to_string().contains("--image localhost:5000/x=PROGRAM"), "{error}");
    }

    #[test]
    fn unit_the_echo_listens_on_every_declared_port() {
        let port = |number, protocol: Option<&str>| ContainerPort {
            container_port: number,
            protocol: protocol.map(str::to_owned),
            ..ContainerPort::default()
        };
        let ports = Some(vec![port(80, None), port(53, Some("UDP"))]);
        let container = Container { ports, ..container("beeline/echo:latest") };
        let program = program(&container, &images(), Path::new("/own")).unwrap();
        assert_eq!(program.arguments, ["echo", "--port", "80/TCP", "--port", "53/UDP"]);
        assert!(program.tells_ready);
    }
}
