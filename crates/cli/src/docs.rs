//! Pages that are printed from the program's own tables.

use std::process::ExitCode;

use anyhow::Result;
use beeline_abi::DropReason;
use beeline_values::chart;
use clap::Subcommand;

use crate::output;

/// Which page.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// docs/drop-reasons.md: every reason of a drop with cause and cure
    DropReasons,
    /// charts/beeline/values.yaml: every value with its meaning
    ChartValues,
    /// charts/beeline/values.schema.json: the schema that Helm checks values with
    ChartSchema,
}

/// Prints a page.
pub fn run(verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::DropReasons => output::line(drop_reasons().trim_end())?,
        Verb::ChartValues => output::line(chart::values_yaml().trim_end())?,
        Verb::ChartSchema => output::line(&format!("{:#}", chart::json_schema()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// docs/drop-reasons.md.
fn drop_reasons() -> String {
    let mut page = String::from(
        "# Why a packet was dropped\n\n\
         <!-- Printed by `beeline docs drop-reasons`; a test compares. -->\n\n\
         Every packet that Beeline refuses has exactly one of these reasons. `beeline drops` shows them with\n\
         their numbers of packets per hook, `beeline drops -f` shows sampled packets as they are refused, and\n\
         `beeline_drops_total` counts them in `/metrics`.\n\n\
         | reason | cause | cure |\n|---|---|---|\n",
    );
    for reason in DropReason::ALL {
        page.push_str(&format!(
            "| <a id=\"{0}\"></a>`{0}` | {1} | {2} |\n",
            reason.name(),
            reason.cause(),
            reason.cure()
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_the_chart_has_the_values_of_the_agent() {
        let file = |name: &str| {
            let path = format!("{}/../../charts/beeline/{name}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let anew = "is out of date; write it anew with `make docs`";
        assert!(file("values.yaml") == chart::values_yaml(), "charts/beeline/values.yaml {anew}");
        let schema = format!("{:#}\n", chart::json_schema());
        assert!(file("values.schema.json") == schema, "charts/beeline/values.schema.json {anew}");
    }

    #[test]
    fn unit_the_page_of_drop_reasons_says_what_the_enum_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/drop-reasons.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == drop_reasons(),
            "docs/drop-reasons.md is out of date; write it anew with\n  beeline docs drop-reasons > docs/drop-reasons.md"
        );
    }
}
