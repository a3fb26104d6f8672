//! Access to the objects of a remote API server: reads come from a mirror that watches update, writes
//! are sent over HTTP. Controllers and manifests use the same [`Api`] for both.
//!
//! Writes block the calling thread, which must belong to a multi-threaded tokio runtime. The response
//! is written to the mirror at once, so that callers read their own writes.

mod mirror;
mod write;

use beeline_apiserver_admission::Api;
use beeline_apiserver_controllers::Controllers;
use beeline_apiserver_schema::Kinds;
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;

use super::config::Config;
use write::RemoteClient;

/// A remote API server and the mirror of its objects.
pub struct RemoteApi {
    api: Api,
    client: Client,
}

impl RemoteApi {
    /// Creates the mirror, which stays empty until [`RemoteApi::run`].
    pub fn new(client: Client, config: &Config) -> Self {
        let remote = RemoteClient::new(client.clone());
        let api = Api::mirror(config.log_max, Box::new(remote));
        Self { api, client }
    }

    /// Access to the objects, complete after the first lists of [`RemoteApi::run`].
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Mirrors the objects and runs the components that `config` names, until the future is dropped.
    /// `ca_pem` is the CA certificate that is published to pods. (Boxed so that it is compiled in
    /// this crate only.)
    pub fn run<'a>(&'a self, config: &'a Config, ca_pem: &'a str) -> BoxFuture<'a, ()> {
        let run = async move {
            let listed = mirror::Listed::default();
            let mirrored = mirror::run(&self.api, &self.client, &listed);
            let controlled = async {
                listed.wait_for_count(Kinds::built_in().iter().count()).await;
                Controllers::new(&self.api, &config.cluster(), ca_pem).run().await;
            };
            tokio::join!(mirrored, controlled);
        };
        run.boxed()
    }
}
