//! Filters of the connection tracking table.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Result, bail};
use beeline_abi::conntrack::ConntrackValue;
use clap::Args;

use super::view::View;
use crate::gather;
use crate::live::Live;
use crate::names::{Directory, protocol};
use crate::target::Target;

/// Filter options.
#[derive(Clone, Debug, Default, Args)]
pub struct Filter {
    /// Only connections with this address
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Only connections of this pod, as client or backend
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub pod: Option<String>,
    /// Only connections to this Service or Service port
    #[arg(long, value_name = "NAMESPACE/NAME[:PORT]")]
    pub service: Option<String>,
    /// Only connections of this protocol: tcp, udp, icmp, icmpv6, sctp
    #[arg(long)]
    pub protocol: Option<String>,
    /// Include expired entries that have not been removed yet
    #[arg(long)]
    pub expired: bool,
}

/// A filter with the names of one node.
pub struct Query<'a> {
    /// The filter.
    pub filter: &'a Filter,
    /// The node's names.
    pub names: &'a Directory,
    /// Now, in ticks.
    pub now: u32,
}

impl<'a> Query<'a> {
    /// Fails for a name that this node's agent does not know, because an empty
    /// list would suggest that there are no connections.
    fn new(filter: &'a Filter, names: &'a Directory, now: u32) -> Result<Self> {
        if let Some(pod) = &filter.pod
            && !names.has_pod(pod)
        {
            bail!(
                "pod `{pod}` not found; check its name with `beeline endpoint list`, or use --address, which works \
                 without an agent"
            );
        }
        if let Some(service) = &filter.service
            && service.parse::<u32>().is_err()
            && !names.services().any(|name| is_service_or_port(name, service))
        {
            bail!("Service `{service}` not found; `beeline service list` shows the known Services");
        }
        Ok(Query { filter, names, now })
    }

    /// Whether the filter matches a connection.
    pub fn matches(&self, view: &View, value: &ConntrackValue) -> bool {
        let Filter { address, pod, service, protocol: wanted, expired } = self.filter;
        let addresses = view.addresses();
        (*expired || value.expires > self.now)
            && address.is_none_or(|ip| addresses.contains(&ip))
            && pod.as_ref().is_none_or(|pod| addresses.iter().any(|ip| self.names.pod(*ip) == Some(pod)))
            && service.as_ref().is_none_or(|service| {
                let name = self.names.service(value.service);
                value.service != 0
                    && (name.is_some_and(|name| is_service_or_port(name, service))
                        || service.parse() == Ok(value.service))
            })
            && wanted.as_ref().is_none_or(|wanted| protocol(view.proto).eq_ignore_ascii_case(wanted))
    }
}

/// Reads the matching connections of every target. Fails if no node knows the
/// name in the filter.
pub fn for_each_target<T>(
    filter: &Filter,
    targets: &[Target],
    mut read: impl FnMut(&Target, &Live, &Query<'_>) -> Result<Vec<T>>,
) -> Result<(Vec<T>, ExitCode)> {
    let (mut known, mut unknown) = (false, None);
    let (rows, code) = gather(targets, |target| {
        let (live, names) = (Live::open(target)?, Directory::fetch(target));
        match Query::new(filter, &names, super::now()) {
            Ok(query) => {
                known = true;
                read(target, &live, &query)
            }
            Err(error) => {
                unknown = Some(error);
                Ok(Vec::new())
            }
        }
    });
    match unknown {
        Some(error) if !known => Err(error),
        _ => Ok((rows, code)),
    }
}

/// Whether `wanted` is the Service or the Service port `name`.
fn is_service_or_port(name: &str, wanted: &str) -> bool {
    name == wanted || name.rsplit_once(':').is_some_and(|(service, _)| service == wanted)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use beeline_abi::conntrack::flags;
    use beeline_api::Names;

    use super::super::view::tests::entry;
    use super::*;

    fn names() -> Directory {
        Directory::new(Names {
            pods: vec![("10.244.1.5".parse().unwrap(), "shop/client".into())],
            services: vec![(3, "shop/web:http".into())],
            ..Default::default()
        })
    }

    #[test]
    fn unit_a_connection_matches_by_address_pod_service_and_protocol() {
        let names = names();
        let (key, mut value) =
            entry("10.244.1.5:4000", "10.96.0.7:80", flags::DNAT, "10.244.2.9:8080", "0.0.0.0:0");
        value.service = 3;
        let view = View::of(&key, &value, &HashSet::new());
        let matches = |filter: Filter| Query::new(&filter, &names, 100).unwrap().matches(&view, &value);
        let address = |ip: &str| Filter { address: Some(ip.parse().unwrap()), ..Default::default() };
        let service = |name: &str| Filter { service: Some(name.into()), ..Default::default() };
        assert!(matches(Filter::default()));
        for ip in ["10.244.1.5", "10.96.0.7", "10.244.2.9"] {
            assert!(matches(address(ip)), "{ip}");
        }
        assert!(!matches(address("10.244.9.9")));
        assert!(matches(Filter { pod: Some("shop/client".into()), ..Default::default() }));
        for name in ["shop/web", "shop/web:http", "3"] {
            assert!(matches(service(name)), "{name}");
        }
        assert!(!matches(service("4")));
        assert!(matches(Filter { protocol: Some("tcp".into()), ..Default::default() }));
        assert!(!matches(Filter { protocol: Some("udp".into()), ..Default::default() }));
        let default = Filter::default();
        assert!(!Query::new(&default, &names, 110).unwrap().matches(&view, &value), "the entry has expired");
    }

    #[test]
    fn unit_an_unknown_name_is_an_error() {
        let names = names();
        let refused = |filter: Filter| Query::new(&filter, &names, 0).err().map(|error| error.to_string());
        let pod = refused(Filter { pod: Some("shop/nobody".into()), ..Default::default() }).unwrap();
        assert!(pod.contains("shop/nobody") && pod.contains("--address"), "{pod}");
        let service = refused(Filter { service: Some("shop/we".into()), ..Default::default() }).unwrap();
        assert!(service.contains("beeline service list"), "{service}");
    }
}
