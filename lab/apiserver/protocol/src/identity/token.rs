//! Service account tokens: JSON Web Tokens (RFC 7519) signed with ES256, with the claims of
//! Kubernetes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use beeline_apiserver_objects::object::{self, str_at, strs_at};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};

/// Issuer of the tokens, and audience of the API server.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Maximum length of a token; longer ones are refused unparsed.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// Name and uid of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BoundObject {
    pub name: String,
    pub uid: String,
}

/// Claims of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub id: String,
    pub audiences: Vec<String>,
    pub namespace: String,
    pub service_account: BoundObject,
    pub pod: Option<BoundObject>,
    pub secret: Option<BoundObject>,
    pub node: Option<BoundObject>,
    /// Seconds since the epoch.
    pub issued_at: i64,
    pub expires_at: i64,
}

impl Claims {
    /// Claims of a service account without further bound objects.
    pub fn new(
        namespace: &str,
        service_account: BoundObject,
        audiences: Vec<String>,
        now: i64,
        seconds: i64,
    ) -> Self {
        Self {
            id: object::new_uid(),
            audiences,
            namespace: namespace.to_owned(),
            service_account,
            pod: None,
            secret: None,
            node: None,
            issued_at: now,
            expires_at: now.saturating_add(seconds),
        }
    }

    fn to_json(&self) -> Value {
        let bound = |bound: &BoundObject| json!({"name": bound.name, "uid": bound.uid});
        let mut own = json!({"namespace": self.namespace, "serviceaccount": bound(&self.service_account)});
        for (kind, object) in [("pod", &self.pod), ("secret", &self.secret), ("node", &self.node)] {
            if let Some(object) = object {
                own[kind] = bound(object);
            }
        }
        json!({
            "iss": ISSUER, "aud": self.audiences, "jti": self.id, "kubernetes.io": own,
            "sub": format!("system:serviceaccount:{}:{}", self.namespace, self.service_account.name),
            "iat": self.issued_at, "nbf": self.issued_at, "exp": self.expires_at,
        })
    }

    /// None if a required claim is missing.
    fn read(claims: &Value) -> Option<Self> {
        let own = claims.get("kubernetes.io")?;
        let bound = |kind: &str| {
            let (name, uid) = (str_at(own, &format!("/{kind}/name")), str_at(own, &format!("/{kind}/uid")));
            (!name.is_empty()).then(|| BoundObject { name: name.to_owned(), uid: uid.to_owned() })
        };
        Some(Self {
            id: str_at(claims, "/jti").to_owned(),
            audiences: strs_at(claims, "/aud").into_iter().map(str::to_owned).collect(),
            namespace: own.get("namespace")?.as_str()?.to_owned(),
            service_account: bound("serviceaccount")?,
            pod: bound("pod"),
            secret: bound("secret"),
            node: bound("node"),
            issued_at: claims.get("nbf")?.as_i64()?,
            expires_at: claims.get("exp")?.as_i64()?,
        })
    }
}

/// The signing key. A new one is generated at every start, which invalidates older tokens.
pub struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
}

impl Signer {
    /// Generates a key. Fails only if the system has no randomness.
    pub fn generate() -> Result<Self, String> {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|_| "the system random number generator failed".to_owned())?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random)
            .map_err(|error| format!("the generated key was rejected: {error}"))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key().as_ref());
        let key_id = BASE64.encode(digest.as_ref());
        Ok(Self { key, random, key_id })
    }

    /// Signs the claims.
    pub(crate) fn sign(&self, claims: &Claims) -> String {
        let header = json!({"alg": "ES256", "kid": self.key_id, "typ": "JWT"});
        let message = format!("{}.{}", encode(&header), encode(&claims.to_json()));
        let signature = self.key.sign(&self.random, message.as_bytes());
        let signature =
            signature.expect("signing fails only without randomness, and the key was generated from it");
        format!("{message}.{}", BASE64.encode(signature.as_ref()))
    }

    /// Verifies signature, issuer and validity period, and returns the claims.
    pub(crate) fn verify(&self, token: &str, now: i64) -> Result<Claims, String> {
        let refuse = |why: &str| Err(format!("invalid bearer token: {why}"));
        if token.len() > TOKEN_BYTES_MAX {
            return refuse("it is too long");
        }
        let Some((message, signature)) = token.rsplit_once('.') else { return refuse("it is not a JWT") };
        let Some((header, claims)) = message.split_once('.') else { return refuse("it is not a JWT") };
        // Only ES256 is accepted, whatever the header names.
        match decode(header) {
            Some(header) if header["alg"] == "ES256" && header["kid"] == self.key_id.as_str() => {}
            Some(_) => return refuse("it was not signed with this server's key"),
            None => return refuse("it is not a JWT"),
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref());
        let signature = BASE64.decode(signature).unwrap_or_default();
        if key.verify(message.as_bytes(), &signature).is_err() {
            return refuse("its signature is invalid");
        }
        let Some(value) = decode(claims) else { return refuse("its claims are not JSON") };
        if value["iss"] != ISSUER {
            return refuse("it was issued by another issuer");
        }
        match Claims::read(&value) {
            Some(claims) if claims.expires_at <= now => refuse("it has expired"),
            Some(claims) if claims.issued_at > now => refuse("it is not valid yet"),
            Some(claims) => Ok(claims),
            None => refuse("it has no service account claims"),
        }
    }

    /// The public key as a JSON Web Key Set (RFC 7517).
    pub fn jwks(&self) -> Value {
        // Uncompressed point: 0x04, then both coordinates.
        let point = self.key.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..65]));
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256", "x": x, "y": y}]})
    }
}

fn encode(value: &Value) -> String {
    BASE64.encode(value.to_string())
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&BASE64.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        let account = BoundObject { name: "robot".to_owned(), uid: "1".to_owned() };
        let mut claims = Claims::new("kube-system", account, vec![ISSUER.to_owned()], 1000, 600);
        claims.pod = Some(BoundObject { name: "web".to_owned(), uid: "2".to_owned() });
        claims
    }

    #[test]
    fn unit_tokens_round_trip() {
        let (signer, claims) = (Signer::generate().unwrap(), claims());
        assert_eq!(signer.verify(&signer.sign(&claims), 1000).unwrap(), claims);
    }

    #[test]
    fn unit_tokens_are_valid_until_they_expire() {
        let signer = Signer::generate().unwrap();
        let token = signer.sign(&claims());
        for (now, why) in [(999, "not valid yet"), (1600, "expired")] {
            assert!(signer.verify(&token, now).unwrap_err().contains(why));
        }
        assert!(signer.verify(&token, 1599).is_ok());
    }

    #[test]
    fn unit_forged_tokens_are_refused() {
        let signer = Signer::generate().unwrap();
        let token = signer.sign(&claims());
        let parts: Vec<&str> = token.split('.').collect();
        let header = |value: Value| format!("{}.{}.{}", encode(&value), parts[1], parts[2]);
        let other = Signer::generate().unwrap().sign(&claims());
        let mut changed = decode(parts[1]).unwrap();
        changed["sub"] = json!("system:serviceaccount:kube-system:admin");
        let forged = [
            header(json!({"alg": "none"})),
            header(json!({"alg": "HS256", "kid": signer.key_id})),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}.{}", parts[0], encode(&changed), parts[2]),
            other,
            token[1..].to_owned(),
            "a.b".to_owned(),
            String::new(),
        ];
        for token in forged {
            assert!(signer.verify(&token, 1000).is_err(), "{token}");
        }
    }

    #[test]
    fn unit_the_public_key_is_published() {
        let keys = Signer::generate().unwrap().jwks();
        let key = &keys["keys"][0];
        assert_eq!((key["kty"].as_str(), key["crv"].as_str()), (Some("EC"), Some("P-256")));
        assert_eq!(BASE64.decode(key["x"].as_str().unwrap()).unwrap().len(), 32);
    }
}
