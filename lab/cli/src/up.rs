//! `up`: checks the arguments, starts the daemon, waits until the lab is
//! ready, and applies the manifests. A lab that fails to start or is
//! interrupted is removed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use beeline_lab_net::address::{API_PORT, CONTROL_PLANE, NODES_MAX, UPLINKS_MAX};
use beeline_lab_net::log_tail::last_lines;
use beeline_lab_net::paths::{LabName, LabPaths};
use beeline_lab_net::programs::{Programs, typed};
use beeline_lab_net::record::LabSpec;
use beeline_lab_net::{address, cgroup, lock, spawn};
use beeline_values::Settings;
use nix::sys::signal::{SigSet, Signal};

use crate::daemon;
use crate::down;
use crate::manifests;
use crate::protocol::{Call, Line, Manifest, ask};

/// Number of lines shown of each log when a lab fails to start.
const LOG_LINES: usize = 5;

/// Arguments of `up`.
#[derive(Clone, Debug, clap::Args)]
pub struct Request {
    /// Number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(NODES_MAX)))]
    nodes: u32,
    /// Number of uplinks of each node, each on a separate network: eth0, eth1, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(UPLINKS_MAX)))]
    uplinks: u32,
    /// Node that starts on the network behind the router; can be repeated
    #[arg(long, value_name = "NODE")]
    behind_router: Vec<String>,
    /// Helm chart value, for example routingMode=native; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Local program to run for an image name; can be repeated
    #[arg(long = "image", value_name = "NAME=PROGRAM")]
    images: Vec<String>,
    /// Manifests to apply: file, directory, or - for standard input; can be repeated
    #[arg(short, long = "filename", value_name = "FILE_OR_DIR")]
    filename: Vec<PathBuf>,
    /// Timeout for the nodes to become Ready, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// Keep a lab that fails to start, for inspection
    #[arg(long)]
    retain: bool,
}

/// Starts a lab.
pub fn up(name: &LabName, request: &Request) -> Result<()> {
    let values = values(&request.set)?;
    let images = request.images.iter().map(|text| image(text)).collect::<Result<_>>()?;
    let behind_router = behind_router(request)?;
    let uplinks = request.uplinks;
    let shape = LabSpec { nodes: request.nodes, uplinks, behind_router, values, images, assets: assets()? };
    let manifests = manifests::load(&request.filename)?;
    Programs::find()?;
    let lab_lock = lock::create(name, &shape)?;
    remove_if_interrupted(name.clone());
    let ready = start_daemon(name, &shape, request.timeout).and_then(|daemon| {
        // The daemon's record exists from here on.
        drop(lab_lock);
        follow(daemon, name)
    });
    if let Err(error) = ready {
        return Err(remove_failed(name, request.retain, error));
    }
    apply(name, manifests)?;
    print_next_steps(name);
    Ok(())
}

/// Directory of the control plane programs, from the environment variable that
/// controller tests use.
fn assets() -> Result<Option<PathBuf>> {
    let Some(directory) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|directory| !directory.is_empty())
    else {
        return Ok(None);
    };
    let directory = std::path::absolute(directory).context("cannot determine the current directory")?;
    daemon::check_assets(&directory)?;
    Ok(Some(directory))
}

/// The nodes behind the router; all must exist.
fn behind_router(request: &Request) -> Result<BTreeSet<String>> {
    for name in &request.behind_router {
        let number = address::node_number(name);
        if number.is_none_or(|number| number > request.nodes) {
            bail!(
                "--behind-router {name}: there is no such node; the nodes are node-1 to node-{}",
                request.nodes
            );
        }
    }
    Ok(request.behind_router.iter().cloned().collect())
}

/// The chart values for the agents; prints notices about them.
fn values(set: &[String]) -> Result<String> {
    let mut settings = Settings::from_set(set).context("--set")?;
    if let Some(notice) = use_own_api(&mut settings)? {
        println!("note: {notice}");
    }
    let parsed = settings.parse();
    for notice in parsed.notices.iter().chain(&parsed.not_implemented) {
        println!("note: {notice}");
    }
    Ok(settings.to_yaml())
}

/// The API server has a fixed address, which overrides the chart values.
fn use_own_api(settings: &mut Settings) -> Result<Option<String>> {
    let own = (CONTROL_PLANE.ipv4.to_string(), API_PORT);
    let asked = settings.parse().values;
    if asked.k8s_service_host.is_none() && asked.k8s_service_port.is_none() {
        return Ok(None);
    }
    let asked =
        (asked.k8s_service_host.unwrap_or_else(|| own.0.clone()), asked.k8s_service_port.unwrap_or(own.1));
    let set = [format!("k8sServiceHost={}", own.0), format!("k8sServicePort={}", own.1)];
    settings.merge(Settings::from_set(&set)?);
    let differs = asked != own;
    Ok(differs.then(|| {
        format!(
            "the lab's API server is at {} port {}: used instead of {} port {}",
            own.0, own.1, asked.0, asked.1
        )
    }))
}

/// Parses `NAME=PROGRAM`; the program must exist.
fn image(text: &str) -> Result<(String, PathBuf)> {
    let Some((name, program)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        bail!("--image {text}: expected NAME=PROGRAM, for example --image web=/usr/sbin/nginx");
    };
    let path = std::path::absolute(program).context("cannot determine the current directory")?;
    let metadata = std::fs::metadata(&path)
        .with_context(|| format!("--image {text}: program {} does not exist", path.display()))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        bail!("--image {text}: {} is not an executable file", path.display());
    }
    Ok((name.to_owned(), path))
}

/// Starts the daemon in the lab's cgroup and passes it the configuration.
fn start_daemon(name: &LabName, shape: &LabSpec, timeout_s: u64) -> Result<Child> {
    let paths = LabPaths::new(name);
    let cgroup = cgroup::lab_cgroup(name, &paths)?.join("daemon");
    cgroup::create(&cgroup)?;
    let program = std::env::current_exe().context("cannot determine the path of this executable")?;
    let mut command = Command::new(&program);
    command
        .args(["daemon", "--name", name.as_str(), "--timeout", &timeout_s.to_string()])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(spawn::log_file(&paths.daemon_log())?);
    spawn::detach(&mut command, &cgroup)?;
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let mut input = child.stdin.take().context("cannot open the daemon's standard input")?;
    let order = serde_json::to_vec(shape).context("cannot encode the lab's configuration")?;
    input.write_all(&order).context("cannot send the lab's configuration to the daemon")?;
    Ok(child)
}

/// Prints the daemon's progress until the lab is ready.
fn follow(mut daemon: Child, name: &LabName) -> Result<()> {
    let output = daemon.stdout.take().context("cannot open the daemon's standard output")?;
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line.context("cannot read from the daemon")?) {
            Ok(Line::Progress(text)) => println!("{text}"),
            Ok(Line::Error(message)) => bail!(message),
            Ok(_) => return Ok(()),
            Err(error) => bail!("invalid message from the daemon of lab {name}: {error}"),
        }
    }
    bail!("the daemon of lab {name} exited: the lab was removed, or the daemon was killed")
}

/// Removes a lab that failed to start, after printing the ends of its logs.
fn remove_failed(name: &LabName, retain: bool, error: anyhow::Error) -> anyhow::Error {
    wait_if_interrupted();
    if retain {
        let directory = LabPaths::new(name).root().display().to_string();
        return error.context(format!(
            "lab {name} failed to start and was kept (logs: {directory}); \
             remove it with: {}",
            typed("down", name)
        ));
    }
    logs(&LabPaths::new(name)).iter().for_each(|log| eprintln!("{log}"));
    match down::down(name) {
        Ok(_) => error.context(format!(
            "lab {name} failed to start and was removed (--retain keeps it for inspection)"
        )),
        Err(also) => error.context(format!("lab {name} failed to start; {also:#}")),
    }
}

/// The ends of all logs that are not empty.
fn logs(paths: &LabPaths) -> Vec<String> {
    let agents = (1..=NODES_MAX).map(|number| paths.node(&address::node_name(number)).agent_log());
    let all = std::iter::once(paths.daemon_log()).chain(agents).filter(|path| path.exists());
    all.filter_map(|path| shown(&path)).collect()
}

fn shown(log: &Path) -> Option<String> {
    let lines = last_lines(log, LOG_LINES);
    let name = log.strip_prefix(beeline_lab_net::paths::ROOT).unwrap_or(log);
    (!lines.is_empty()).then(|| format!("{}:\n    {}", name.display(), lines.join("\n    ")))
}

/// Set when this process is interrupted.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Errors caused by an interruption are not reported: the thread that removes
/// the lab exits the process.
fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Removes the lab if this process is interrupted.
fn remove_if_interrupted(name: LabName) {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    if signals.thread_block().is_err() {
        return;
    }
    std::thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        INTERRUPTED.store(true, Ordering::SeqCst);
        eprintln!("beeline lab up: interrupted; removing lab {name}");
        if let Err(error) = down::down(&name) {
            eprintln!("beeline lab up: {error:#}");
        }
        std::process::exit(128 + signal as i32);
    });
}

fn apply(name: &LabName, manifests: Vec<Manifest>) -> Result<()> {
    if manifests.is_empty() {
        return Ok(());
    }
    let begun = std::time::Instant::now();
    let call = Call::Apply { manifests };
    let answer = ask(name, &call, |line| println!("{line}"));
    let answer = answer.with_context(|| {
        format!("lab {name} is running, but not all manifests were applied and programmed")
    })?;
    if let Line::Done(text) = answer {
        println!("{text} ({:.1} s)", begun.elapsed().as_secs_f32());
    }
    Ok(())
}

fn print_next_steps(name: &LabName) {
    println!(
        "lab {name} is running. Commands in manifests run as root on this host: apply only manifests that you trust.\n\
         \x20   {}\n\
         \x20   export KUBECONFIG=$({})\n\
         \x20   {}",
        typed("status", name),
        typed("kubeconfig", name),
        typed("down", name)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_an_image_needs_a_name_and_a_program_that_can_run() {
        assert_eq!(image("sh=/bin/sh").unwrap(), ("sh".to_owned(), PathBuf::from("/bin/sh")));
        let error = |text: &str| format!("{:#}", image(text).unwrap_err());
        assert!(error("sh").contains("NAME=PROGRAM"));
        assert!(error("=/bin/sh").contains("NAME=PROGRAM"));
        assert!(error("x=/no/such/program").contains("program /no/such/program does not exist"));
        assert!(error("x=/etc/passwd").contains("not an executable file"));
        assert!(error("x=/tmp").contains("not an executable file"));
    }

    #[test]
    fn unit_the_labs_api_server_overrides_the_values() {
        let mut settings = Settings::from_set(&["k8sServiceHost=10.1.2.3", "k8sServicePort=443"]).unwrap();
        let notice = use_own_api(&mut settings).unwrap().unwrap();
        assert!(notice.contains("172.30.0.2 port 6443: used instead of 10.1.2.3 port 443"), "{notice}");
        assert_eq!(settings.parse().values.k8s_service_host.as_deref(), Some("172.30.0.2"));
        assert_eq!(settings.parse().values.k8s_service_port, Some(6443));
        assert_eq!(use_own_api(&mut settings).unwrap(), None);
        assert_eq!(use_own_api(&mut Settings::default()).unwrap(), None);
    }
}
