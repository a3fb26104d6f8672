//! Every test. A test's name says what it needs: `unit_*` runs anywhere,
//! `kernel_*` and `lab_*` need root.

mod bare;
mod batch;
mod lints;
mod outcome;
mod run;

use anyhow::{Result, bail};

use crate::steps::{Log, Steps};
use crate::{binaries, committed, demo, ebpf, fuzz, process};
use batch::Batch;
pub use batch::{Needs, Program};
pub use outcome::Outcome;
use run::Run;

/// `cargo xtask test`.
pub fn chore(filter: Option<&str>) -> Result<()> {
    let pure_is_enough = std::env::var("PURE").is_ok_and(|value| value == "1");
    let rooted = !pure_is_enough && process::may_become_root();
    let fuzzing = fuzz::is_present();
    let mut steps =
        Steps::new(if rooted { 6 + usize::from(filter.is_none()) } else { 3 } + usize::from(fuzzing));
    let mut failed = Vec::new();
    let told = |result: Result<()>| result.err().map(|error| format!("{error:#}"));
    if rooted {
        failed.extend(told(ebpf::check(&binaries::step(&mut steps)?)));
    }
    let (programs, warnings) = steps.run("tests built", build)?;
    failed.extend(told(warnings));
    failed.extend(told(lints::check(&mut steps)));
    let (batches, misnamed) = batches(&programs, filter);
    failed.extend(misnamed);
    let (pure, with_root): (Vec<_>, Vec<_>) =
        batches.into_iter().partition(|batch| batch.needs == Needs::Nothing);
    failed.extend(run_all(&mut steps, "pure tests", &pure, &[])?);
    if fuzzing {
        failed.extend(told(fuzz::check(&mut steps)));
    }
    if rooted {
        failed.extend(run_with_root(&mut steps, &with_root, filter.is_none())?);
    }
    committed::notes().iter().for_each(|note| println!("      note: {note}"));
    if !rooted {
        say_what_did_not_run(&with_root);
    }
    verdict(&failed, rooted || pure_is_enough)
}

/// The programs, and an error if the compiler warned.
fn build(log: &Log) -> Result<(Vec<Program>, Result<()>)> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--locked", "--release", "--workspace", "--no-run"]);
    let messages = process::output(cargo.arg("--message-format=json-render-diagnostics"), log)?;
    Ok((Program::read_all(&messages)?, process::refuse_warnings(log)))
}

/// What is to be run, the quick and harmless first, and a complaint for each
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
            format!(
                "{} {test}: its name begins with neither unit_, kernel_ nor lab_, so that nobody knows what it needs",
                program.name
            )
        })
    });
    (batches, misnamed.collect())
}

fn run_with_root(steps: &mut Steps, batches: &[Batch], rehearses: bool) -> Result<Vec<String>> {
    let run = Run::begin()?;
    let mut failed = run_all(steps, "kernel and lab tests", batches, &run.environment())?;
    if rehearses {
        let played = steps.run("the demo", |log| demo::rehearse(&run.lab("demo"), log));
        failed.extend(played.err().map(|error| format!("{error:#}")));
    }
    process::give_tree_back()?;
    let leaks = run.end()?;
    if leaks.is_empty() {
        println!("      leak check: nothing was left behind");
    }
    failed.extend(leaks.into_iter().map(|leak| format!("leak check: left behind: {leak}")));
    Ok(failed)
}

/// Runs the batches one after the other; returns the names of what failed.
fn run_all(steps: &mut Steps, name: &str, batches: &[Batch], environment: &[String]) -> Result<Vec<String>> {
    let run = |log: &Log| batches.iter().map(|batch| batch.run(log, environment)).collect::<Result<Vec<_>>>();
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

fn say_what_did_not_run(batches: &[Batch]) {
    println!("\nNot run, because they need root:");
    for batch in batches {
        batch.tests.iter().for_each(|test| println!("  {}  {test}", batch.name));
    }
}

fn verdict(failed: &[String], complete: bool) -> Result<()> {
    if !failed.is_empty() {
        bail!("{} failed:\n  {}", failed.len(), failed.join("\n  "));
    }
    if !complete {
        bail!(
            "only the pure tests ran; run as root (or with sudo) for the others, or be content with these: PURE=1"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_the_name_of_each_test_says_when_it_runs() {
        let tests = ["a::unit_x", "kernel_y", "lab_z", "surprise"].map(str::to_owned).to_vec();
        let program = Program { name: "room program".into(), path: "/p".into(), folder: "/".into(), tests };
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
    fn unit_an_incomplete_run_is_no_success() {
        assert!(verdict(&[], true).is_ok());
        assert!(verdict(&[], false).is_err());
        assert!(verdict(&["a".into()], true).is_err());
    }
}
