//! The generated pages: each is printed by a program, and a test in that
//! program's crate fails while the committed page differs. The tests here
//! follow the links of all pages.

use anyhow::Result;

use crate::steps::{Log, Steps};
use crate::{binaries, paths, process};

/// Program, arguments that print the page, path of the page.
const PAGES: &[(&str, &[&str], &str)] = &[
    ("beeline-agent", &["--print-metrics-doc"], "docs/metrics.md"),
    ("beeline", &["docs", "drop-reasons"], "docs/drop-reasons.md"),
    ("beeline", &["docs", "chart-values"], "charts/beeline/values.yaml"),
    ("beeline", &["docs", "chart-schema"], "charts/beeline/values.schema.json"),
];

/// `cargo xtask docs`.
pub fn chore() -> Result<()> {
    let mut steps = Steps::new(3);
    binaries::steps(&mut steps, binaries::WITHOUT_BENCHMARKS)?;
    steps.run("generated pages", |log| PAGES.iter().try_for_each(|page| write(page, log)))
}

fn write((program, arguments, page): &(&str, &[&str], &str), log: &Log) -> Result<()> {
    let mut command = std::process::Command::new(paths::binary(program));
    let text = process::output(command.args(*arguments), log)?;
    process::write_if_changed(&paths::top().join(page), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Every page of the repository outside of build output.
    fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("it is a folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let hidden = name.to_string_lossy().starts_with('.') || name == "target";
            if path.is_dir() && !hidden {
                pages(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }

    /// Targets of `[text](target)`.
    fn links(text: &str) -> impl Iterator<Item = &str> {
        text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
    }

    /// The rows of the crates in an ARCHITECTURE.md: name, what it knows.
    fn rooms(page: &str) -> Vec<(String, String)> {
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
        let cells = rows.map(|row| row.split(" | ").map(str::to_owned).collect::<Vec<_>>());
        let room = |cell: &str| cell.split('`').next().unwrap_or_default().to_owned();
        cells.map(|cells| (room(&cells[0]), cells.last().cloned().unwrap_or_default())).collect()
    }

    /// The name of a crate on the pages: that of its folder.
    fn page_name(package: &str) -> String {
        match package.trim_start_matches("beeline-") {
            "lab" => "cli".to_owned(),
            "apiserver" => "apiserver/server".to_owned(),
            name => name.trim_start_matches("lab-").replacen("apiserver-", "apiserver/", 1),
        }
    }

    /// Our crates that a crate depends on.
    fn dependencies(manifest: &str) -> Vec<String> {
        let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
        let lines = section.lines().take_while(|line| !line.starts_with('['));
        let names = lines.filter_map(|line| line.split([' ', '.']).next());
        names.filter(|name| name.starts_with("beeline-")).map(page_name).collect()
    }

    #[test]
    fn unit_architecture_says_which_crate_knows_which() {
        let pages = [("ARCHITECTURE.md", "crates"), ("lab/ARCHITECTURE.md", "lab")].map(|(page, folder)| {
            let text = fs::read_to_string(paths::top().join(page)).expect("it is readable");
            (page, paths::top().join(folder), rooms(&text))
        });
        let all: Vec<&str> =
            pages.iter().flat_map(|(_, _, rooms)| rooms).map(|(room, _)| room.as_str()).collect();
        assert!(all.len() > 18, "{all:?}");
        for (page, folder, rooms) in &pages {
            for (room, knows) in rooms {
                let manifest = fs::read_to_string(folder.join(room).join("Cargo.toml"));
                let manifest = manifest.unwrap_or_else(|error| panic!("{page}, {room}: {error}"));
                let named = knows.split('`').skip(1).step_by(2).filter(|name| all.contains(name));
                let mut named: Vec<&str> = named.collect();
                let mut actual = dependencies(&manifest);
                named.sort_unstable();
                actual.sort_unstable();
                assert_eq!(named, actual, "{page}, what `{room}` knows");
            }
            for entry in fs::read_dir(folder).expect("it is a folder").flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let has_row = |room: &str| room.split('/').next() == Some(&name);
                let listed = rooms.iter().any(|(room, _)| has_row(room)) || !entry.path().is_dir();
                assert!(listed, "{page} has no row for {name}");
            }
        }
    }

    /// Each step of the picture of the packet's path is a module of the datapath.
    #[test]
    fn unit_the_steps_of_a_packet_are_modules() {
        for page in ["README.md", "ARCHITECTURE.md"] {
            let text = fs::read_to_string(paths::top().join(page)).expect("it is readable");
            let picture = text.lines().find(|line| line.trim().starts_with("pod --> tc -->")).expect(page);
            let steps: Vec<&str> = picture.trim().split(" --> ").collect();
            let steps = &steps[2..steps.len() - 1];
            for step in steps.iter().chain(&["reject"]) {
                let module = paths::top().join(format!("crates/datapath/src/{step}.rs"));
                assert!(module.exists(), "{page}: there is no module `{step}`");
            }
        }
    }

    /// Headings as GitHub links to them, and marks of HTML.
    fn anchors(text: &str) -> impl Iterator<Item = String> {
        let slug = |heading: &str| {
            let kept = heading.to_lowercase().replace(' ', "-");
            kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect::<String>()
        };
        let headings = text.lines().filter(|line| line.starts_with('#'));
        let headings = headings.map(move |line| slug(line.trim_start_matches('#').trim()));
        let marks = text.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next());
        headings.chain(marks.map(str::to_owned))
    }

    #[test]
    fn unit_every_link_between_pages_has_a_target() {
        let mut found = Vec::new();
        pages(paths::top(), &mut found);
        assert!(found.len() > 10, "{found:?}");
        for page in found {
            let text = fs::read_to_string(&page).expect("it is readable");
            for link in links(&text).filter(|link| !link.contains("://")) {
                let file = link.split('#').next().unwrap_or_default();
                let target = if file.is_empty() {
                    page.clone()
                } else {
                    page.parent().expect("it is in a folder").join(file)
                };
                assert!(target.exists(), "{}: {link} leads nowhere", page.display());
                let Some((_, anchor)) = link.split_once('#') else { continue };
                let target = fs::read_to_string(&target).expect("it is readable");
                assert!(
                    anchors(&target).any(|known| known == anchor),
                    "{}: {link} has no heading",
                    page.display()
                );
            }
        }
    }
}
