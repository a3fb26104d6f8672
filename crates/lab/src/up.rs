//! `up`: checks what was asked, starts the daemon, waits until the lab is
//! ready, applies the manifests. What fails or is interrupted half-way is
//! taken down again.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use beeline_values::Settings;
use nix::sys::signal::{SigSet, Signal};

use crate::address::{API_PORT, CONTROL_PLANE, NODES_MAX, UPLINKS_MAX};
use crate::daemon;
use crate::down;
use crate::manifests;
use crate::paths::{LabName, LabPaths};
use crate::programs::{Programs, typed};
use crate::protocol::{Call, Line, Manifest, ask};
use crate::record::Shape;
use crate::tail::last_lines;
use crate::{address, cgroup, claim, spawn};

/// How many lines of each log are shown when a lab does not come up.
const LOG_LINES: usize = 5;

/// What was asked for, as it was typed.
#[derive(Clone, Debug, clap::Args)]
pub struct Request {
    /// Number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(NODES_MAX)))]
    nodes: u32,
    /// Uplinks of each node, each to a network of its own: eth0, eth1, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(UPLINKS_MAX)))]
    uplinks: u32,
    /// A node that begins on the network behind the router; may be given again
    #[arg(long, value_name = "NODE")]
    behind_router: Vec<String>,
    /// A value of the chart, such as routingMode=native; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A program of this machine behind the name of an image; may be given again
    #[arg(long = "image", value_name = "NAME=PROGRAM")]
    images: Vec<String>,
    /// Manifests to apply: a file, a folder or - (standard input); may be given again
    #[arg(short, long = "filename", value_name = "FILE_OR_DIR")]
    filename: Vec<PathBuf>,
    /// How long the nodes may take until they are Ready, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// Keep a lab that does not come up, to look at it
    #[arg(long)]
    retain: bool,
}

/// Brings a lab up.
pub fn up(name: &LabName, request: &Request) -> Result<()> {
    let values = values(&request.set)?;
    let images = request.images.iter().map(|text| image(text)).collect::<Result<_>>()?;
    let behind_router = behind_router(request)?;
    let uplinks = request.uplinks;
    let shape = Shape { nodes: request.nodes, uplinks, behind_router, values, images, assets: assets()? };
    let manifests = manifests::load(&request.filename)?;
    Programs::find()?;
    let claim = claim::new(name, &shape)?;
    take_down_if_interrupted(name.clone());
    let ready = start_daemon(name, &shape, request.timeout).and_then(|daemon| {
        // From here on the daemon can be found.
        drop(claim);
        follow(daemon, name)
    });
    if let Err(error) = ready {
        return Err(give_up(name, request.retain, error));
    }
    apply(name, manifests)?;
    say_what_next(name);
    Ok(())
}

/// The folder of a control plane's programs, by the convention of controller
/// tests.
fn assets() -> Result<Option<PathBuf>> {
    let Some(folder) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty()) else {
        return Ok(None);
    };
    let folder = std::path::absolute(folder).context("the current folder is unknown")?;
    daemon::check_assets(&folder)?;
    Ok(Some(folder))
}

/// The nodes behind the router; each must be one of the lab's.
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

/// The values as the agents read them; says what a user should know of them.
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

/// A lab's API has an address of its own, whatever a user's chart values say.
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
            "the lab's API server is at {} port {}: taken instead of {} port {}",
            own.0, own.1, asked.0, asked.1
        )
    }))
}

/// `NAME=PROGRAM`; the program must be there.
fn image(text: &str) -> Result<(String, PathBuf)> {
    let Some((name, program)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        bail!("--image {text}: write NAME=PROGRAM, for example --image web=/usr/sbin/nginx");
    };
    let path = std::path::absolute(program).context("the current folder is unknown")?;
    let metadata = std::fs::metadata(&path)
        .with_context(|| format!("--image {text}: there is no program {}", path.display()))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        bail!("--image {text}: {} is not an executable file", path.display());
    }
    Ok((name.to_owned(), path))
}

/// Starts the daemon inside the lab's cgroup and hands it its order.
fn start_daemon(name: &LabName, shape: &Shape, timeout_s: u64) -> Result<Child> {
    let paths = LabPaths::new(name);
    let cgroup = cgroup::lab_cgroup(name, &paths)?.join("daemon");
    cgroup::create(&cgroup)?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(&program);
    command
        .args(["daemon", "--name", name.as_str(), "--timeout", &timeout_s.to_string()])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(spawn::log_file(&paths.daemon_log())?);
    spawn::detach(&mut command, &cgroup)?;
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let mut input = child.stdin.take().context("the daemon has no standard input")?;
    let order = serde_json::to_vec(shape).context("cannot encode the order")?;
    input.write_all(&order).context("the daemon does not take its order")?;
    Ok(child)
}

/// Prints the daemon's progress until the lab is ready.
fn follow(mut daemon: Child, name: &LabName) -> Result<()> {
    let output = daemon.stdout.take().context("the daemon has no standard output")?;
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line.context("cannot read from the daemon")?) {
            Ok(Line::Progress(text)) => println!("{text}"),
            Ok(Line::Error(message)) => bail!(message),
            Ok(_) => return Ok(()),
            Err(error) => bail!("the daemon of {name} answered nonsense: {error}"),
        }
    }
    bail!("the daemon of {name} has ended: somebody took the lab down, or it was killed")
}

/// Takes down what did not come up, after showing what its programs said.
fn give_up(name: &LabName, retain: bool, error: anyhow::Error) -> anyhow::Error {
    wait_if_interrupted();
    if retain {
        let folder = LabPaths::new(name).root().display().to_string();
        return error.context(format!(
            "the lab {name} did not come up; what there is of it is kept (logs below {folder}): \
             remove it with: {}",
            typed("down", name)
        ));
    }
    logs(&LabPaths::new(name)).iter().for_each(|log| eprintln!("{log}"));
    match down::down(name) {
        Ok(_) => error.context(format!(
            "the lab {name} did not come up and was taken down again (--retain keeps it to look at)"
        )),
        Err(also) => error.context(format!("the lab {name} did not come up; {also:#}")),
    }
}

/// The ends of the logs that hold anything.
fn logs(paths: &LabPaths) -> Vec<String> {
    let agents = (1..=NODES_MAX).map(|number| paths.node(&address::node_name(number)).agent_log());
    let all = std::iter::once(paths.daemon_log()).chain(agents).filter(|path| path.exists());
    all.filter_map(|path| shown(&path)).collect()
}

fn shown(log: &Path) -> Option<String> {
    let lines = last_lines(log, LOG_LINES);
    let name = log.strip_prefix(crate::paths::ROOT).unwrap_or(log);
    (!lines.is_empty()).then(|| format!("{}:\n    {}", name.display(), lines.join("\n    ")))
}

/// Set once this process has been told to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What an interruption breaks is no failure of its own: the thread that
/// takes the lab down ends the process.
fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Until this process ends: an interruption removes what there is so far.
fn take_down_if_interrupted(name: LabName) {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    if signals.thread_block().is_err() {
        return;
    }
    std::thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        INTERRUPTED.store(true, Ordering::SeqCst);
        eprintln!("beeline lab up: interrupted; taking the lab {name} down again");
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
    let answer =
        answer.with_context(|| format!("the lab {name} is up, but not all manifests are in force"))?;
    if let Line::Done(text) = answer {
        println!("{text} ({:.1} s)", begun.elapsed().as_secs_f32());
    }
    Ok(())
}

fn say_what_next(name: &LabName) {
    println!(
        "the lab {name} is up. Commands in manifests run as root on this machine: apply only what you trust.\n\
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
        assert!(error("x=/no/such/program").contains("there is no program /no/such/program"));
        assert!(error("x=/etc/passwd").contains("not an executable file"));
        assert!(error("x=/tmp").contains("not an executable file"));
    }

    #[test]
    fn unit_the_labs_own_api_is_used_whatever_the_values_say() {
        let mut settings = Settings::from_set(&["k8sServiceHost=10.1.2.3", "k8sServicePort=443"]).unwrap();
        let notice = use_own_api(&mut settings).unwrap().unwrap();
        assert!(notice.contains("172.30.0.2 port 6443: taken instead of 10.1.2.3 port 443"), "{notice}");
        assert_eq!(settings.parse().values.k8s_service_host.as_deref(), Some("172.30.0.2"));
        assert_eq!(settings.parse().values.k8s_service_port, Some(6443));
        assert_eq!(use_own_api(&mut settings).unwrap(), None);
        assert_eq!(use_own_api(&mut Settings::default()).unwrap(), None);
    }
}
