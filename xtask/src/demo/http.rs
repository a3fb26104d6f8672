//! HTTP requests from a pod: one that a Service answers, and one to a port that
//! the Service does not have.

use std::io::Write;
use std::process::Output;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::counters;
use super::devices::Devices;
use super::flow::show_hop;
use super::objects::Objects;
use super::{Lab, json, list, text};
use crate::{paths, process};

/// The Service of the example, as pods know it.
const HOST: &str = "hello.default.svc.cluster.local";
/// A port that the Service does not have.
const UNKNOWN_PORT: &str = "81";
/// curl's exit status for a refused connection.
const CURL_REFUSED: i32 = 7;

/// Sends a request to the Service by its name.
pub fn show_request(lab: &Lab, objects: &Objects, out: &mut dyn Write) -> Result<()> {
    let url = format!("http://{HOST}/");
    let output = curl(lab, objects, &url, "%{remote_ip}", out)?;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr).trim());
    let printed = String::from_utf8_lossy(&output.stdout);
    let (answer, address) = printed.rsplit_once('\n').context("curl printed no answer")?;
    writeln!(out, "   {}", answer.trim())?;
    ensure!(
        objects.service.iter().any(|ip| ip == address),
        "{HOST} is {address}, which is not an address of the Service ({})",
        objects.service.join(", ")
    );
    let answer: Value = serde_json::from_str(answer).context("the answer is not JSON")?;
    writeln!(
        out,
        "   The lab's DNS server resolved {HOST} to {address}, an address of the Service;\n   \
         the request reached its endpoint {} on {}, which saw the client {} ({}).",
        text(&answer["pod"]),
        text(&answer["node"]),
        text(&answer["client"]),
        objects.client.name
    )?;
    Ok(())
}

/// Connects to a port that the Service does not have.
pub fn show_refusal(lab: &Lab, objects: &Objects, devices: &Devices, out: &mut dyn Write) -> Result<()> {
    let before = counters::read(lab)?;
    let url = format!("http://{HOST}:{UNKNOWN_PORT}/");
    let output = curl(lab, objects, &url, "%{time_total}", out)?;
    ensure!(
        output.status.code() == Some(CURL_REFUSED),
        "curl ended with {}, not with a refused connection",
        output.status
    );
    writeln!(out, "   {}", String::from_utf8_lossy(&output.stderr).trim())?;
    let seconds = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    writeln!(out, "   It failed at once, after {seconds} s, instead of waiting for a timeout.")?;
    let grown = counters::increase(&before, &counters::read(lab)?);
    let refused =
        grown.iter().filter(|((node, _, outcome), _)| *node == objects.client.node && outcome == "answered");
    refused
        .clone()
        .try_for_each(|(key, increase)| writeln!(out, "   {}", counters::describe(key, *increase)))?;
    ensure!(refused.count() > 0, "no hook counted the refusal; all that grew: {grown:?}");
    show_reason(lab, objects, devices, out)
}

/// The reason, from `beeline explain`, and its entry in the list of reasons.
fn show_reason(lab: &Lab, objects: &Objects, devices: &Devices, out: &mut dyn Write) -> Result<()> {
    let to = objects.service.first().context("the Service has no address")?;
    let from = format!("default/{}", objects.client.name);
    let arguments = ["--from", &from, "--to", to, "--port", UNKNOWN_PORT];
    writeln!(out, "   $ ./beeline explain {}", arguments.join(" "))?;
    let explanation = json(lab.beeline(&["explain"]).args(arguments).args(["-o", "json"]))?;
    let reason = list(&explanation["hops"]).find_map(|hop| hop["reason"].as_str());
    let reason = reason.with_context(|| format!("no reason for a refusal in {explanation}"))?;
    list(&explanation["hops"]).try_for_each(|hop| show_hop(hop, devices, out))?;
    writeln!(out, "   {}", text(&explanation["end"]))?;
    let (cause, remedy) = documented(reason)?;
    writeln!(out, "   reason {reason}: {cause}\n      {remedy}")?;
    Ok(())
}

/// Cause and remedy of a drop reason, from the page that `beeline` generates.
fn documented(reason: &str) -> Result<(String, String)> {
    let mut command = std::process::Command::new(paths::binary("beeline"));
    let output = command.args(["docs", "drop-reasons"]).output();
    let output = output.with_context(|| format!("cannot start {}", process::name(&command)))?;
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    match row(&page, reason) {
        Some(found) => Ok(found),
        None => bail!("`beeline docs drop-reasons` has no row for {reason}"),
    }
}

/// The row `| ...NAME... | cause | remedy |` of a table in Markdown.
fn row(page: &str, reason: &str) -> Option<(String, String)> {
    let name = format!("`{reason}`");
    page.lines().find_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        cells.next().filter(|cell| cell.ends_with(&name))?;
        Some((cells.next()?.to_owned(), cells.next()?.to_owned()))
    })
}

/// Runs curl in the client's pod, and prints the command.
fn curl(lab: &Lab, objects: &Objects, url: &str, write_out: &str, out: &mut dyn Write) -> Result<Output> {
    let pod = &objects.client.name;
    writeln!(out, "   $ ./beeline lab exec {pod} -- curl -sS {url}")?;
    let mut command = lab.run(&["exec", pod, "--", "curl", "-sS", "--max-time", "5", "-w", write_out, url]);
    command.output().with_context(|| format!("cannot start {}", process::name(&command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_a_reason_is_found_in_the_generated_page() {
        let page = "| reason | cause | remedy |\n|---|---|---|\n\
            | <a id=\"no_backend\"></a>`no_backend` | No endpoint is ready. | Check the selector. |\n";
        let found = ("No endpoint is ready.".to_owned(), "Check the selector.".to_owned());
        assert_eq!(row(page, "no_backend"), Some(found));
        assert_eq!(row(page, "backend"), None);
    }
}
