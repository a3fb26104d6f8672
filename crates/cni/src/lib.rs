//! The CNI plugin (CNI specification 0.3.1 to 1.1.0). It creates the interface
//! of a pod; the agent allocates the addresses and programs the datapath. The
//! plugin is short-lived and blocking.
//!
//! [`run`] is the whole plugin as a function of its environment and standard
//! input; `main.rs` does the input and output.

pub mod add;
pub mod agent;
pub mod check;
pub mod config;
pub mod delete;
pub mod deletion_queue;
pub mod environment;
pub mod error;
pub mod install;
pub mod interface;
pub mod lock;
pub mod result;
pub mod version;

use config::NetworkConfig;
use environment::{Command, Environment};
use error::CniError;
use serde_json::Value;

/// The output and the exit status of the plugin.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Text for standard output: a result, an error object or nothing.
    pub output: String,
    /// True = exit status 0, false = 1.
    pub success: bool,
}

/// Runs one call of the plugin. `variable` reads an environment variable.
pub fn run(variable: impl Fn(&str) -> Option<String>, input: &[u8]) -> Outcome {
    match dispatch(&variable, input) {
        Ok(None) => Outcome { output: String::new(), success: true },
        Ok(Some(value)) => Outcome { output: format!("{value:#}\n"), success: true },
        Err(error) => {
            let value = error.to_json(&version::response_version(input));
            Outcome { output: format!("{value:#}\n"), success: false }
        }
    }
}

fn dispatch(variable: &impl Fn(&str) -> Option<String>, input: &[u8]) -> Result<Option<Value>, CniError> {
    let environment = Environment::read(variable)?;
    match environment.command {
        Command::Version => Ok(Some(version::response(input))),
        Command::Add => add::add(&environment, &NetworkConfig::parse(input)?).map(Some),
        Command::Delete => {
            delete::delete(&environment, &NetworkConfig::parse_leniently(input)?).map(|()| None)
        }
        Command::Check => check::check(&environment, &NetworkConfig::parse(input)?).map(|()| None),
        Command::Gc => delete::gc(&NetworkConfig::parse_leniently(input)?).map(|()| None),
        Command::Status => check::status(&NetworkConfig::parse(input)?).map(|()| None),
    }
}
