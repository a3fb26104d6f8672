//! What the demo shows: every kind of way that a packet takes, one scene each.

use std::io::Write;

use anyhow::Result;

use super::Lab;
use super::cast::{Cast, Pod};
use super::scene::Scene;

/// Where the pods of the example echo datagrams, and where their Service does.
const ECHO_PORT: u16 = 7000;
const SERVICE_PORT: u16 = 7;

/// Plays every scene in front of the reader; returns how many failed.
pub fn play(lab: &Lab, cast: &Cast, out: &mut dyn Write) -> Result<usize> {
    let mut failed = 0;
    for scene in scenes(cast) {
        failed += usize::from(!scene.play(lab, out)?);
    }
    Ok(failed)
}

fn scenes(cast: &Cast) -> Vec<Scene> {
    let to = |title: &'static str, pod: &Pod| -> Vec<Scene> {
        pod.addresses.iter().map(|to| Scene::from_pod(title, &cast.caller, to, ECHO_PORT)).collect()
    };
    let mut scenes = to("pod to pod on one node", &cast.same_node);
    scenes.extend(to("pod to pod across nodes", &cast.other_node));
    let service = |to: &String| Scene::from_pod("pod to Service", &cast.caller, to, SERVICE_PORT);
    scenes.extend(cast.service.iter().map(service));
    scenes.extend(cast.other_node.addresses.iter().map(|to| Scene::from_client(to, ECHO_PORT)));
    scenes
}
