//! The same objects on another server: reads come from a mirror that watches keep, writes go over
//! HTTP. To its users, the controllers and manifests above all, an [`Api`] looks the same either way.
//!
//! Writes wait for their answer on the calling thread, which must be one of a multi-threaded tokio
//! runtime. The answer enters the mirror at once, so that who has written reads what it wrote.

mod mirror;
mod write;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;

use crate::controllers::Controllers;
use crate::server::Config;
use crate::store::{SharedStore, Store};
use crate::{Api, Kinds};

pub(crate) use write::Remote;

/// Another server's objects, and what this side does for it.
pub struct RemoteApi {
    api: Api,
    client: Client,
}

impl RemoteApi {
    /// Reads nothing until [`RemoteApi::run`].
    pub fn new(client: Client, config: &Config) -> Self {
        let store = SharedStore::new(Store::new(config.log_max));
        let remote = Remote::new(client.clone());
        let api = Api::mirror(Kinds::built_in(), store, remote);
        Self { api, client }
    }

    /// The objects: complete once [`RemoteApi::run`] has begun its work.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Mirrors the server's objects and does there what `config` names as components, until it is
    /// dropped. `ca_pem` is the authority that pods are told. (Boxed: it is compiled here alone.)
    pub fn run<'a>(&'a self, config: &'a Config, ca_pem: &'a str) -> BoxFuture<'a, ()> {
        let run = async move {
            let listed = mirror::Listed::default();
            let mirrored = mirror::run(&self.api, &self.client, &listed);
            let controlled = async {
                listed.wait_for_count(Kinds::built_in().iter().count()).await;
                Controllers::new(&self.api, config, ca_pem).run().await;
            };
            tokio::join!(mirrored, controlled);
        };
        run.boxed()
    }
}
