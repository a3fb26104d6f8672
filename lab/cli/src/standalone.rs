//! The embedded API server as a separate process with the flags of
//! kube-apiserver. It is used to test the external control plane on hosts
//! without kube-apiserver. Objects are kept in memory; etcd is not used.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use beeline_apiserver::{ApiServer, Certificate, Component, Config};
use ipnet::IpNet;

/// Serves until it is killed.
pub fn run(flags: &[String]) -> Result<()> {
    let flags = Flags::parse(flags)?;
    let address: IpAddr = flags.value("bind-address")?;
    let port: u16 = flags.value("secure-port")?;
    let config = config(&flags)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let server = ApiServer::start(config)?;
        let listener = TcpListener::bind((address, port))
            .with_context(|| format!("cannot listen on {address} port {port}"))?;
        server.serve(listener)?;
        std::future::pending::<Result<()>>().await
    })
}

/// Only the API server; controllers and scheduler are separate.
fn config(flags: &Flags) -> Result<Config> {
    let ranges: String = flags.value("service-cluster-ip-range")?;
    let ranges = ranges.split(',').map(str::parse::<IpNet>).collect::<Result<Vec<_>, _>>();
    // Format of token files: token, user, uid, groups.
    let tokens = flags.file("token-auth-file")?;
    let token = tokens.split(',').next().filter(|token| !token.is_empty());
    Ok(Config {
        service_cidrs: ranges.context("--service-cluster-ip-range")?,
        control_plane_addresses: vec![flags.value("advertise-address")?],
        control_plane_port: Some(flags.value("secure-port")?),
        token: Some(token.context("the file of --token-auth-file is empty")?.to_owned()),
        certificate: Some(Certificate {
            ca_pem: flags.file("client-ca-file")?,
            certificate_pem: flags.file("tls-cert-file")?,
            key_pem: flags.file("tls-private-key-file")?,
        }),
        components: [Component::CustomResources].into(),
        ..Config::default()
    })
}

/// Flags of the form `--name=value`.
#[derive(Debug, PartialEq, Eq)]
struct Flags(BTreeMap<String, String>);

impl Flags {
    fn parse(words: &[String]) -> Result<Flags> {
        let flag = |word: &String| {
            let pair = word.strip_prefix("--").and_then(|flag| flag.split_once('='));
            let (name, value) =
                pair.with_context(|| format!("invalid flag {word:?}: expected --name=value"))?;
            Ok((name.to_owned(), value.to_owned()))
        };
        Ok(Flags(words.iter().map(flag).collect::<Result<_>>()?))
    }

    fn value<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<T> {
        let Some(text) = self.0.get(name) else { bail!("--{name} is required") };
        text.parse().map_err(|error| anyhow::anyhow!("--{name}={text}: {error}"))
    }

    fn file(&self, name: &str) -> Result<String> {
        let path: String = self.value(name)?;
        std::fs::read_to_string(&path).with_context(|| format!("--{name}: cannot read {path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(words: &[&str]) -> Result<Flags> {
        Flags::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn unit_flags_are_read_as_kubernetes_writes_them() {
        let good = flags(&["--bind-address=::", "--etcd-servers=http://127.0.0.1:2379"]).unwrap();
        assert_eq!(good.value::<IpAddr>("bind-address").unwrap(), "::".parse::<IpAddr>().unwrap());
        assert!(
            good.value::<u16>("secure-port").unwrap_err().to_string().contains("--secure-port is required")
        );
        assert!(flags(&["bind-address=::"]).unwrap_err().to_string().contains("--name=value"));
        let bad = flags(&["--secure-port=x"]).unwrap();
        assert!(bad.value::<u16>("secure-port").unwrap_err().to_string().contains("--secure-port=x"));
    }
}
