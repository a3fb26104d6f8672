//! Credentials of a control plane: certificates, service account key and administrator token.

use std::net::IpAddr;

use beeline_apiserver_protocol::{Certificate, kubeconfig, tls};
use rcgen::KeyPair;

use super::config::StartError;

/// Credentials of a new control plane.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Certificate of the API server.
    pub certificate: Certificate,
    /// Private key that signs service account tokens, PEM.
    pub service_account_key_pem: String,
    /// Public key for verifying service account tokens, PEM.
    pub service_account_public_pem: String,
    /// Token of the administrator.
    pub token: String,
}

impl Credentials {
    /// Generates credentials for an API server that is reachable at these addresses and on loopback.
    pub fn generate(addresses: &[IpAddr]) -> Result<Self, StartError> {
        let failed = |error: String| StartError::Certificate(error);
        let certificate = tls::generate(addresses).map_err(|error| failed(error.to_string()))?;
        let key = KeyPair::generate().map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            certificate,
            service_account_key_pem: key.serialize_pem(),
            service_account_public_pem: key.public_key_pem(),
            token: random_token(),
        })
    }

    /// Kubeconfig of the administrator for this server URL. It contains the token: store it with mode
    /// 0600.
    pub fn kubeconfig(&self, server_url: &str) -> String {
        kubeconfig::render(server_url, &self.certificate.ca_pem, &self.token)
    }
}

/// A new token of the administrator.
pub(crate) fn random_token() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}
