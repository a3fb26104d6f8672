//! What the programs of a control plane are given so that they and their clients trust each other.

use std::net::IpAddr;

use rcgen::KeyPair;

use crate::server::{Certificate, StartError, random_token};
use crate::{kubeconfig, tls};

/// Certificate, keys and token of a new control plane.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The API server's.
    pub certificate: Certificate,
    /// The key that signs the tokens of service accounts, as PEM.
    pub service_account_key_pem: String,
    /// Its public half.
    pub service_account_public_pem: String,
    /// The administrator's token.
    pub token: String,
}

impl Credentials {
    /// Makes them for an API server that is reached at these addresses and on loopback.
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

    /// The administrator's kubeconfig for the API server under this URL. It holds the token: write it
    /// 0600.
    pub fn kubeconfig(&self, server_url: &str) -> String {
        kubeconfig::render(server_url, &self.certificate.ca_pem, &self.token)
    }
}
