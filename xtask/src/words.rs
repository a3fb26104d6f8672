//! Retired words: finds names and phrases for which there is a standard term.
//! The list is `words.txt`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use regex::Regex;

use crate::paths;
use crate::steps::Steps;

const LIST: &str = include_str!("words.txt");

/// Files and folders that are not searched: history, the list itself, and what
/// others wrote. Hidden ones and build output are left out as well.
const NOT_SEARCHED: [&str; 5] =
    ["CHANGELOG.md", "Cargo.lock", "crates/ebpf/Cargo.lock", "fuzz/Cargo.lock", "xtask/src/words.txt"];

/// What a space of a pattern matches: white space, also a line break with the
/// continuation of a comment or of a string.
const SPACE: &str = r"[\s\\/!#]+";

/// `cargo xtask words`.
pub fn chore() -> Result<()> {
    check(&mut Steps::new(1))
}

/// Fails with every place where a retired word is used.
pub fn check(steps: &mut Steps) -> Result<()> {
    steps.run("retired words", |_| {
        let found = search(&entries(LIST)?, paths::top())?;
        if found.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        bail!("{} uses of retired words (xtask/src/words.txt):\n  {}", found.len(), lines.join("\n  "))
    })
}

/// A line of the list.
struct Entry {
    pattern: Regex,
    term: String,
    /// Beginnings of the paths that are searched; all if it is empty.
    only: Vec<String>,
    /// Beginnings of the paths that are not searched.
    except: Vec<String>,
}

/// A use of a retired word.
struct Use {
    path: String,
    line: usize,
    word: String,
    term: String,
}

impl Entry {
    /// Parses `REGEX => TERM [; only PATH...] [; except PATH...]`.
    fn parse(line: &str) -> Result<Self> {
        let (pattern, rest) = line.split_once(" => ").context("there is no ` => `")?;
        let mut parts = rest.split("; ");
        let term = parts.next().unwrap_or_default().trim().to_owned();
        let (mut only, mut except) = (Vec::new(), Vec::new());
        for part in parts {
            let mut words = part.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("only") => only.extend(words),
                Some("except") => except.extend(words),
                other => bail!("{other:?} is neither `only` nor `except`"),
            }
        }
        let pattern = Regex::new(&pattern.trim().replace(' ', SPACE)).context("the pattern is invalid")?;
        Ok(Self { pattern, term, only, except })
    }

    fn applies_to(&self, path: &str) -> bool {
        let starts = |list: &[String]| list.iter().any(|beginning| path.starts_with(beginning.as_str()));
        (self.only.is_empty() || starts(&self.only)) && !starts(&self.except)
    }

    fn uses_in<'a>(&'a self, path: &'a str, text: &'a str) -> impl Iterator<Item = Use> + 'a {
        let searched = if self.applies_to(path) { text } else { "" };
        self.pattern.find_iter(searched).map(|found| Use {
            path: path.to_owned(),
            line: text[..found.start()].matches('\n').count() + 1,
            word: found.as_str().split_whitespace().collect::<Vec<_>>().join(" "),
            term: self.term.clone(),
        })
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: `{}`: use {}", self.path, self.line, self.word, self.term)
    }
}

fn entries(list: &str) -> Result<Vec<Entry>> {
    let lines =
        list.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let parse = |(index, line): (usize, &str)| {
        Entry::parse(line).with_context(|| format!("line {} of words.txt: {line}", index + 1))
    };
    lines.map(parse).collect()
}

/// Searches every text file below `top`; sorted by path and line.
fn search(entries: &[Entry], top: &Path) -> Result<Vec<Use>> {
    let mut files = Vec::new();
    list_files(top, top, &mut files)?;
    files.sort();
    let mut found = Vec::new();
    for path in files {
        // A file that is not UTF-8 has no words.
        let Ok(text) = fs::read_to_string(top.join(&path)) else { continue };
        let path = path.to_string_lossy();
        let mut uses: Vec<Use> = entries.iter().flat_map(|entry| entry.uses_in(&path, &text)).collect();
        uses.sort_by_key(|one| one.line);
        found.append(&mut uses);
    }
    Ok(found)
}

fn list_files(top: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        let relative = path.strip_prefix(top).context("the path is outside of the repository")?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let skipped = name.starts_with('.') || name == "target";
        if skipped || path.is_symlink() || NOT_SEARCHED.iter().any(|one| Path::new(one) == relative) {
            continue;
        }
        if path.is_dir() {
            list_files(top, &path, files)?;
        } else {
            files.push(relative.to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(list: &str, path: &str, text: &str) -> Vec<String> {
        let entries = entries(list).expect("the list is valid");
        entries.iter().flat_map(|entry| entry.uses_in(path, text)).map(|one| one.to_string()).collect()
    }

    #[test]
    fn unit_a_planted_word_is_found_with_its_place_and_its_term() {
        let text = "one\nstruct Gadget;\nlet gadgets = 1;\n";
        let found = uses("# a comment\n\\bGadget\\b => device\n", "crates/a/src/lib.rs", text);
        assert_eq!(found, ["crates/a/src/lib.rs:2: `Gadget`: use device"]);
    }

    #[test]
    fn unit_a_phrase_is_found_across_lines_of_a_comment_and_of_a_string() {
        for text in ["// it gleams\n    /// brightly", "\"it gleams \\\n  brightly\"", "# gleams\n# brightly"]
        {
            assert_eq!(uses(r"\bgleams brightly\b => shines", "a", text).len(), 1, "{text}");
        }
        assert!(uses(r"\bgleams brightly\b => shines", "a", "it gleams, brightly").is_empty());
    }

    #[test]
    fn unit_an_entry_may_be_limited_to_paths() {
        let list = r"\bgadget\b => device; only crates/ docs/; except crates/a/src/old.rs";
        assert_eq!(uses(list, "crates/a/src/new.rs", "gadget").len(), 1);
        assert!(uses(list, "crates/a/src/old.rs", "gadget").is_empty());
        assert!(uses(list, "README.md", "gadget").is_empty());
    }

    #[test]
    fn unit_an_invalid_entry_is_named() {
        let error = |list| format!("{:#}", entries(list).err().expect("the list is invalid"));
        assert!(error("\nno arrow\n").contains("line 2"));
        assert!(error("[ => term").contains("pattern is invalid"));
        assert!(error("a => term; never crates/").contains("neither `only` nor `except`"));
    }

    #[test]
    fn unit_a_planted_file_is_searched_and_build_output_is_not() {
        let top = std::env::temp_dir().join(format!("beeline-words-{}", std::process::id()));
        for (path, text) in [("docs/a.md", "a gadget"), ("target/b.md", "a gadget"), ("c.md", "a device")] {
            fs::create_dir_all(top.join(path).parent().expect("it has a folder")).expect("it can be created");
            fs::write(top.join(path), text).expect("it can be written");
        }
        let found = search(&entries(r"\bgadget\b => device").expect("the list is valid"), &top);
        fs::remove_dir_all(&top).expect("it can be removed");
        let found: Vec<_> = found.expect("the files are readable").iter().map(ToString::to_string).collect();
        assert_eq!(found, ["docs/a.md:1: `gadget`: use device"]);
    }

    #[test]
    fn unit_the_repository_uses_no_retired_word() {
        let found = search(&entries(LIST).expect("the list is valid"), paths::top()).expect("it is readable");
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "\n{}", lines.join("\n"));
    }
}
