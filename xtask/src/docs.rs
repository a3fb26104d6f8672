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
    binaries::steps(&mut steps)?;
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

    #[test]
    fn unit_every_link_between_pages_has_a_target() {
        let mut found = Vec::new();
        pages(paths::top(), &mut found);
        assert!(found.len() > 10, "{found:?}");
        for page in found {
            let text = fs::read_to_string(&page).expect("it is readable");
            for link in links(&text).filter(|link| !link.contains("://")) {
                let file = link.split('#').next().unwrap_or_default();
                let target = page.parent().expect("it is in a folder").join(file);
                assert!(
                    file.is_empty() || target.exists(),
                    "{}: the target of the link {link} does not exist",
                    page.display()
                );
            }
        }
    }
}
