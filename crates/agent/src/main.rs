//! The node agent.

use beeline_agent::{metrics, options::Options};
use clap::Parser;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if options.print_metrics_doc {
        print!("{}", metrics::documentation());
        return Ok(());
    }
    anyhow::bail!("the agent is not wired yet")
}
