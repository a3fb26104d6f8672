//! Runs kubectl in tests: one version, one namespace, a separate home
//! directory.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use beeline_lab::harness::TestLab;
use tempfile::TempDir;

/// The available versions; prints which ones are missing.
pub fn all() -> Vec<Program> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/kubectl");
    let known = [("debian", "debian/usr/bin/kubectl"), ("current", "current/kubectl")];
    let mut found = Vec::new();
    for (name, path) in known {
        let path = tools.join(path);
        if path.exists() {
            found.push(Program { name, path });
        } else {
            println!("skipped: the lab with {name}'s kubectl, which is not below .tools: run make test");
        }
    }
    found
}

/// A kubectl program.
pub struct Program {
    name: &'static str,
    path: PathBuf,
}

impl Program {
    /// Prepares it for a lab.
    pub fn of_lab(self, lab: &TestLab) -> Kubectl {
        let kubeconfig = lab.verb(&["kubeconfig"]).succeeds().stdout.trim().to_owned();
        let (home, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Kubectl { program: self.path, namespace: format!("by-{}", self.name), kubeconfig, home, directory }
    }
}

/// A kubectl configured for a lab.
pub struct Kubectl {
    program: PathBuf,
    namespace: String,
    kubeconfig: String,
    home: TempDir,
    directory: TempDir,
}

impl Kubectl {
    /// Directory of its manifests, `DIR` in command lines.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a command line in its namespace.
    pub fn run(&self, line: &str) -> Said {
        self.reading(line, "")
    }

    /// Runs a command line without a namespace; `NS` is replaced by the name
    /// of its namespace.
    pub fn plain(&self, line: &str) -> Said {
        self.finish(self.command(line, &[]), line, "")
    }

    /// The same in its namespace, with standard input.
    pub fn reading(&self, line: &str, input: &str) -> Said {
        self.finish(self.command(line, &["--namespace", &self.namespace]), line, input)
    }

    /// The manifest of its namespace.
    pub fn namespace_manifest(&self) -> String {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}}}\n", self.namespace)
    }

    /// Whether it is a current version, which sends built-in kinds that it
    /// generates as protobuf.
    pub fn is_current(&self) -> bool {
        self.program.ends_with("current/kubectl")
    }

    /// Edits an object with a sed script.
    pub fn edit(&self, script: &str, line: &str) -> Said {
        let mut command = self.command(line, &["--namespace", &self.namespace]);
        command.env("KUBE_EDITOR", format!("sed -i '{script}'"));
        self.finish(command, line, "")
    }

    /// The same with another token.
    pub fn with_token(&self, token: &str, line: &str) -> Said {
        let text = std::fs::read_to_string(&self.kubeconfig).unwrap();
        let lines = text.lines().map(|line| match line.find("token:") {
            Some(at) => format!("{}token: {token}", &line[..at]),
            None => line.to_owned(),
        });
        let path = self.home.path().join("other");
        std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
        let mut command = self.command(line, &[]);
        command.env("KUBECONFIG", path);
        self.finish(command, line, "")
    }

    /// Starts a command line in the background until it is dropped.
    pub fn start(&self, line: &str) -> Running {
        let mut command = self.command(line, &["--namespace", &self.namespace]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let text = Arc::new(Mutex::new(String::new()));
        let (kept, pipe) = (text.clone(), child.stdout.take().unwrap());
        std::thread::spawn(move || {
            use std::io::{BufRead, BufReader};
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        Running { line: line.to_owned(), child, text }
    }

    fn command(&self, line: &str, more: &[&str]) -> Command {
        let directory = self.directory.path().to_str().unwrap();
        let words = line.split(' ').map(|word| word.replace("NS", &self.namespace).replace("DIR", directory));
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.home.path()).env("KUBECONFIG", &self.kubeconfig);
        command.args(words).args(more);
        command
    }

    fn finish(&self, mut command: Command, line: &str, input: &str) -> Said {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // In a thread: a program that does not read must not block the test.
        std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        Said {
            line: format!("{}: kubectl {line}", self.namespace),
            namespace: self.namespace.clone(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Result of a command line.
pub struct Said {
    line: String,
    namespace: String,
    pub code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Said {
    /// Fails the test unless standard output contains these words.
    #[track_caller]
    pub fn stdout_contains(&self, words: &str) -> &Self {
        let words = words.replace("NS", &self.namespace);
        assert!(self.stdout.contains(&words), "expected {words:?} in the output\n{self}");
        self
    }

    /// Number of output lines.
    pub fn lines(&self) -> usize {
        self.stdout.lines().count()
    }

    /// Fails the test if standard output contains these words.
    #[track_caller]
    pub fn stdout_lacks(&self, words: &str) -> &Self {
        assert!(!self.stdout.contains(words), "did not expect {words:?} in the output\n{self}");
        self
    }

    /// Fails the test unless standard error contains these words.
    #[track_caller]
    pub fn stderr_contains(&self, words: &str) -> &Self {
        assert!(self.stderr.contains(words), "expected {words:?} in the output on standard error\n{self}");
        self
    }

    /// Fails the test if it succeeded.
    #[track_caller]
    pub fn fails(self) -> Self {
        assert!(self.code.is_some_and(|code| code != 0), "expected the command to fail\n{self}");
        self
    }
}

impl fmt::Display for Said {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "---- {} returned {:?}\n{}{}", self.line, self.code, self.stdout, self.stderr)
    }
}

/// A command line running in the background.
pub struct Running {
    line: String,
    child: Child,
    text: Arc<Mutex<String>>,
}

impl Running {
    /// Waits until the output contains these words.
    #[track_caller]
    pub fn wait_for(&self, words: &str, patience: Duration) {
        let end = Instant::now() + patience;
        while !self.text.lock().unwrap().contains(words) {
            let said = self.text.lock().unwrap().clone();
            assert!(Instant::now() < end, "kubectl {} did not print {words:?}\n{said}", self.line);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
