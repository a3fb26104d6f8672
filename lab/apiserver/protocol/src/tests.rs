use beeline_apiserver_admission::Api;
use beeline_apiserver_controllers::{ClusterConfig, bootstrap};

/// An API with the bootstrap objects.
pub fn cluster() -> Api {
    let config = ClusterConfig::default();
    let api = Api::new(100_000, &config.service_cidrs);
    bootstrap(&api, &config).unwrap();
    api
}
