//! Time to plan and program 10,000 Services, measured separately, with empty
//! maps and with maps that already hold the Services.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use beeline_kernel::datapath::Datapath;
use beeline_model::{Change, EndpointSlice, Kind, Object, Service};
use beeline_plan::{PlanConfig, Planner, ServiceConfig};
use beeline_sync::{Prune, Reconciler};
use serde_json::json;

use crate::stats::Summary;
use crate::veth::{TempBpffs, TempNetNs};

const SERVICES: u32 = 10_000;
const ROUNDS: usize = 5;

/// Prints the times, measured in a namespace below `folder`.
pub fn measure(folder: &Path) -> Result<()> {
    let (_bound, host) = TempNetNs::new(folder.join("plan-host"))?;
    let mount = TempBpffs::new(folder.join("plan-bpf"))?;
    host.enter(|| -> Result<()> {
        let [mut plan, mut write, mut read, mut warm] = [const { Vec::new() }; 4];
        let mut entries = 0;
        for round in 0..ROUNDS {
            let mut datapath = Datapath::open(&mount.path().join(round.to_string()))?;
            let mut reconciler = Reconciler::new();
            let mut planner = Planner::new(config());
            let objects = objects()?;
            let begin = Instant::now();
            apply_all(&mut planner, objects);
            let delta = planner.drain();
            plan.push(begin.elapsed().as_secs_f64());
            let begin = Instant::now();
            entries = reconciler.apply(delta, &mut datapath).written;
            write.push(begin.elapsed().as_secs_f64());

            let objects = self::objects()?;
            let begin = Instant::now();
            let mut reconciler = Reconciler::new();
            reconciler.resync(&mut datapath, Prune::Keep);
            let mut planner = Planner::new(config());
            planner.adopt(&reconciler.actual());
            read.push(begin.elapsed().as_secs_f64());
            let begin = Instant::now();
            apply_all(&mut planner, objects);
            let written = reconciler.apply(planner.drain(), &mut datapath).written;
            warm.push(begin.elapsed().as_secs_f64());
            anyhow::ensure!(written == 0, "a restart rewrote {written} entries that were up to date");
        }
        println!(
            "{SERVICES} Services with 3 endpoints each, seconds ({ROUNDS} rounds, {entries} table entries)"
        );
        println!("  empty tables: planned {}, written {}", Seconds(&plan), Seconds(&write));
        println!("  full tables: read back {}, planned and compared {}", Seconds(&read), Seconds(&warm));
        Ok(())
    })?
}

/// Median and quartiles with three decimal places.
struct Seconds<'a>(&'a [f64]);

impl std::fmt::Display for Seconds<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary { median, low, high, .. } = Summary::of(self.0);
        write!(f, "{median:.3} ({low:.3} to {high:.3})")
    }
}

fn config() -> PlanConfig {
    PlanConfig {
        node_name: "node-1".into(),
        services: ServiceConfig { node_ports: true, ..Default::default() },
        ..Default::default()
    }
}

fn apply_all(planner: &mut Planner, objects: Vec<Object>) {
    Kind::ALL.iter().for_each(|kind| planner.apply(Change::ResetStart(*kind)));
    objects.into_iter().for_each(|object| planner.apply(Change::Apply(Box::new(object))));
    Kind::ALL.iter().for_each(|kind| planner.apply(Change::ResetEnd(*kind)));
}

/// Services and their EndpointSlices, as `source` delivers them.
fn objects() -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for number in 0..SERVICES {
        let name = json!({"namespace": "default", "name": format!("s-{number}")});
        let service: Service = serde_json::from_value(json!({
            "name": name, "service_type": "ClusterIp",
            "cluster_ips": [std::net::Ipv4Addr::from(0x0a60_0100 + number)],
            "ports": [{"name": "", "protocol": "Tcp", "port": 80, "node_port": 0}], "affinity_s": null,
            "internal_local": false, "publish_not_ready": false, "load_balancer_ips": [], "external_ips": []
        }))?;
        let endpoints = [0, 1, 2].map(|end| {
            json!({"ip": std::net::Ipv4Addr::from(0x0af4_0000 + 3 * number + end), "ready": true,
                "serving": true, "terminating": false, "node": null, "zone": null, "pod": null})
        });
        let slice: EndpointSlice = serde_json::from_value(json!({
            "name": name, "service": format!("s-{number}"), "ipv6": false,
            "ports": [{"name": "", "protocol": "Tcp", "port": 8080}], "endpoints": endpoints
        }))?;
        objects.extend([Object::Service(service), Object::EndpointSlice(slice)]);
    }
    Ok(objects)
}
