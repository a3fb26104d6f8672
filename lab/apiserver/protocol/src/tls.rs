//! Generates a certificate authority and a server certificate.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa};
use rcgen::{KeyPair, KeyUsagePurpose, SanType};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// DNS names of the server certificate.
const NAMES: &[&str] = &[
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// A server certificate and its CA certificate, PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// CA certificate.
    pub ca_pem: String,
    /// Server certificate.
    pub certificate_pem: String,
    /// Private key of the server certificate.
    pub key_pem: String,
}

/// Why the certificate could not be generated.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be generated.
    #[error("cannot generate the certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// It is not PEM.
    #[error("cannot read the certificate or its key: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// rustls refuses it.
    #[error("invalid certificate: {0}")]
    Rustls(#[from] rustls::Error),
}

/// A server certificate for these addresses and `NAMES`, with a new CA.
pub fn generate(addresses: &[IpAddr]) -> Result<Certificate, TlsError> {
    let ca = CertifiedIssuer::self_signed(ca_params(), KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = server_params(addresses)?.signed_by(&key, &ca)?;
    Ok(Certificate { ca_pem: ca.pem(), certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// TLS configuration of the listeners.
pub fn server(certificate: &Certificate) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate.certificate_pem.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "beeline-lab-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn server_params(addresses: &[IpAddr]) -> Result<CertificateParams, rcgen::Error> {
    let names: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    params
        .subject_alt_names
        .extend(loopback.iter().chain(addresses).map(|address| SanType::IpAddress(*address)));
    params.distinguished_name.push(DnType::CommonName, "beeline-lab-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
