//! Labs for tests: started by the real program with a unique name, dumped when
//! a test fails, removed and checked for leaks in any case.
//!
//! ```no_run
//! use beeline_lab::harness::TestLab;
//!
//! let lab = TestLab::up("suffix");
//! lab.client().run(["ping", "-c1", "172.30.0.11"]).succeeds();
//! lab.down();
//! ```

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use beeline_kernel::netns::NetNs;
use beeline_lab_net::leaks::Snapshot;
use beeline_lab_net::log_tail::last_lines;
use beeline_lab_net::paths::{LabName, LabPaths};
use beeline_lab_net::record::{LabRecord, pod_records};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::protocol::{PodStatus, ServiceStatus, Status};

/// Default timeout of a command.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout of a verb.
const VERB_TIMEOUT: Duration = Duration::from_secs(180);

/// Number of lines shown of each log when a test fails.
const LOG_LINES: usize = 40;

/// Environment variable with the directory of the programs to test; default:
/// the target directory of the test.
const PROGRAMS: &str = "BEELINE_TEST_PROGRAMS";

/// A lab of one test.
pub struct TestLab {
    name: LabName,
    before: Snapshot,
    is_down: bool,
}

impl TestLab {
    /// Starts a lab with three nodes.
    pub fn up(suffix: &str) -> TestLab {
        TestLab::up_with(suffix, &[])
    }

    /// Starts a lab with further arguments of `up`.
    pub fn up_with(suffix: &str, arguments: &[&str]) -> TestLab {
        let lab = TestLab::named(suffix);
        lab.verb(&[&["up"], arguments].concat()).succeeds();
        lab
    }

    /// Starts the lab with these environment variables for its processes:
    /// daemon, agents and API server.
    pub fn up_with_env(&self, environment: &[(&str, &str)], arguments: &[&str]) {
        let mut command = self.program("up");
        command.args(arguments).envs(environment.iter().copied());
        start(command, "").finish(VERB_TIMEOUT).succeeds();
    }

    /// A unique name and a snapshot of the host; starts nothing.
    pub fn named(suffix: &str) -> TestLab {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        assert!(nix::unistd::geteuid().is_root(), "lab tests must run as root: use sudo or make test");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // The run number tells the leak check of a run which labs belong to
        // it.
        let run = std::env::var("BEELINE_TEST_RUN").map_or_else(|_| String::new(), |run| format!("{run}-"));
        let mut name = format!("t{run}{}-{number}-{suffix}", std::process::id());
        name.truncate(32);
        let name = LabName::parse(&name).expect("test lab names consist of letters, digits and dashes");
        TestLab { name, before: Snapshot::take(), is_down: false }
    }

    /// Its name.
    pub fn name(&self) -> &LabName {
        &self.name
    }

    /// Its files.
    pub fn paths(&self) -> LabPaths {
        LabPaths::new(&self.name)
    }

    /// `beeline lab VERB ... --name NAME`.
    pub fn verb(&self, arguments: &[&str]) -> Outcome {
        self.verb_with_stdin(arguments, "")
    }

    /// The same with standard input.
    pub fn verb_with_stdin(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut command = self.program(arguments.first().copied().unwrap_or_default());
        command.args(arguments.iter().skip(1));
        start(command, input).finish(VERB_TIMEOUT)
    }

    /// `beeline ... --name NAME`.
    pub fn cli(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new(program("beeline"));
        command.args(words).args(["--name", self.name.as_str()]);
        start(command, "").finish(VERB_TIMEOUT)
    }

    /// The same, parsed from JSON.
    pub fn cli_json<T: serde::de::DeserializeOwned>(&self, words: &[&str]) -> T {
        let outcome = self.cli(&[words, &["-o", "json"]].concat()).succeeds();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{words:?}: {error}\n{outcome}"))
    }

    fn program(&self, verb: &str) -> Command {
        let mut command = Command::new(program("beeline-lab"));
        command.args([verb, "--name", self.name.as_str()]);
        command
    }

    /// An HTTPS request to the API server from the client, with further
    /// arguments of curl.
    pub fn api(&self, path: &str, more: &str) -> Outcome {
        let text = std::fs::read_to_string(self.paths().kubeconfig()).expect("the lab has a kubeconfig");
        let after = |key: &str| {
            let found = text.lines().find_map(|line| line.trim().strip_prefix(key));
            found.unwrap_or_else(|| panic!("no {key} in\n{text}")).trim().trim_matches('"').to_owned()
        };
        let (server, token) = (after("server:"), after("token:"));
        self.client().shell(&format!(
            "curl --silent --show-error --insecure --max-time 20 {more} -H 'Authorization: Bearer {token}' \
             '{server}{path}'"
        ))
    }

    /// Applies manifests and waits until they are programmed.
    pub fn apply(&self, manifests: &str) {
        self.verb_with_stdin(&["apply", "-f", "-"], manifests).succeeds();
    }

    /// The output of `status`.
    pub fn status(&self) -> Status {
        let shown = self.verb(&["status", "-o", "json"]).succeeds();
        serde_json::from_str(&shown.stdout).unwrap_or_else(|error| panic!("{error}\n{shown}"))
    }

    /// Pods whose names have this prefix, sorted by name.
    pub fn pods(&self, prefix: &str) -> Vec<PodStatus> {
        let mut pods = self.status().pods;
        pods.retain(|pod| pod.name.starts_with(prefix));
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        pods
    }

    /// A Service of the namespace `default`.
    pub fn service(&self, name: &str) -> ServiceStatus {
        let services = self.status().services;
        let found =
            services.into_iter().find(|service| service.namespace == "default" && service.name == name);
        found.unwrap_or_else(|| panic!("there is no service {name} in default"))
    }

    /// A pod of the namespace `default`.
    pub fn pod(&self, name: &str) -> ExecTarget<'_> {
        self.exec_target(&["exec", name], ExecTargetKind::Pod(name.to_owned()))
    }

    /// A node.
    pub fn node(&self, name: &str) -> ExecTarget<'_> {
        self.exec_target(&["node", name], ExecTargetKind::Node(name.to_owned()))
    }

    /// The host outside the cluster.
    pub fn client(&self) -> ExecTarget<'_> {
        self.exec_target(&["client"], ExecTargetKind::Other("client"))
    }

    /// The router.
    pub fn router(&self) -> ExecTarget<'_> {
        self.exec_target(&["router"], ExecTargetKind::Other("router"))
    }

    fn exec_target(&self, verb: &[&str], kind: ExecTargetKind) -> ExecTarget<'_> {
        let verb = verb.iter().map(|word| (*word).to_owned()).collect();
        ExecTarget { lab: self, verb, kind, timeout: TIMEOUT }
    }

    /// Waits until a condition holds; fails the test with its description
    /// after `timeout`.
    pub fn wait_until(&self, what: &str, timeout: Duration, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + timeout;
        while !holds() {
            assert!(Instant::now() < deadline, "timed out after {} s: {what}", timeout.as_secs_f32());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Removes the lab and fails the test if anything is left.
    pub fn down(mut self) {
        self.is_down = true;
        let gone = self.verb(&["down"]);
        if !gone.is_success() {
            panic!("{gone}");
        }
        self.check_leaks();
    }

    /// Fails the test if anything of the lab is left on this host.
    pub fn check_leaks(&self) {
        if let Err(error) = self.before.check(&self.name) {
            panic!("{error}");
        }
    }

    /// State that may explain a failure.
    pub fn state(&self) -> String {
        let mut parts = vec![format!("==== the lab {}", self.name)];
        let show = |target: ExecTarget<'_>, words: &[&str]| {
            target.timeout(Duration::from_secs(5)).run(words).to_string()
        };
        parts.push(self.verb(&["status"]).to_string());
        if let Ok(Some(record)) = LabRecord::read(&self.paths()) {
            for node in record.nodes.keys() {
                for words in [&["ip", "-br", "address"][..], &["ip", "route"], &["ip", "-6", "route"]] {
                    parts.push(show(self.node(node), words));
                }
                parts.push(self.log(self.paths().node(node).agent_log()));
            }
        }
        for verb in ["counters", "drops"] {
            let mut command = Command::new(program("beeline"));
            command.args([verb, "--name", self.name.as_str()]);
            parts.push(start(command, "").finish(Duration::from_secs(5)).to_string());
        }
        parts.push(self.log(self.paths().daemon_log()));
        parts.join("\n")
    }

    fn log(&self, path: PathBuf) -> String {
        format!("---- {}\n{}", path.display(), last_lines(&path, LOG_LINES).join("\n"))
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        if self.is_down {
            return;
        }
        if !std::thread::panicking() {
            self.verb(&["down"]).succeeds();
            return self.check_leaks();
        }
        // A second panic would abort the process and the remaining tests.
        let last = |work: &dyn Fn() -> String| {
            let done = catch_unwind(AssertUnwindSafe(work));
            eprintln!("{}", done.unwrap_or_else(|_| "this failed as well".into()));
        };
        last(&|| self.state());
        last(&|| self.verb(&["down"]).to_string());
    }
}

/// Path of one of the programs under test.
pub fn program(name: &str) -> PathBuf {
    let directory = std::env::var_os(PROGRAMS).map(PathBuf::from).or_else(|| {
        // Tests are in a subdirectory of the programs' directory.
        Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned())
    });
    let path = directory.expect("a test has a directory").join(name);
    assert!(path.exists(), "{} is missing: build it with make build", path.display());
    path
}

/// A pod, node or other host of a lab in which commands run.
#[derive(Clone)]
pub struct ExecTarget<'a> {
    lab: &'a TestLab,
    verb: Vec<String>,
    kind: ExecTargetKind,
    timeout: Duration,
}

#[derive(Clone)]
enum ExecTargetKind {
    Pod(String),
    Node(String),
    Other(&'static str),
}

impl ExecTarget<'_> {
    /// The same with another timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs a command and waits for it.
    pub fn run<T: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = T>) -> Outcome {
        self.run_with_stdin(command, "")
    }

    /// The same with standard input.
    pub fn run_with_stdin<T: AsRef<OsStr>>(
        &self,
        command: impl IntoIterator<Item = T>,
        input: &str,
    ) -> Outcome {
        start(self.command(command), input).finish(self.timeout)
    }

    /// Runs a shell command line and waits for it.
    pub fn shell(&self, line: &str) -> Outcome {
        self.run(["sh", "-c", line])
    }

    /// Starts a command in the background.
    pub fn start<T: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = T>) -> Background {
        start(self.command(command), "")
    }

    fn command<T: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = T>) -> Command {
        let mut command = self.lab.program(&self.verb[0]);
        command.args(&self.verb[1..]).arg("--").args(words);
        command
    }

    /// Its network namespace, for probes by the test process itself
    /// (`netns.enter(|| ...)`): a thousand times faster than a command. They
    /// do not run in the target's cgroup.
    pub fn netns(&self) -> NetNs {
        let paths = self.lab.paths();
        let path = match &self.kind {
            ExecTargetKind::Node(name) => paths.node(name).netns(),
            ExecTargetKind::Other(name) => paths.netns(name),
            ExecTargetKind::Pod(name) => {
                let pods = pod_records(&paths);
                let found = pods.into_iter().find(|pod| pod.namespace == "default" && pod.name == *name);
                found.unwrap_or_else(|| panic!("there is no pod default/{name}")).netns
            }
        };
        NetNs::open(path).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Result of a command.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Command line.
    pub command: String,
    /// Exit status; 128 + number for a signal; none after a timeout.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Duration.
    pub elapsed: Duration,
}

impl Outcome {
    /// Whether it returned 0.
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// Fails the test unless it returned 0.
    #[track_caller]
    pub fn succeeds(self) -> Outcome {
        assert!(self.is_success(), "command failed\n{self}");
        self
    }

    /// Fails the test unless it failed.
    #[track_caller]
    pub fn fails(self) -> Outcome {
        assert!(self.code.is_some_and(|code| code != 0), "expected the command to fail\n{self}");
        self
    }

    /// Fails the test unless standard error contains these words.
    #[track_caller]
    pub fn stderr_contains(self, words: &str) -> Outcome {
        assert!(self.stderr.contains(words), "expected {words:?} on standard error\n{self}");
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.code {
            Some(code) => format!("returned {code}"),
            None => "did not end and was killed".to_owned(),
        };
        writeln!(f, "---- {} {end} after {:.2} s", self.command, self.elapsed.as_secs_f32())?;
        for text in [&self.stdout, &self.stderr].into_iter().filter(|text| !text.is_empty()) {
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// A running command; killed on drop.
pub struct Background {
    shown: String,
    begun: Instant,
    child: Child,
    stdout: Capture,
    stderr: Capture,
}

impl Background {
    /// Waits until standard output or standard error contains these words,
    /// such as tcpdump's "listening on"; fails the test after the timeout.
    #[track_caller]
    pub fn wait_for(&self, words: &str, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while !self.stdout.text().contains(words) && !self.stderr.text().contains(words) {
            let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
            assert!(Instant::now() < deadline, "{} did not print {words:?}\n{stdout}{stderr}", self.shown);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until it exits, with a timeout.
    pub fn finish(mut self, timeout: Duration) -> Outcome {
        let deadline = Instant::now() + timeout;
        let status = loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => break Some(status),
                None if Instant::now() > deadline => break None,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let elapsed = self.begun.elapsed();
        if status.is_none() {
            self.kill();
        }
        let code = status.map(|status| {
            use std::os::unix::process::ExitStatusExt;
            status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
        });
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        Outcome { command: self.shown.clone(), code, stdout, stderr, elapsed }
    }

    /// Sends a signal and waits until it exits.
    pub fn stop(self, signal: Signal) -> Outcome {
        let _ = kill(self.pid(), signal);
        self.finish(TIMEOUT)
    }

    /// Its process ID: that of the command, since the verb executes it.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Kills the process group, so that no child keeps the pipes open.
    fn kill(&mut self) {
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(mut command: Command, input: &str) -> Background {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let shown = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_owned();
        // In a thread: a command that does not read must not block the test.
        std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = (Capture::of(stdout), Capture::of(stderr));
    Background { shown, begun: Instant::now(), child, stdout, stderr }
}

/// Collects the output of a pipe.
struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Capture {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = bytes.clone();
        let reader = pipe.map(|mut pipe| {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                    locked(&kept).extend_from_slice(&buffer[..length]);
                }
            })
        });
        Capture { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&locked(&self.bytes)).into_owned()
    }

    /// All output; waits for the end of the pipe.
    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            // A reader that panicked has kept what it read.
            let _ = reader.join();
        }
        self.text()
    }
}

fn locked(bytes: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}
