//! Every test. A test's name says what it needs: `unit_*` runs anywhere,
//! `kernel_*` and `lab_*` need root.

mod batch;
mod lints;
mod minimal_path;
mod outcome;
mod run;

use anyhow::{Result, bail};

use crate::steps::{Log, Steps};
use crate::{binaries, committed, compile, demo, deny, ebpf, fuzz, paths, process, words};
use batch::Batch;
pub use batch::{Needs, Program};
pub use outcome::Outcome;
use run::Run;

/// `cargo xtask test`.
pub fn chore(filter: Option<&str>) -> Result<()> {
    let pure_is_enough = std::env::var("PURE").is_ok_and(|value| value == "1");
    let as_root = !pure_is_enough && process::may_become_root();
    let fuzzing = fuzz::is_present();
    let own = if as_root { 7 + usize::from(filter.is_none()) } else { 4 };
    let mut steps = Steps::new(own + usize::from(fuzzing));
    let mut failed = Vec::new();
    let message = |result: Result<()>| result.err().map(|error| format!("{error:#}"));
    failed.extend(message(words::check(&mut steps)));
    if as_root {
        failed.extend(message(ebpf::check(&binaries::steps(&mut steps, binaries::ALL)?)));
    }
    let (programs, warnings) = steps.run("test executables", build)?;
    failed.extend(message(warnings));
    failed.extend(message(lints::check(&mut steps)));
    failed.extend(message(deny::check()));
    let (batches, misnamed) = batches(&programs, filter);
    failed.extend(misnamed);
    let (pure, with_root): (Vec<_>, Vec<_>) =
        batches.into_iter().partition(|batch| batch.needs == Needs::Nothing);
    failed.extend(run_all(&mut steps, "pure tests", &pure, &[])?);
    if fuzzing {
        failed.extend(message(fuzz::check(&mut steps)));
    }
    if as_root {
        failed.extend(run_with_root(&mut steps, &with_root, filter.is_none())?);
    }
    committed::notes().iter().for_each(|note| println!("      note: {note}"));
    if !as_root {
        print_skipped(&with_root);
    }
    verdict(&failed, as_root || pure_is_enough)
}

/// Builds the test executables; the second value is an error if the build had
/// warnings.
fn build(log: &Log) -> Result<(Vec<Program>, Result<()>)> {
    let total = compile::total(paths::top(), &["--workspace"], compile::Kind::Tests);
    let mut cargo = process::cargo();
    cargo.args(["test", "--locked", "--release", "--workspace", "--no-run"]);
    let messages = compile::run(&mut cargo, total, log)?;
    Ok((Program::read_all(&messages)?, process::refuse_warnings(log)))
}

/// The batches in the order in which they run, and an error message for each
/// test whose name does not say what it needs.
fn batches(programs: &[Program], filter: Option<&str>) -> (Vec<Batch>, Vec<String>) {
    let wanted = |test: &&String| filter.is_none_or(|filter| test.contains(filter));
    let mut batches = Vec::new();
    for needs in [Needs::Nothing, Needs::Kernel, Needs::Lab] {
        let of = |program: &Program| -> Vec<String> {
            let tests = program.tests.iter().filter(|test| Needs::of(test) == Some(needs));
            tests.filter(wanted).cloned().collect()
        };
        let found = programs.iter().map(|program| Batch::new(program, needs, of(program)));
        batches.extend(found.filter(|batch| !batch.tests.is_empty()));
    }
    let misnamed = programs.iter().flat_map(|program| {
        let tests = program.tests.iter().filter(|test| Needs::of(test).is_none());
        tests.map(|test| {
            format!("{} {test}: the name of a test must begin with unit_, kernel_ or lab_", program.name)
        })
    });
    (batches, misnamed.collect())
}

fn run_with_root(steps: &mut Steps, batches: &[Batch], with_demo: bool) -> Result<Vec<String>> {
    let run = Run::begin()?;
    let mut failed = run_all(steps, "kernel and lab tests", batches, &run.environment())?;
    if with_demo {
        let shown = steps.run("demo", |log| demo::check(&run.lab("demo"), log));
        failed.extend(shown.err().map(|error| format!("{error:#}")));
    }
    process::restore_owner()?;
    let leaks = run.end()?;
    if leaks.is_empty() {
        println!("      leak check: passed");
    }
    failed.extend(leaks.into_iter().map(|leak| format!("leak check: left behind: {leak}")));
    Ok(failed)
}

/// Runs the batches one after the other; returns the names of those that failed.
fn run_all(steps: &mut Steps, name: &str, batches: &[Batch], environment: &[String]) -> Result<Vec<String>> {
    let run = |log: &Log| {
        let numbered = batches.iter().enumerate().map(|(number, batch)| {
            log.progress(format!("{} of {} test executables: {}", number + 1, batches.len(), batch.name));
            batch.run(log, environment)
        });
        numbered.collect::<Result<Vec<_>>>()
    };
    let outcomes = steps.run(name, run)?;
    for outcome in &outcomes {
        println!("      {:<28} {}", outcome.name, outcome.closing_line);
        outcome.skipped().for_each(|line| println!("      {:<28} {line}", ""));
    }
    let sum = |what| outcomes.iter().map(|outcome| outcome.count(what)).sum::<u64>();
    println!("      {name}: {} passed, {} failed, {} ignored", sum("passed"), sum("failed"), sum("ignored"));
    let failed = outcomes.into_iter().filter(|outcome| !outcome.passed);
    Ok(failed.inspect(|outcome| eprintln!("{}", outcome.failures())).map(|outcome| outcome.name).collect())
}

fn print_skipped(batches: &[Batch]) {
    println!("\nskipped: these tests need root:");
    for batch in batches {
        batch.tests.iter().for_each(|test| println!("  {}  {test}", batch.name));
    }
}

fn verdict(failed: &[String], complete: bool) -> Result<()> {
    if !failed.is_empty() {
        bail!("{} failed:\n  {}", failed.len(), failed.join("\n  "));
    }
    if !complete {
        bail!("only the pure tests ran: run as root or with sudo for the others; PURE=1 leaves them out");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_the_name_of_each_test_says_when_it_runs() {
        let tests = ["a::unit_x", "kernel_y", "lab_z", "surprise"].map(str::to_owned).to_vec();
        let program = Program { name: "crate program".into(), path: "/p".into(), folder: "/".into(), tests };
        let (found, misnamed) = batches(std::slice::from_ref(&program), None);
        let found: Vec<_> = found.iter().map(|batch| (batch.needs, batch.tests.join(" "))).collect();
        let expected = [
            (Needs::Nothing, "a::unit_x".to_owned()),
            (Needs::Kernel, "kernel_y".to_owned()),
            (Needs::Lab, "lab_z".to_owned()),
        ];
        assert_eq!(found, expected);
        assert!(misnamed.len() == 1 && misnamed[0].contains("surprise"), "{misnamed:?}");
        assert_eq!(batches(&[program], Some("kernel")).0.len(), 1);
    }

    #[test]
    fn unit_an_incomplete_run_is_an_error() {
        assert!(verdict(&[], true).is_ok());
        assert!(verdict(&[], false).is_err());
        assert!(verdict(&["a".into()], true).is_err());
    }
}
