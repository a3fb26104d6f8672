//! Kubeconfig files. They contain the token: store them with mode 0600.

use base64::Engine;
use serde_json::json;

/// A kubeconfig with one server, CA certificate and token.
pub fn render(server_url: &str, ca_pem: &str, token: &str) -> String {
    let ca = base64::engine::general_purpose::STANDARD.encode(ca_pem);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         current-context: beeline-lab\n\
         clusters:\n\
         - name: beeline-lab\n\
         \x20 cluster:\n\
         \x20   server: {server}\n\
         \x20   certificate-authority-data: {ca}\n\
         contexts:\n\
         - name: beeline-lab\n\
         \x20 context:\n\
         \x20   cluster: beeline-lab\n\
         \x20   namespace: default\n\
         \x20   user: beeline-lab\n\
         users:\n\
         - name: beeline-lab\n\
         \x20 user:\n\
         \x20   token: {token}\n",
        server = json!(server_url),
        token = json!(token),
    )
}
