mod custom;
mod service;

use ipnet::IpNet;
use serde_json::json;

use super::Api;

/// An API with the namespace `default`.
pub fn api() -> Api {
    let cidrs: Vec<IpNet> = ["10.96.0.0/16", "fd00:10:96::/112"].map(|net| net.parse().unwrap()).into();
    let api = Api::new(1000, &cidrs);
    api.create("namespaces", json!({"metadata": {"name": "default"}})).unwrap();
    api
}
