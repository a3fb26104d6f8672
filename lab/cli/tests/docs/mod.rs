//! The commands of the documentation, in the order in which a reader meets them.

use std::fs;
use std::path::{Path, PathBuf};

/// First words of commands in code blocks.
const PROGRAMS: &[&str] = &[
    "apt-get",
    "beeline",
    "./beeline",
    "beeline-agent",
    "beeline-cni",
    "cargo",
    "curl",
    "export",
    "git",
    "helm",
    "ip",
    "kubectl",
    "make",
    "mount",
    "rm",
    "rustup",
    "sudo",
    "tc",
];

/// First words of commands in running text.
const INLINE: &[&str] = &["beeline", "./beeline", "cargo", "ip", "kubectl", "make"];

/// A command.
#[derive(Clone, Debug)]
pub struct Command {
    /// Page and line.
    pub location: String,
    /// Page and heading: what is done under one heading belongs together.
    pub section: String,
    /// The command, without comment and prompt.
    pub text: String,
    /// It is in a code block, and not in running text, where it may be a part
    /// of a command.
    pub is_block: bool,
}

/// The top of the repository.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

/// Every page that tells users what to run.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![top().join("README.md"), top().join("CONTRIBUTING.md")];
    for directory in ["docs", "examples/hello"] {
        let entries = fs::read_dir(top().join(directory)).expect("the directory is there").flatten();
        pages.extend(
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "md")),
        );
    }
    pages.sort();
    pages
}

/// Every documented command.
pub fn commands() -> Vec<Command> {
    pages().iter().flat_map(|page| of_page(page)).collect()
}

fn of_page(page: &Path) -> Vec<Command> {
    let text = fs::read_to_string(page).expect("the page can be read");
    let name = page.strip_prefix(top()).unwrap_or(page).display().to_string();
    let (mut found, mut section, mut is_fenced) = (Vec::new(), name.clone(), false);
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let location = format!("{name}:{}", number + 1);
        is_fenced ^= line.starts_with("```");
        if let Some(heading) = line.strip_prefix("## ") {
            section = format!("{name}, {heading}");
        }
        let is_block = is_fenced || line.starts_with("    ");
        let mut of_line = |text: String, is_block| {
            found.push(Command { location: location.clone(), section: section.clone(), text, is_block })
        };
        if !is_block {
            inline(line).into_iter().for_each(|text| of_line(text, false));
        } else if begins_with(command(line), PROGRAMS) {
            let mut text = command(line).to_owned();
            while let Some(more) = text.strip_suffix('\\') {
                text = format!("{}{}", more, lines.next().map_or("", |(_, line)| command(line)));
            }
            of_line(text, true);
        }
    }
    found
}

/// A line without prompt and comment.
fn command(line: &str) -> &str {
    let line = line.trim().trim_start_matches("$ ");
    line.split("  #").next().unwrap_or_default().trim()
}

fn begins_with(text: &str, words: &[&str]) -> bool {
    text.split(' ').next().is_some_and(|first| words.contains(&first)) && text.contains(' ')
}

/// What is between backticks and begins with a program.
fn inline(line: &str) -> Vec<String> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|text| begins_with(text, INLINE)).map(str::to_owned).collect()
}

/// The command with values for its placeholders.
pub fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (placeholder, value) in values {
        text = text.replace(placeholder, value);
    }
    text
}

#[test]
fn unit_commands_are_found_in_blocks_and_in_text() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("page.md");
    let text = "Use `beeline drops`, or `beeline_drops_total`.\n\n    $ beeline status      # healthy?\n    node-1: healthy\n    kubectl get \\\n        pods\n";
    fs::write(&page, text).unwrap();
    let found: Vec<_> = of_page(&page).into_iter().map(|one| (one.text, one.is_block)).collect();
    let expected = [("beeline drops", false), ("beeline status", true), ("kubectl get pods", true)];
    assert_eq!(found, expected.map(|(text, is_block)| (text.to_owned(), is_block)));
}
