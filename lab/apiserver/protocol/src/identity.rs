//! Authentication: the static token of the administrator, and signed tokens of service accounts.

mod token;

use std::collections::BTreeMap;

use beeline_apiserver_admission::Api;
use beeline_apiserver_objects::ObjectKey;
use beeline_apiserver_objects::object::{self, MASTERS};
use serde_json::{Value, json};

pub use token::Signer;
pub(crate) use token::{BoundObject, Claims, ISSUER};

const AUTHENTICATED: &str = "system:authenticated";

/// How long after the deletion time of a pod its tokens stay valid, as in Kubernetes: allows for
/// clock skew.
const LEEWAY_SECONDS: i64 = 60;

/// User information for authorization.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// Uid of a service account.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further attributes.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The administrator, with the user name of kubeadm.
    pub fn admin() -> Self {
        let groups = vec![MASTERS.to_owned(), AUTHENTICATED.to_owned()];
        Self { name: "kubernetes-admin".to_owned(), groups, ..Self::default() }
    }

    /// Whether the user is a member of the group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// An impersonated user.
    pub fn impersonated(name: &str, mut groups: Vec<String>) -> Self {
        if let Some((namespace, _)) = service_account(name).filter(|_| groups.is_empty()) {
            groups = service_account_groups(namespace);
        }
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// The user as reviews show it.
    pub fn to_json(&self) -> Value {
        let mut user = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            user["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            user["extra"] = json!(self.extra);
        }
        user
    }
}

/// Namespace and name of the service account of a user name.
pub fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

fn service_account_groups(namespace: &str) -> Vec<String> {
    let own = format!("system:serviceaccounts:{namespace}");
    vec!["system:serviceaccounts".to_owned(), own, AUTHENTICATED.to_owned()]
}

/// Authenticates bearer tokens.
pub struct Authenticator {
    api: Api,
    admin_token: String,
    signer: Signer,
}

impl Authenticator {
    /// Accepts this token as that of the administrator, and the tokens that `signer` signed.
    pub fn new(api: Api, admin_token: String, signer: Signer) -> Self {
        Self { api, admin_token, signer }
    }

    /// Signs tokens of service accounts.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Returns the user of a token and those of the requested audiences that it is valid for, or the
    /// reason why it is invalid.
    pub fn authenticate(&self, token: &str, audiences: &[&str]) -> Result<(User, Vec<String>), String> {
        if constant_time_eq(token.as_bytes(), self.admin_token.as_bytes()) {
            return Ok((User::admin(), audiences.iter().map(|&one| one.to_owned()).collect()));
        }
        let claims = self.signer.verify(token, object::seconds_since_epoch())?;
        let accepted: Vec<String> =
            claims.audiences.iter().filter(|&one| audiences.contains(&one.as_str())).cloned().collect();
        if accepted.is_empty() {
            let (has, requested) = (&claims.audiences, audiences);
            return Err(format!(
                "token audiences {has:?} are invalid for the target audiences {requested:?}"
            ));
        }
        self.check_bindings(&claims)?;
        Ok((user_of(claims), accepted))
    }

    /// A token is valid only as long as the objects that it is bound to exist.
    fn check_bindings(&self, claims: &Claims) -> Result<(), String> {
        let namespace = &claims.namespace;
        self.check_object("serviceaccounts", namespace, &claims.service_account)?;
        for (kind, namespace, bound) in
            [("pods", namespace.as_str(), &claims.pod), ("secrets", namespace, &claims.secret)]
        {
            if let Some(bound) = bound {
                self.check_object(kind, namespace, bound)?;
            }
        }
        match &claims.node {
            // In a pod's token the node is informational.
            Some(node) if claims.pod.is_none() => self.check_object("nodes", "", node),
            _ => Ok(()),
        }
    }

    fn check_object(&self, kind: &str, namespace: &str, bound: &BoundObject) -> Result<(), String> {
        let key = ObjectKey::new(namespace, &bound.name);
        let found = self.api.get(kind, namespace, &bound.name);
        let found = found.map_err(|_| format!("the token is bound to {kind} {key}, which does not exist"))?;
        if object::uid(&found) != bound.uid {
            return Err(format!("the token is bound to {kind} {key}, which was deleted and recreated"));
        }
        let ends = object::parse_time(object::str_at(&found, "/metadata/deletionTimestamp"));
        if ends.is_some_and(|ends| ends + LEEWAY_SECONDS < object::seconds_since_epoch()) {
            return Err(format!("the token is bound to {kind} {key}, which is being deleted"));
        }
        Ok(())
    }
}

fn user_of(claims: Claims) -> User {
    const PREFIX: &str = "authentication.kubernetes.io/";
    let (namespace, account) = (claims.namespace, claims.service_account);
    let mut extra = BTreeMap::new();
    extra.insert(format!("{PREFIX}credential-id"), vec![format!("JTI={}", claims.id)]);
    for (kind, bound) in [("pod", claims.pod), ("node", claims.node)] {
        if let Some(bound) = bound {
            extra.insert(format!("{PREFIX}{kind}-name"), vec![bound.name]);
            extra.insert(format!("{PREFIX}{kind}-uid"), vec![bound.uid]);
        }
    }
    let name = format!("system:serviceaccount:{namespace}:{}", account.name);
    User { name, uid: account.uid, groups: service_account_groups(&namespace), extra }
}

/// Compares in constant time, so that timing does not reveal the token.
fn constant_time_eq(left: &[u8], right: &[u8]) -> bool {
    let difference = left.iter().zip(right).fold(0, |difference, (left, right)| difference | (left ^ right));
    left.len() == right.len() && std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::cluster;

    const LIFETIME_SECONDS: i64 = 600;

    struct Cluster {
        api: Api,
        authenticator: Authenticator,
    }

    fn start() -> Cluster {
        let api = cluster();
        for (kind, name) in [("serviceaccounts", "robot"), ("secrets", "bound")] {
            api.create(kind, json!({"metadata": {"name": name}})).unwrap();
        }
        let spec = json!({"serviceAccountName": "robot", "containers": [{"name": "a", "image": "b"}]});
        api.create("pods", json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
        let authenticator = Authenticator::new(api.clone(), "secret".to_owned(), Signer::generate().unwrap());
        Cluster { api, authenticator }
    }

    fn bound(api: &Api, kind: &str, name: &str) -> BoundObject {
        BoundObject {
            name: name.to_owned(),
            uid: object::uid(&api.get(kind, "default", name).unwrap()).to_owned(),
        }
    }

    fn claims(api: &Api) -> Claims {
        let account = bound(api, "serviceaccounts", "robot");
        Claims::new(
            "default",
            account,
            vec![ISSUER.to_owned()],
            object::seconds_since_epoch(),
            LIFETIME_SECONDS,
        )
    }

    #[test]
    fn unit_the_admin_token_authenticates_the_admin() {
        let Cluster { authenticator, .. } = start();
        let (user, audiences) = authenticator.authenticate("secret", &[ISSUER]).unwrap();
        assert!(user.is_in(MASTERS));
        assert_eq!(audiences, [ISSUER]);
        for wrong in ["secre", "secrets", "", "a.b.c"] {
            assert!(authenticator.authenticate(wrong, &[ISSUER]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn unit_a_service_account_token_authenticates_the_account() {
        let Cluster { api, authenticator } = start();
        let token =
            authenticator.signer().sign(&Claims { pod: Some(bound(&api, "pods", "web")), ..claims(&api) });
        let (user, _) = authenticator.authenticate(&token, &[ISSUER, "other"]).unwrap();
        assert_eq!(user.name, "system:serviceaccount:default:robot");
        let groups = ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"];
        assert_eq!(user.groups, groups);
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["web"]);
    }

    #[test]
    fn unit_a_token_is_invalid_after_its_bound_object_is_deleted() {
        let Cluster { api, authenticator } = start();
        let immediately =
            beeline_apiserver_admission::DeleteOptions { grace_seconds: Some(0), ..Default::default() };
        let pods =
            authenticator.signer().sign(&Claims { pod: Some(bound(&api, "pods", "web")), ..claims(&api) });
        let secrets = authenticator
            .signer()
            .sign(&Claims { secret: Some(bound(&api, "secrets", "bound")), ..claims(&api) });
        let accounts = authenticator.signer().sign(&claims(&api));
        api.delete("pods", "default", "web", &immediately).unwrap();
        assert!(
            authenticator
                .authenticate(&pods, &[ISSUER])
                .unwrap_err()
                .contains("pods default/web, which does not exist")
        );
        assert!(authenticator.authenticate(&secrets, &[ISSUER]).is_ok());
        api.delete("secrets", "default", "bound", &immediately).unwrap();
        assert!(authenticator.authenticate(&secrets, &[ISSUER]).is_err());
        assert!(authenticator.authenticate(&accounts, &[ISSUER]).is_ok());
        api.delete("serviceaccounts", "default", "robot", &immediately).unwrap();
        api.create("serviceaccounts", json!({"metadata": {"name": "robot"}})).unwrap();
        assert!(authenticator.authenticate(&accounts, &[ISSUER]).unwrap_err().contains("recreated"));
    }

    #[test]
    fn unit_a_token_is_valid_for_its_audiences_only() {
        let Cluster { api, authenticator } = start();
        let token =
            authenticator.signer().sign(&Claims { audiences: vec!["vault".to_owned()], ..claims(&api) });
        assert!(authenticator.authenticate(&token, &[ISSUER]).unwrap_err().contains("vault"));
        assert_eq!(authenticator.authenticate(&token, &["vault", "x"]).unwrap().1, ["vault"]);
    }
}
