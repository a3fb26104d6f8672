//! Starts the process of a container.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use beeline_lab_net::mount_namespace::MountNamespace;
use beeline_lab_net::spawn;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::cri_log::{self, LogWriter};
use crate::environment::Environment;
use crate::expand::expand;

/// The built-in image.
const ECHO_IMAGE: &str = "beeline/echo";

/// Timeout for the built-in image to listen on its ports.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time to wait for remaining output after the container has exited: other
/// processes may hold its pipes open.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// The program of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    /// It notifies when it listens on its ports.
    notifies_ready: bool,
}

impl Program {
    /// A program given by its command line.
    pub fn of(words: &[String]) -> Result<Program> {
        let (first, rest) = words.split_first().context("the command is empty")?;
        Ok(Program { path: first.into(), arguments: rest.to_vec(), notifies_ready: false })
    }

    /// Whether it notifies when it is ready.
    pub fn notifies_ready(&self) -> bool {
        self.notifies_ready
    }
}

/// Finds the program of a container; the error says why there is none.
pub fn program(
    container: &Container,
    images: &BTreeMap<String, PathBuf>,
    own: &Path,
    environment: &Environment,
) -> Result<Program> {
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        let words = words.iter().flatten();
        words.map(|word| expand(word, |name| environment.get(name).cloned())).collect()
    };
    let arguments = expanded(&container.args);
    if let Some((first, rest)) = expanded(&container.command).split_first() {
        let arguments = rest.iter().cloned().chain(arguments).collect();
        return Ok(Program { path: first.into(), arguments, notifies_ready: false });
    }
    let image = container.image.as_deref().unwrap_or_default();
    let short = short_image(image);
    let known = images.get(image).or_else(|| images.get(short));
    if let Some(path) = known {
        return Ok(Program { path: path.clone(), arguments, notifies_ready: false });
    }
    if short != ECHO_IMAGE {
        bail!(
            "the lab does not pull images and has no program for {image:?}; \
             start the lab with --image {short}=PROGRAM, give the container a command, or use {ECHO_IMAGE}"
        );
    }
    let mut arguments = vec!["echo".to_owned()];
    for port in container.ports.iter().flatten() {
        arguments.push("--port".into());
        arguments.push(format!("{}/{}", port.container_port, port.protocol.as_deref().unwrap_or("TCP")));
    }
    Ok(Program { path: own.to_owned(), arguments, notifies_ready: true })
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

/// Namespaces, cgroup and environment of a container's processes.
#[derive(Clone)]
pub struct ExecContext {
    /// Network namespace.
    pub netns: PathBuf,
    /// Cgroup.
    pub cgroup: PathBuf,
    /// Mount namespace and UTS namespace.
    pub mount_ns: Arc<MountNamespace>,
    /// Working directory.
    pub directory: String,
    /// Environment variables.
    pub environment: Arc<Environment>,
}

impl ExecContext {
    /// A command that will run in this context.
    pub fn command(&self, program: &Program, inherit: Option<OwnedFd>) -> Result<Command> {
        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&*self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        spawn::enter_container(
            &mut command,
            &self.netns,
            &self.cgroup,
            &self.mount_ns,
            &self.directory,
            inherit,
        )?;
        Ok(command)
    }
}

/// A running container's process and its log.
pub struct Running {
    /// The process.
    pub child: Child,
    log: PathBuf,
    readers: JoinSet<()>,
}

impl Running {
    /// Waits for the remaining output, then marks the log as complete.
    pub async fn finish_log(&mut self) {
        let all = async { while self.readers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, all).await;
        self.readers.shutdown().await;
        if let Err(error) = cri_log::mark_complete(&self.log) {
            tracing::debug!("{}: {error}", self.log.display());
        }
    }
}

/// Starts the program with a new log. A program that notifies is awaited until
/// it is ready.
pub async fn start(program: &Program, exec: &ExecContext, log: &Path) -> Result<Running> {
    let writer = LogWriter::create(log, cri_log::LOG_BYTES_MAX);
    let writer = writer.with_context(|| format!("cannot write the log {}", log.display()))?;
    let failed = || format!("cannot start {}", program.path.display());
    let mut ready = None;
    let mut command = if program.notifies_ready {
        let (read, write, number) = spawn::ready_pipe()?;
        ready = Some(read);
        let mut command = exec.command(program, Some(write))?;
        command.env(spawn::READY_FD, number.to_string());
        command
    } else {
        exec.command(program, None)?
    };
    let mut child = command.spawn().with_context(failed)?;
    drop(command);
    let writer = Arc::new(Mutex::new(writer));
    let mut readers = JoinSet::new();
    if let Some(pipe) = child.stdout.take() {
        readers.spawn(copy_to_log("stdout", pipe, writer.clone()));
    }
    if let Some(pipe) = child.stderr.take() {
        readers.spawn(copy_to_log("stderr", pipe, writer));
    }
    let mut running = Running { child, log: log.to_owned(), readers };
    if let Some(pipe) = ready
        && let Err(error) = wait_until_ready(pipe).await
    {
        running.finish_log().await;
        return Err(error.context(last_line(log)));
    }
    Ok(running)
}

/// Copies the output of a pipe to the log.
async fn copy_to_log(stream: &'static str, mut pipe: impl AsyncRead + Unpin, log: Arc<Mutex<LogWriter>>) {
    let mut lines = cri_log::Lines::default();
    let mut buffer = vec![0; 4096];
    let write = |line: &[u8], whole: bool| {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = log.write(stream, line, whole, Timestamp::now()) {
            tracing::debug!("cannot write a container log: {error}");
        }
    };
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        lines.push(&buffer[..length], write);
    }
    lines.finish(write);
}

/// Waits for one byte; end of file without one means that the start failed.
async fn wait_until_ready(mut pipe: File) -> Result<()> {
    let read = tokio::task::spawn_blocking(move || pipe.read(&mut [0]));
    match tokio::time::timeout(READY_TIMEOUT, read).await {
        Ok(Ok(Ok(1))) => Ok(()),
        Ok(_) => bail!("it exited before it listened on its ports"),
        Err(_) => bail!("it is not listening on its ports after {} s", READY_TIMEOUT.as_secs()),
    }
}

/// The last line of a container's log.
pub fn last_line(log: &Path) -> String {
    let words = cri_log::tail_text(log, 1, 1024);
    if words.is_empty() { "it produced no output".into() } else { words }
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
    fn unit_command_overrides_the_image_program() {
        let container = Container {
            command: Some(vec!["sleep".into()]),
            args: Some(vec!["5".into()]),
            ..container("beeline/echo")
        };
        let program = program(&container, &images(), Path::new("/own"), &Environment::new()).unwrap();
        assert_eq!(program.path, Path::new("sleep"));
        assert_eq!(program.arguments, ["5"]);
    }

    #[test]
    fn unit_images_match_by_name_without_the_tag() {
        for image in ["nginx", "nginx:1.2", "docker.io/nginx:1", "nginx@sha256:00"] {
            let program =
                program(&container(image), &images(), Path::new("/own"), &Environment::new()).unwrap();
            assert_eq!(program.path, Path::new("/usr/sbin/nginx"), "{image}");
        }
        let error =
            program(&container("localhost:5000/x"), &images(), Path::new("/own"), &Environment::new())
                .unwrap_err();
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
        let program = program(&container, &images(), Path::new("/own"), &Environment::new()).unwrap();
        assert_eq!(program.arguments, ["echo", "--port", "80/TCP", "--port", "53/UDP"]);
        assert!(program.notifies_ready);
    }
}
