//! What the demo shows: every kind of way that a packet takes, one scene each.

use anyhow::Result;

use super::cast::{Cast, Pod};
use super::show;

/// Plays every scene in front of the reader; returns how many failed.
pub fn play(cast: &Cast) -> Result<usize> {
    Ok(scenes(cast).iter().filter(|scene| !scene.play()).count())
}

fn scenes(cast: &Cast) -> Vec<Scene> {
    let mut scenes = Vec::new();
    scenes.extend(Scene::pings("pod to pod on one node", &cast.caller, &cast.same_node));
    scenes.extend(Scene::pings("pod to pod across nodes", &cast.caller, &cast.other_node));
    for address in &cast.service {
        scenes.push(Scene::in_pod("pod to Service", &cast.caller, get(address, 80)));
    }
    for address in &cast.other_node.addresses {
        scenes.push(Scene::new(
            "a client outside the cluster to a pod",
            &["client", "--"],
            get(address, 8080),
        ));
    }
    scenes
}

/// One thing to see: a command in front of the reader.
struct Scene {
    title: String,
    arguments: Vec<String>,
}

impl Scene {
    fn new(title: &str, place: &[&str], command: Vec<String>) -> Self {
        let place = place.iter().map(|word| (*word).to_owned());
        Self { title: title.to_owned(), arguments: place.chain(command).collect() }
    }

    fn in_pod(title: &str, pod: &Pod, command: Vec<String>) -> Self {
        Self::new(title, &["exec", &pod.name, "--"], command)
    }

    fn pings(title: &str, from: &Pod, to: &Pod) -> Vec<Self> {
        to.addresses.iter().map(|address| Self::in_pod(title, from, ping(address))).collect()
    }

    fn play(&self) -> bool {
        println!("\n-- {}", self.title);
        let words: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let passed = show(&words).unwrap_or(false);
        println!();
        if !passed {
            eprintln!("   this did not work");
        }
        passed
    }
}

fn ping(address: &str) -> Vec<String> {
    words(&format!("ping -n -c 3 -i 0.2 -W 2 {address}"))
}

fn get(address: &str, port: u16) -> Vec<String> {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    words(&format!("curl --silent --show-error --max-time 5 http://{host}:{port}/"))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
