//! The node agent.

use std::io::IsTerminal;
use std::process::ExitCode;

use beeline_agent::{configuration, metrics, options::Options, run};
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let options = Options::parse();
    if options.print_metrics_doc {
        print!("{}", metrics::documentation());
        return ExitCode::SUCCESS;
    }
    let configuration = configuration::load(&options);
    start_log(configuration.as_ref().is_ok_and(|configuration| configuration.values.debug));
    let ended = configuration.and_then(|configuration| run::run(&options, &configuration));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to standard error. `RUST_LOG` overrides the default filter.
fn start_log(debug: bool) {
    // The source logs the failures of these libraries itself.
    let own = if debug { "debug" } else { "info" };
    let usual =
        format!("{own},kube_client=off,kube_runtime=off,tower=off,hyper=info,hyper_util=info,rustls=warn");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
